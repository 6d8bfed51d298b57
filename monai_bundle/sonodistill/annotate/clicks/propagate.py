"""Carry a mask to the next frames of a cine, video or volume, for as long as it can be trusted.

Each frame gets the mask of the frame before, the box around it and a click into each of its parts as prompts; what the
network answers is carried on. It is no tracker: it follows what moves by less than its own size from frame to frame.

A network that sees a structure a little larger than the annotator does would let it grow from frame to frame. So the
frame of the annotator is asked first, and the threshold that gives back their mask is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from enum import Enum
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.clicks.interactive import Interactive, Refined, stability
from sonodistill.annotate.errors import ConflictError, InvalidPromptError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Catalogue, Item, Prompts
from sonodistill.frames import Frame

LEAST_CONFIDENCE = 0.7
LARGEST_CHANGE = 1.5
MOST_FRAMES = 1000
_LEAST_OVERLAP = 0.1  # intersection over union of the masks of two frames
_GROWTH = 0.02  # of the box, by its side: a box that grows lets the mask grow, frame by frame
_THRESHOLDS = tuple(float(value) for value in np.linspace(0.1, 0.9, 17))
_PARTS = 8
_SMALL_PART = 0.05  # of the whole mask: what is smaller gets no click
_CHUNK = 16  # frames in memory when going backward


class Reason(str, Enum):
    """Why a propagation ended."""

    COUNT = "count"
    END = "end"
    CONFIDENCE = "confidence"
    AREA = "area"
    MOVED = "moved"
    EMPTY = "empty"
    SHAPE = "shape"


class Propagation(Iterator[tuple[int, Refined]]):
    """(index of the frame, answer) for each frame that can be trusted; made by :func:`propagate`.

    Attributes:
        stopped: why it ended and at which frame, in a sentence; "" while it goes on.
        reason: the same as a value; None while it goes on.
        last: index of the last frame that was given, None before the first.
        threshold: of the probability.
    """

    def __init__(
        self,
        interactive: Interactive,
        frames: Iterable[Frame],
        item: str,
        first: NDArray[np.bool_],
        count: int,
        least_confidence: float,
        largest_change: float,
        origin: Frame | None,
    ) -> None:
        self.stopped, self.reason, self.last = "", None, None  # type: tuple[str, Reason | None, int | None]
        self._interactive, self._frames, self._item = interactive, iter(frames), item
        self._mask, self._left, self._area = first, count, int(np.count_nonzero(first))
        self._least, self._change = least_confidence, largest_change
        self.threshold = 0.5 if origin is None else self._fitted(origin)

    def __next__(self) -> tuple[int, Refined]:
        if self.reason is not None:
            raise StopIteration
        if not self._left:
            raise self._stop(Reason.COUNT, "as many frames as were asked for")
        frame = next(self._frames, None)
        if frame is None:
            raise self._stop(Reason.END, "there are no more frames")
        at = f"at frame {frame.index + 1}"
        if frame.image.shape != self._mask.shape:
            raise self._stop(Reason.SHAPE, f"{at} the image has another size")
        prompts = prompts_of(self._mask)
        refined = self._interactive.refine(FrameId(self._item, frame.index), frame.image, prompts)
        refined = replace(
            refined,
            mask=refined.probability > self.threshold,
            confidence=stability(refined.probability, self.threshold),
        )
        doubt = self._doubt(refined)
        if doubt is not None:
            raise self._stop(doubt[0], f"{at} {doubt[1]}")
        self._mask, self.last, self._left = refined.mask, frame.index, self._left - 1
        return frame.index, refined

    def _doubt(self, refined: Refined) -> tuple[Reason, str] | None:
        before, now = int(np.count_nonzero(self._mask)), int(np.count_nonzero(refined.mask))
        if not now:
            return Reason.EMPTY, "nothing is found"
        if refined.confidence < self._least:
            return Reason.CONFIDENCE, f"the confidence is {refined.confidence:.2f}, below {self._least:.2f}"
        if max(now / before, before / now) > self._change:
            return Reason.AREA, f"the area changes to {now / before:.2f} times that of the frame before"
        if max(now / self._area, self._area / now) > self._change**2:  # a drift, each step of which is small
            return Reason.AREA, f"the area is {now / self._area:.2f} times that of the mask it began with"
        both = int(np.count_nonzero(self._mask & refined.mask))
        if both / (before + now - both) < _LEAST_OVERLAP:
            return Reason.MOVED, "it is found elsewhere"
        return None

    def _fitted(self, origin: Frame) -> float:
        """The threshold with which the answer on the frame of the mask is most like the mask."""
        if origin.image.shape != self._mask.shape:
            raise InvalidPromptError("the mask is not of the size of its frame", remedy="send it on the frame's pixels")
        id = FrameId(self._item, origin.index)
        probability = self._interactive.refine(id, origin.image, prompts_of(self._mask)).probability
        values, inside = np.sort(probability, axis=None), np.sort(probability[self._mask])

        def dice(threshold: float) -> float:
            found = values.size - int(np.searchsorted(values, threshold, side="right"))
            both = inside.size - int(np.searchsorted(inside, threshold, side="right"))
            return 2 * both / (found + inside.size)

        return max(_THRESHOLDS, key=lambda value: (dice(value), -abs(value - 0.5)))

    def _stop(self, reason: Reason, said: str) -> StopIteration:
        self.reason, self.stopped = reason, said
        return StopIteration()


def propagate(
    interactive: Interactive,
    frames: Iterable[Frame],
    item: str,
    first: NDArray[np.bool_],
    *,
    count: int,
    least_confidence: float = LEAST_CONFIDENCE,
    largest_change: float = LARGEST_CHANGE,
    origin: Frame | None = None,
) -> Propagation:
    """Carry a mask through frames, lazily; it stops before the first one that cannot be trusted, and says why.

    Args:
        interactive: the network.
        frames: those after the one with the mask, in the order to go: backward is frames in falling order.
        item: id of what they are frames of.
        first: (H, W) bool, the mask to begin with, not empty.
        count: frames to go at most.
        least_confidence: below it (see ``interactive.stability``) it stops.
        largest_change: factor of the area from one frame to the next above which it stops; of the area since the
            first mask its square may be reached.
        origin: the frame that the first mask is on, for the threshold; without it the threshold is a half.

    Raises:
        InvalidPromptError: an empty mask, or a count or limit that cannot be.
    """
    first = np.asarray(first) != 0
    if first.ndim != 2 or not first.any():
        raise InvalidPromptError("there is no mask to carry on", remedy="segment the frame first")
    _require_count(count)
    if not 0 <= least_confidence <= 1 or not 1 < largest_change < float("inf"):
        raise InvalidPromptError(
            f"limits of {least_confidence} and {largest_change}",
            remedy="give a confidence of 0 to 1 and a change of area above 1",
        )
    return Propagation(interactive, frames, item, first, count, least_confidence, largest_change, origin)


def propagate_in(
    interactive: Interactive,
    catalogue: Catalogue,
    item: Item,
    start: int,
    first: NDArray[np.bool_],
    *,
    count: int,
    backward: bool = False,
    least_confidence: float = LEAST_CONFIDENCE,
    largest_change: float = LARGEST_CHANGE,
) -> Propagation:
    """As :func:`propagate`, from frame ``start`` of an item, whose frames are read as they are needed.

    Raises:
        ConflictError: the item is a still.
        InvalidPromptError: as above, or the item has no such frame.
    """
    if not item.is_cine:
        raise ConflictError("a still has no next frame", remedy="propagate in a cine, video or volume")
    if not 0 <= start < item.frames:
        raise InvalidPromptError(f"frame {start} of {item.frames}", remedy="frames count from 0")
    _require_count(count)
    indices = range(start - 1, -1, -1) if backward else range(start + 1, item.frames)
    frames = _read(catalogue, item, indices[:count])
    return propagate(
        interactive,
        frames,
        item.id,
        first,
        count=count,
        least_confidence=least_confidence,
        largest_change=largest_change,
        origin=catalogue.frame(FrameId(item.id, start)),
    )


def prompts_of(mask: NDArray[np.bool_]) -> Prompts:
    """What to say of the next frame: the mask, the box around it, slightly grown, and the centres of its parts."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    x0, x1, y0, y1 = (int(value) for value in (columns[0], columns[-1], rows[0], rows[-1]))
    across, down = max(1, _GROWTH * (x1 - x0)), max(1, _GROWTH * (y1 - y0))
    box = (max(0.0, x0 - across), max(0.0, y0 - down), min(width - 1.0, x1 + across), min(height - 1.0, y1 + down))
    return Prompts(positive=tuple(_centres(mask)), box=box, mask=mask)


def _centres(mask: NDArray[np.bool_]) -> Iterator[tuple[float, float]]:
    """(x, y) of the deepest pixel of each part, the largest first."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    order = sorted(range(1, count), key=lambda part: -int(areas[part - 1]))
    for part in order[:_PARTS]:
        if part == order[0] or areas[part - 1] >= _SMALL_PART * areas.sum():
            padded = np.pad((parts == part).astype(np.uint8), 1)
            depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
            row, column = np.unravel_index(int(depth.argmax()), depth.shape)
            yield float(column), float(row)


def _require_count(count: int) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_FRAMES:
        raise InvalidPromptError(f"a count of {str(count)[:20]}", remedy=f"give 1 to {MOST_FRAMES} frames")


def _read(catalogue: Catalogue, item: Item, indices: range) -> Iterator[Frame]:
    """The frames in the order of the indices, which rise or fall."""
    if indices.step > 0:
        yield from catalogue.read(item, indices)
        return
    falling = iter(indices)
    while chunk := set(islice(falling, _CHUNK)):
        yield from reversed(list(catalogue.read(item, chunk)))
