"""What the Segment Editor effect does with a click: prompts of the frame, a request beside the GUI, the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from UltrasoundSegmentLib.backends.model import INTERACTIVE, Prompts, Result
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.frame import Frame
from UltrasoundSegmentLib.frames.world import ijk_to_world
from UltrasoundSegmentLib.frames_on_demand import Region, cut, moved, pasted

import slicer


class EffectError(SegmentError):
    """The effect cannot work on what Segment Editor shows; says what to do."""


def frame_of(values: NDArray[Any], ijk_to_ras: NDArray[np.float64]) -> Frame:
    """The image of Segment Editor as a frame.

    Args:
        values: (1, H, W) or (1, H, W, 3), as slicer.util.arrayFromVolume gives it.
        ijk_to_ras: (4, 4).

    Errors: EffectError for an image of several slices.
    """
    if values.ndim not in (3, 4) or values.shape[0] != 1:
        raise EffectError("The image has several slices: slice it into frames in Ultrasound Segment first.")
    image = values[0]
    if image.ndim == 3:
        image = image[..., :3] @ np.array([0.299, 0.587, 0.114])
    if image.dtype != np.uint8:
        low, high = float(image.min()), float(image.max())
        image = (image - low) * (255.0 / (high - low if high > low else 1.0))
        image = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Frame(np.ascontiguousarray(image), 0, None, ijk_to_ras, "segment editor#0")


def shown(desk: Any, volume: Any) -> tuple[Frame, Region | None]:
    """(the image of Segment Editor as a frame placed in world RAS, the part of it that models see or None for all).

    Errors: EffectError for an image of several slices, or one that a server would take for a frame of its own.
    """
    cine, item = desk.cine, getattr(desk.backend, "item", "")
    if cine is not None and cine.proxy() is volume:
        frame = replace(cine.frame(cine.selected), ijk_to_ras=cine.ijk_to_world(cine.selected))
        return frame, None if item else cine.region
    if item:
        raise EffectError("A cine of the server is open in Ultrasound Segment: choose its image here.")
    return frame_of(slicer.util.arrayFromVolume(volume), ijk_to_world(volume)), None


def same(one: Frame | None, other: Frame) -> bool:
    """Whether two frames show the same image."""
    return one is not None and one.key == other.key and np.array_equal(one.image, other.image)


def to_pixel(ras: tuple[float, float, float], ijk_to_ras: NDArray[np.float64]) -> tuple[float, float]:
    """(column, row) of a point in RAS."""
    x, y = (np.linalg.inv(ijk_to_ras) @ [*ras, 1.0])[:2]
    return float(x), float(y)


class Clicks:
    """Points of one segment on one frame; the newest request counts.

    Args:
        desk: of the UltrasoundSegment module, whose backend is used.
        done: told the mask (H, W) bool of the segment.
        failed: told the error.
    """

    def __init__(
        self, desk: Any, done: Callable[[NDArray[np.bool_]], None], failed: Callable[[Exception], None]
    ) -> None:
        self._desk, self._done, self._failed = desk, done, failed
        self.positive: list[tuple[float, float]] = []
        self.negative: list[tuple[float, float]] = []
        self.frame: Frame | None = None
        self._region: Region | None = None

    def clear(self) -> None:
        self.positive, self.negative = [], []
        self.frame = self._region = None

    def add(self, frame: Frame, region: Region | None, ras: tuple[float, float, float], inside: bool) -> None:
        """A point in world RAS on a frame; those of another frame are forgotten."""
        if not same(self.frame, frame):
            self.clear()
            self.frame = frame
        self._region = region
        (self.positive if inside else self.negative).append(to_pixel(ras, frame.ijk_to_ras))

    def undo(self) -> None:
        """Take the newest point back; the excluding ones first."""
        points = self.negative or self.positive
        if points:
            points.pop()

    def ask(self) -> None:
        """Ask the interactive model for the mask that agrees with the points.

        Errors: EffectError without an interactive model, without a point, or for points beside the frame.
        """
        offered = [model.id for model in self._desk.models_of(INTERACTIVE)]
        if not offered:
            raise EffectError("No interactive model is connected: connect a backend in Ultrasound Segment.")
        frame, region = self.frame, self._region
        if not self.positive or frame is None:
            raise EffectError("Click on the structure first.")
        x0, y0, x1, y1 = region or (0, 0, frame.image.shape[1], frame.image.shape[0])
        for x, y in (*self.positive, *self.negative):
            if not (x0 - 0.5 <= x < x1 - 0.5 and y0 - 0.5 <= y < y1 - 0.5):
                raise EffectError("A point lies beside the image, or its region: click on the image.")
        prompts, backend = Prompts(tuple(self.positive), tuple(self.negative)), self._desk.backend
        part = cut(frame, region)
        inside = prompts if region is None else moved(prompts, region)

        def done(result: Result) -> None:
            if self.frame is frame:  # else the points were cleared, or are of another frame
                self._done(pasted(result.mask, region, np.zeros(frame.image.shape, np.uint8)) > 0)

        self._desk.jobs.submit(
            lambda cancel, _: backend.refine(part, inside, None, offered[0], cancel),
            done,
            self._failed,
            group="effect",
        )
