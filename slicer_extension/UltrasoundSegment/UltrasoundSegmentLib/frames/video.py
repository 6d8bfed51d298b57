"""Video files as a cine, with the time stamps of the container."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import Facts, Source, build
from UltrasoundSegmentLib.frames.calibration import NONE
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.dicom_cine import upright

# Compression tints gray by a few values; flow is far beyond that, and larger than the marks of a scanner's maker.
_TINT = 32
_SHARE = 2e-3
_EVERY = 8


class VideoError(SegmentError):
    """A video cannot become a cine; says why and what helps."""


def load_video(path: str | Path, scene: slicer.vtkMRMLScene | None = None) -> Cine:
    """A video file (MP4, AVI, MKV, MOV, WebM, GIF) as a cine; it has no scale until a ruler is drawn.

    A video without colour, but for small marks, becomes one gray channel; every eighth frame is looked at. It is
    decoded by the SonoDistill runtime (PyAV).

    Errors: VideoError (the runtime is not installed, the file is no video or is damaged); nothing stays in the scene.
    """
    return build(scene, decode_video(path))


def decode_video(path: str | Path) -> Source:
    """As ``load_video``, without a scene: decoded once, and again as frames are taken where there is colour."""
    path = Path(path)
    try:
        from sonodistill.frames.video import read_video
    except ImportError as error:
        raise VideoError("Reading a video needs the SonoDistill runtime: pip install sonodistill[dicom].") from error
    images, times, coloured = _gray(_named(read_video(path), path))
    stamped = [time for time in times if time is not None]
    known = stamped if len(stamped) == len(times) else None
    facts = Facts(
        time_source=NONE if known is None else "video timestamps",
        scale_warnings=["A video states no scale: draw a ruler over a known distance."],
        attributes={"kind": "video", "file": str(path.resolve())},
    )
    place = upright(None)
    pixels = (frame.rgb() for frame in _named(read_video(path), path)) if coloured else iter(images)
    return Source(path.stem or path.name, ((values, place) for values in pixels), known, facts, len(times))


def _named(frames: Iterator[Any], path: Path) -> Iterator[Any]:
    """The frames; what the runtime raises becomes a VideoError that names the file."""
    from sonodistill.errors import SonoDistillError

    try:
        yield from frames
    except SonoDistillError as error:
        raise VideoError(f"“{path.name}”: {error}") from error
    except OSError as error:
        raise VideoError(f"“{path.name}” cannot be opened: {error}.") from error


def _gray(frames: Iterator[Any]) -> tuple[list[NDArray[np.uint8]], list[float | None], bool]:
    """(luma of each frame, seconds of each, whether any has colour); the luma is not kept once colour is seen."""
    images: list[NDArray[np.uint8]] = []
    times: list[float | None] = []
    coloured = False
    for frame in frames:
        times.append(None if frame.time_ms is None else frame.time_ms / 1000.0)
        if not coloured:
            images.append(frame.image)
            rgb = frame.rgb() if frame.index % _EVERY == 0 else None
            coloured = rgb is not None and has_colour(rgb)
            if coloured:
                images.clear()
    return images, times, coloured


def has_colour(rgb: NDArray[np.uint8]) -> bool:
    """Whether (H, W, 3) shows colours beyond the tint that compression leaves on gray, in 0.2 % of it at least."""
    wide = rgb[::3, ::3].astype(np.int16)
    spread = wide.max(axis=2) - wide.min(axis=2)
    return float((spread > _TINT).mean()) > _SHARE
