"""Run lengths and polygons of COCO."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.exchange.errors import NotLabelsError

_MAX_POINTS = 1 << 16


def encode(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """``{"size": [H, W], "counts": [...]}`` of (H, W) bool: runs down the columns, those of zeros first."""
    flat = np.concatenate(([False], mask.ravel(order="F"), [False]))
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate(([0], edges, [mask.size])) if not edges.size or edges[-1] < mask.size else np.r_[0, edges]
    return {"size": [int(side) for side in mask.shape], "counts": np.diff(ends).tolist()}


def decode(said: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool of run lengths, a list or COCO's text. Errors: NotLabelsError."""
    if said.get("size") != list(shape):
        raise NotLabelsError(f"its run lengths are of another size than {shape[0]} x {shape[1]}")
    counts = said.get("counts")
    runs = _numbers(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and 0 <= run <= shape[0] * shape[1] for run in runs):
        raise NotLabelsError("its run lengths are no list of whole numbers")
    if len(runs) > 2 * shape[0] * shape[1] + 2 or sum(runs) != shape[0] * shape[1]:
        raise NotLabelsError("its run lengths do not add up to its size")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(shape, order="F")


def fill(polygon: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels whose centres are inside by the even-odd rule.

    Args:
        polygon: x0, y0, x1, y1, ... with (0, 0) at the outer corner of the first pixel, closed by itself.
        shape: (H, W).

    Errors: NotLabelsError.
    """
    if not isinstance(polygon, list) or not 6 <= len(polygon) <= 2 * _MAX_POINTS or len(polygon) % 2:
        raise NotLabelsError("a polygon is no list of three points or more")
    if not all(type(each) in (int, float) and abs(each) <= 1e6 for each in polygon):
        raise NotLabelsError("a polygon has a coordinate that is no number")
    points = np.asarray(polygon, float).reshape(-1, 2)
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    inside = np.zeros(shape, np.bool_)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        crossed = np.flatnonzero((rows >= min(y0, y1)) & (rows < max(y0, y1)))
        if crossed.size:
            x = x0 + (rows[crossed] - y0) * (x1 - x0) / (y1 - y0)
            inside[crossed] ^= columns >= x[:, np.newaxis]
    return inside


def _numbers(text: str) -> list[int]:
    """Counts of COCO's text: five bits a character, the lowest first; from the third on the last but one is added."""
    counts: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or bits > 35:
            raise NotLabelsError("its compressed run lengths are malformed")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (1 << bits) if code & 16 else 0
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = bits = 0
    if bits:
        raise NotLabelsError("its compressed run lengths end within a number")
    return counts
