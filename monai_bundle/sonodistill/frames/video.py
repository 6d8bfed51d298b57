"""Video files as frames, by PyAV: the luma with the container's own time stamps.

Video-range luma (16 to 235) is expanded to 0 to 255, so that black is 0 as in every other source; full-range luma
stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.bounds import check_size
from sonodistill.frames.frame import Calibration, Frame, Provenance
from sonodistill.frames.selection import check_held

# FFmpeg would also open what it takes for a playlist, which names other files and addresses. These hold their frames
# themselves: the containers of ``find.SUFFIXES`` and the bare streams of DICOM.
_SELF_CONTAINED = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,h264,hevc,gif",
    "protocol_whitelist": "file",
}
_UNCALIBRATED = Calibration(None, note="video container carries no physical scale")


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded frame: its number, (H, W) uint8 luma, milliseconds since the first, and its colours if it has them."""

    index: int
    image: NDArray[np.uint8]
    time_ms: float | None
    colour: Callable[[], NDArray[np.uint8]] | None


def read_video(path: Path, *, only: Collection[int] | None = None) -> Iterator[Frame]:
    """Frames of the first video stream; time is the presentation time stamp, counted from the first frame's.

    Provenance.frames is the number the container states, or None when it states none (Matroska). The stream is decoded
    in order, up to the last frame of ``only``.

    Errors: UnreadableFileError when the container holds no video stream, when a frame cannot be decoded, and at the
        end of the stream when a frame of ``only`` did not come.
    """
    with open_video(str(path), path) as container:
        stream = container.streams.video[0]
        details = {"codec": stream.codec_context.name, "pixel_format": stream.codec_context.pix_fmt}
        provenance = Provenance(path, "video", stream.frames or None, details)
        for seen in _decode(container, path, only):
            yield Frame(seen.image, seen.index, seen.time_ms, _UNCALIBRATED, provenance, seen.colour)


def decode_stream(stream: BinaryIO, path: Path, only: Collection[int] | None = None) -> Iterator[Picture]:
    """Frames of a video held in an open binary stream, such as DICOM's encapsulated video; see ``read_video``."""
    with open_video(stream, path) as container:
        yield from _decode(container, path, only)


def open_video(source: str | BinaryIO, path: Path) -> av.container.InputContainer:
    """The opened container, which holds a video stream that can be decoded."""
    try:
        container = av.open(source, mode="r", options=_SELF_CONTAINED)
    except (av.FFmpegError, OSError, ValueError, MemoryError, ArithmeticError) as error:
        raise UnreadableFileError(f"the video cannot be opened: {_short(error)}", path=path) from error
    if not container.streams.video:
        container.close()
        raise UnreadableFileError("the file holds no video stream", path=path)
    # A stream whose codec FFmpeg does not know has no codec context, whatever its type says.
    if container.streams.video[0].codec_context is None:
        container.close()
        raise UnsupportedFormatError("the codec of the video is unknown", path=path, remedy="convert it to H.264")
    seen = container.streams.video[0].codec_context
    # Some containers leave it to their first frame to state the size.
    if seen.width or seen.height:
        try:
            check_size(seen.height, seen.width, path)
        except UnreadableFileError:
            container.close()
            raise
    return container


def _short(error: BaseException) -> str:
    """What FFmpeg says, without the number of the error and the name of the file."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]


def _decode(container: av.container.InputContainer, path: Path, only: Collection[int] | None) -> Iterator[Picture]:
    wanted = None if only is None else {int(index) for index in only}
    if wanted == set():
        return
    count, start = 0, None
    try:
        for frame in container.decode(video=0):
            check_size(frame.height, frame.width, path)
            start = frame.time if start is None else start
            if wanted is None or count in wanted:
                time_ms = None if frame.time is None or start is None else 1000.0 * (frame.time - start)
                image = np.ascontiguousarray(frame.to_ndarray(format="gray"), dtype=np.uint8)
                yield Picture(count, image, time_ms, None if _is_gray(frame.format) else _Colours(frame))
            count += 1
            if wanted is not None and count > max(wanted):
                break
    except (av.FFmpegError, OSError, ValueError, MemoryError, ArithmeticError) as error:
        raise UnreadableFileError(f"frame {count + 1} cannot be decoded: {_short(error)}", path=path) from error
    if count == 0:
        raise UnreadableFileError("the video holds no frame", path=path)
    check_held(wanted or (), count, path)


def _is_gray(pixels: av.VideoFormat) -> bool:
    # One component, or one and alpha; a palette is one component of numbers of colours.
    return len(pixels.components) < 3 and not pixels.has_palette


class _Colours:
    """Converts a decoded frame to RGB when called."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._frame = frame

    def __call__(self) -> NDArray[np.uint8]:
        return np.ascontiguousarray(self._frame.to_ndarray(format="rgb24"), dtype=np.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        # PyAV's frames cannot be pickled, and frames of the house go between processes: send the colours.
        return partial, (np.array, self())
