"""Run lengths and polygons as COCO has them: masks to them and back, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import InvalidLabelError

_MAX_RUNS = 1 << 24
_MAX_POINTS = 1 << 20
_MAX_CROSSINGS = 1 << 24


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Uncompressed run lengths of (H, W) bool: ``{"size": [H, W], "counts": [...]}``, column by column, zeros first."""
    flat = mask.ravel(order="F").astype(np.int8)
    starts = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate(([0], starts, [flat.size]))).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat.size and flat[0] else counts}


def decode(rle: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool of run lengths, whose counts are a list or COCO's compressed text.

    Errors: InvalidLabelError.
    """
    size, counts = (rle.get("size"), rle.get("counts")) if isinstance(rle, dict) else (None, None)
    if size != list(shape):
        raise InvalidLabelError(f"its run lengths are of another size than {shape[0]} x {shape[1]}")
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or len(runs) > _MAX_RUNS or not all(type(run) is int and run >= 0 for run in runs):
        raise InvalidLabelError("its run lengths are no list of whole numbers")
    if sum(runs) != shape[0] * shape[1]:
        raise InvalidLabelError("its run lengths do not add up to its size")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(shape, order="F")


def fill(polygon: Sequence[Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels whose centres are inside by the even-odd rule.

    Args:
        polygon: x0, y0, x1, y1, ... with (0, 0) at the outer corner of the first pixel, closed by itself.
        shape: (H, W).

    Errors: InvalidLabelError.
    """
    if not isinstance(polygon, list) or len(polygon) > 2 * _MAX_POINTS or len(polygon) < 6 or len(polygon) % 2:
        raise InvalidLabelError("a polygon is no list of three points or more")
    if not all(type(each) in (int, float) and abs(each) <= 1e6 for each in polygon):
        raise InvalidLabelError("a polygon has a coordinate that is no number")
    rows, columns = shape
    begin = np.asarray(polygon, np.float64).reshape(-1, 2)
    end = np.roll(begin, -1, axis=0)
    down = begin[:, 1] <= end[:, 1]
    top, bottom = np.where(down[:, None], begin, end), np.where(down[:, None], end, begin)
    first, last = (np.clip(np.ceil(each[:, 1] - 0.5), 0, rows).astype(np.intp) for each in (top, bottom))
    crossed = last - first
    if crossed.sum() > _MAX_CROSSINGS:
        raise InvalidLabelError("a polygon crosses itself too often")
    # Each row that an edge crosses, at the height of the centres of its pixels.
    edge = np.repeat(np.arange(len(begin)), crossed)
    row = first[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(crossed) - crossed, crossed)
    (x0, y0), (x1, y1) = top[edge].T, bottom[edge].T
    x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    # From there on to the right, up to the next edge, is inside.
    at = np.clip(np.ceil(x - 0.5), 0, columns).astype(np.intp)
    filled = np.zeros(shape, np.bool_)
    if len(row):
        (upper, left), (lower, right) = (row.min(), at.min()), (row.max() + 1, at.max() + 1)
        height, width = lower - upper, right - left
        toggles = np.bincount((row - upper) * width + at - left, minlength=height * width).reshape(height, width) & 1
        inside = np.logical_xor.accumulate(toggles.astype(np.bool_), axis=1)
        filled[upper:lower, left:right] = inside[:, : columns - left]
    return filled


class Region(NamedTuple):
    """Pixels that hang together by edges.

    Attributes:
        box: (left, top, width, height).
        part: (height, width) bool.
        pixels: how many.
        outline: x0, y0, x1, y1, ... along the edges of the pixels, and so exact; None where there are holes, which a
            polygon of COCO cannot have.
    """

    box: tuple[int, int, int, int]
    part: NDArray[np.bool_]
    pixels: int
    outline: list[float] | None


def regions(mask: NDArray[np.bool_], most: int) -> list[Region]:
    """The regions of (H, W) bool; all of it as one without an outline where there are more than ``most``."""
    import cv2

    from sonodistill.dicom.write.measure import outer_border

    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count - 1 > most:
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        part = mask[top : top + height, left : left + width]
        return [Region((left, top, width, height), part, int(part.sum()), None)]
    found = []
    for label in range(1, count):
        left, top, width, height, pixels = (int(value) for value in stats[label])
        part = labels[top : top + height, left : left + width] == label
        border = outer_border(part) + np.array((left, top))
        x, y = border.T
        has_holes = abs(int(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) != 2 * pixels
        outline = None if has_holes else border.astype(float).ravel().tolist()
        found.append(Region((left, top, width, height), part, pixels, outline))
    return found


def _decompressed(text: str) -> list[int]:
    """Counts of COCO's text: 5 bits a character, lowest first, each count from the third on as a difference."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 35:
            raise InvalidLabelError("its compressed run lengths are malformed")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise InvalidLabelError("its compressed run lengths end within a number")
    return counts
