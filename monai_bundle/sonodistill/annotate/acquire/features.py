"""What is kept of each frame: one vector of what it looks like, and a coarse map of what is where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.acquire.pool import Floats, projection

GRID = 7
"""Cells of a side of the map."""
CHANNELS = 256
"""Features of a cell, at most."""
_LEVELS = 2


def summarise(levels: Sequence[NDArray[np.floating]]) -> tuple[Floats, Floats]:
    """Vectors (B, D) and maps (B, 49, C), C at most 256, float32, from the maps (B, C_i, h_i, w_i) of an encoder.

    The vector is the mean of the last level. The map has the last two, each divided by its root mean square in the
    frame so that none outweighs the other, averaged over cells and projected at random (the same way always) to 256
    features: inner products, all that a linear head reads, stay nearly the same.
    """
    vectors = np.asarray(levels[-1], np.float32).mean(axis=(2, 3))
    parts = []
    for level in levels[-_LEVELS:]:
        level = np.asarray(level, np.float32)
        size = np.sqrt((level**2).mean(axis=(1, 2, 3), keepdims=True))
        parts.append(pooled(level / np.maximum(size, 1e-6)))
    cells = np.concatenate(parts, axis=1).reshape(len(vectors), -1, GRID * GRID).transpose(0, 2, 1)
    if cells.shape[2] > CHANNELS:
        cells = cells @ projection(cells.shape[2], CHANNELS)
    return vectors, np.ascontiguousarray(cells)


def pooled(level: Floats) -> Floats:
    """(B, C, h, w) to (B, C, 7, 7): means over equal areas."""
    down, across = _areas(level.shape[2]), _areas(level.shape[3])
    return down @ level @ across.T


def _areas(cells: int) -> Floats:
    """(7, cells): the share of each input cell in the mean of each output cell."""
    edges = np.linspace(0, cells, GRID + 1)
    first, last = edges[:-1, None], edges[1:, None]
    at = np.arange(cells)
    covered = np.clip(np.minimum(last, at + 1) - np.maximum(first, at), 0, 1)
    return (covered / (last - first)).astype(np.float32)
