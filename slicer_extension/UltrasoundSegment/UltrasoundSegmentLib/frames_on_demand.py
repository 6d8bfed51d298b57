"""Frames on their way to a backend: read in the main thread when work asks for them, and cropped to the region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends.model import Cancel, Prompts
from UltrasoundSegmentLib.errors import SegmentError

if TYPE_CHECKING:
    from UltrasoundSegmentLib.frames.frame import Frame
    from UltrasoundSegmentLib.jobs import Jobs

Region = tuple[int, int, int, int]
_AHEAD = 4


class FramesOnDemand(Sequence["Frame"]):
    """Frames of a cine for work in another thread, a few read at a time; MRML is the main thread's alone.

    Args:
        read: gives a frame by its index in the cine, in the main thread.
        indices: of the frames, in order.
    """

    def __init__(self, read: Callable[[int], Frame], indices: Sequence[int], jobs: Jobs, cancel: Cancel) -> None:
        self._read, self._indices, self._jobs, self._cancel = read, list(indices), jobs, cancel
        self._held: dict[int, Frame] = {}

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, at: int) -> Frame: ...
    @overload
    def __getitem__(self, at: slice) -> list[Frame]: ...
    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(len(self)))]
        if at < 0:
            at += len(self)
        if not 0 <= at < len(self):
            raise IndexError(at)
        if at not in self._held:
            wanted = range(at, min(at + _AHEAD, len(self)))
            found = self._jobs.on_main(lambda: [self._read(self._indices[one]) for one in wanted], self._cancel)
            self._held = dict(zip(wanted, found, strict=True))
        return self._held[at]


def cropped(values: NDArray, region: Region) -> NDArray:
    """(H, W) cut to x0, y0, x1, y1, half-open; contiguous."""
    x0, y0, x1, y1 = region
    return np.ascontiguousarray(values[y0:y1, x0:x1])


def cut(frame: Frame, region: Region | None) -> Frame:
    """The region of a frame as a frame of its own, in its place; the frame itself without one."""
    if region is None:
        return frame
    matrix = frame.ijk_to_ras.copy()
    matrix[:3, 3] = (matrix @ np.array([region[0], region[1], 0.0, 1.0]))[:3]
    return replace(frame, image=cropped(frame.image, region), ijk_to_ras=matrix)


def pasted(mask: NDArray[np.uint8], region: Region | None, around: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask of the region on the whole frame, ``around`` it what was there."""
    if region is None:
        return mask
    whole = around.copy()
    x0, y0, x1, y1 = region
    whole[y0:y1, x0:x1] = mask
    return whole


def check_inside(prompts: Prompts, area: Region) -> None:
    """Errors: SegmentError for points or a box beside what the model sees; a backend would take them for its edge."""
    x0, y0, x1, y1 = area
    points = (*prompts.positive, *prompts.negative)
    box = prompts.box
    if not all(x0 - 0.5 <= x < x1 - 0.5 and y0 - 0.5 <= y < y1 - 0.5 for x, y in points) or (
        box is not None and (box[0] > x1 - 1 or box[1] > y1 - 1 or box[2] < x0 or box[3] < y0)
    ):
        raise SegmentError(
            "A prompt lies beside the frame, or beside its region: remove it, or make the region larger."
        )


def moved(prompts: Prompts, region: Region) -> Prompts:
    """Prompts of a frame in pixels of its region; a box is cut to it."""
    x, y, right, bottom = region

    def points(given: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
        return tuple((one[0] - x, one[1] - y) for one in given)

    box = prompts.box
    if box is not None:
        box = (max(box[0], x) - x, max(box[1], y) - y, min(box[2], right - 1) - x, min(box[3], bottom - 1) - y)
    return replace(
        prompts,
        positive=points(prompts.positive),
        negative=points(prompts.negative),
        box=box,
        scribbles=tuple(points(line) for line in prompts.scribbles),
        negative_scribbles=tuple(points(line) for line in prompts.negative_scribbles),
    )
