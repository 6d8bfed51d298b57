"""One verb for every source: ``read(path)`` yields its frames, one at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from sonodistill.frames.find import kind_of
from sonodistill.frames.frame import Frame


def read(path: str | Path, *, axis: str | int | None = None, only: Collection[int] | None = None) -> Iterator[Frame]:
    """Read an image, DICOM file, video or volume lazily, frame by frame.

    What a file is follows from its content, then from its suffix. Gray values: colour becomes luma (Rec. 601, as
    Pillow's "L"), 8-bit values stay as they are, 16-bit images are scaled by their full range, 16-bit DICOM by its
    window (else its full stored range), other volumes by the minimum and maximum of the whole volume.

    Args:
        path: the file; use ``find_files`` for folders.
        axis: which axis of a volume to cut across: "axial", "coronal", "sagittal", or 0, 1, 2 in numpy order.
            The default is 0, the slowest axis, along which sequences are stored. "rotational:N" and
            "oblique:TILT[,TURN]" interpolate planes that are not stored (``cut.cut_of`` says which). Other sources
            ignore it.
        only: the frames wanted, counted from 0; all of them by default. They come in the file's order, each once,
            with their own index and time. What is not wanted is not decoded where the format allows it; a video is
            decoded up to the last one wanted.

    Returns:
        An iterator over frames; nothing is decoded before its first ``next``.

    Errors: UnreadableFileError (empty, truncated, corrupt; a frame that cannot be decoded is named, and the frames
        before it have been yielded; a frame of ``only`` that the file does not hold, once those it holds have been),
        UnsupportedFormatError (a sound file of a kind that is not read).
    """
    path = Path(path)
    kind = kind_of(path)
    # Each reader brings a library that takes a second to import; who reads PNG files does not pay for the others.
    if kind == "image":
        from sonodistill.frames.image import read_image

        return read_image(path, only=only)
    if kind == "dicom":
        from sonodistill.frames.dicom import read_dicom

        return read_dicom(path, only=only)
    if kind == "video":
        from sonodistill.frames.video import read_video

        return read_video(path, only=only)
    from sonodistill.frames.volume import read_volume

    return read_volume(path, axis=axis, only=only)
