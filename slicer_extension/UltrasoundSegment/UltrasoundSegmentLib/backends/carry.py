"""Carry a mask from frame to frame with whatever segments a frame, and stop where it cannot be trusted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends.model import BackendError, Cancel, Prompts, Result

if TYPE_CHECKING:
    from UltrasoundSegmentLib.frames.frame import Frame

LEAST_CONFIDENCE = 0.7
LARGEST_CHANGE = 1.5
"""Factor of a label's area from one frame to the next."""
LEAST_OVERLAP = 0.1
"""Intersection over union of a label on two neighbouring frames."""
_GROWTH = 0.02

Propose = Callable[["Frame", NDArray[np.uint8], Cancel], Result]


def carry(
    frames: Sequence[Frame],
    mask: NDArray[np.uint8],
    propose: Propose,
    cancel: Cancel,
    on_result: Callable[[int, Result], None],
    *,
    least_confidence: float = LEAST_CONFIDENCE,
) -> str:
    """Ask ``propose`` for each frame with the mask of the one before; see ``Backend.propagate``.

    Returns: why it stopped, "" when it went through.
    Errors: BackendError for an empty mask or one of another size.
    """
    first = frames[0]
    if mask.shape != first.image.shape:
        raise BackendError(f"The mask is {mask.shape}, its frame {first.image.shape}: both have to be (H, W).")
    if not mask.any():
        raise BackendError(f"Frame {first.index + 1} has no mask to carry on: segment it first.")
    start = mask
    for position in range(1, len(frames)):
        cancel.check()
        frame = frames[position]
        if frame.image.shape != mask.shape:
            return f"Frame {frame.index + 1} has another size."
        result = propose(frame, mask, cancel)
        reason = doubt(mask, result, start, least_confidence)
        if reason:
            return f"At frame {frame.index + 1} {reason}."
        on_result(frame.index, result)
        mask = result.mask
    return ""


def doubt(before: NDArray[np.uint8], result: Result, start: NDArray[np.uint8], least: float) -> str:
    """Why a result is not to be trusted, "" where it may be: each label of the first mask is looked at."""
    if result.confidence is not None and result.confidence < least:
        return f"the confidence is {result.confidence:.2f}, below {least:.2f}"
    for number in np.unique(start[start > 0]):
        old, new = before == number, result.mask == number
        was, now, begun = (int(np.count_nonzero(one)) for one in (old, new, start == number))
        if not now:
            return f"nothing is found of label {number}"
        if max(now / was, was / now) > LARGEST_CHANGE:
            return f"the area of label {number} is {now / was:.2f} times that of the frame before"
        if max(now / begun, begun / now) > LARGEST_CHANGE**2:
            return f"the area of label {number} is {now / begun:.2f} times that of the first mask"
        both = int(np.count_nonzero(old & new))
        if both / (was + now - both) < LEAST_OVERLAP:
            return f"label {number} is found elsewhere"
    return ""


def prompts_of(mask: NDArray[np.uint8], label: int) -> Prompts:
    """What to ask of the next frame: a box around a label, slightly grown, and its pixel nearest to its middle."""
    rows, columns = np.nonzero(mask == label)
    height, width = mask.shape
    x0, x1, y0, y1 = (int(value) for value in (columns.min(), columns.max(), rows.min(), rows.max()))
    across, down = max(1.0, _GROWTH * (x1 - x0)), max(1.0, _GROWTH * (y1 - y0))
    box = (max(0.0, x0 - across), max(0.0, y0 - down), min(width - 1.0, x1 + across), min(height - 1.0, y1 + down))
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return Prompts(positive=((float(columns[nearest]), float(rows[nearest])),), box=box, label=int(label))


def with_label(previous: NDArray[np.uint8] | None, drawn: NDArray[np.bool_], label: int) -> NDArray[np.uint8]:
    """(H, W): the labels so far with one of them replaced by what was drawn."""
    mask = np.zeros(drawn.shape, np.uint8) if previous is None else previous.copy()
    mask[mask == label] = 0
    mask[drawn] = label
    return mask
