"""Video files as frames, by PyAV: the luma with the container's own time stamps.

Video-range luma (16 to 235) is expanded to 0 to 255, so that black is 0 as in every other source; full-range luma
stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.frame import Calibration, Frame, Provenance

_UNCALIBRATED = Calibration(None, note="video container carries no physical scale")


def read_video(path: Path) -> Iterator[Frame]:
    """Frames of the first video stream; time is the presentation time stamp, counted from the first frame's.

    Provenance.frames is the number the container states, or None when it states none (Matroska).

    Errors: UnreadableFileError when the container holds no video stream or a frame cannot be decoded.
    """
    with _open(str(path), path) as container:
        stream = container.streams.video[0]
        details = {"codec": stream.codec_context.name, "pixel_format": stream.codec_context.pix_fmt}
        provenance = Provenance(path, "video", stream.frames or None, details)
        start: float | None = None
        for index, (image, seconds) in enumerate(_decode(container, path)):
            start = seconds if start is None else start
            time_ms = None if seconds is None or start is None else 1000.0 * (seconds - start)
            yield Frame(image, index, time_ms, _UNCALIBRATED, provenance)


def decode_stream(stream: BinaryIO, path: Path) -> Iterator[NDArray[np.uint8]]:
    """(H, W) uint8 luma of each frame of a video held in an open binary stream, such as DICOM's encapsulated video."""
    with _open(stream, path) as container:
        yield from (image for image, _ in _decode(container, path))


def _open(source: str | BinaryIO, path: Path) -> av.container.InputContainer:
    """The opened container, which holds a video stream that can be decoded."""
    try:
        container = av.open(source, mode="r")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UnreadableFileError(f"the video cannot be opened: {error}", path=path) from error
    if not container.streams.video:
        container.close()
        raise UnreadableFileError("the file holds no video stream", path=path)
    # A stream whose codec FFmpeg does not know has no codec context, whatever its type says.
    if container.streams.video[0].codec_context is None:
        container.close()
        raise UnsupportedFormatError("the codec of the video is unknown", path=path, remedy="convert it to H.264")
    return container


def _decode(container: av.container.InputContainer, path: Path) -> Iterator[tuple[NDArray[np.uint8], float | None]]:
    count = 0
    try:
        for frame in container.decode(video=0):
            yield np.ascontiguousarray(frame.to_ndarray(format="gray")), frame.time
            count += 1
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise UnreadableFileError(f"frame {count + 1} cannot be decoded: {error}", path=path) from error
    if count == 0:
        raise UnreadableFileError("the video holds no frame", path=path)
