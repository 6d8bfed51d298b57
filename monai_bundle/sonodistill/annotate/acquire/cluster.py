"""k-means and typicality on a bounded number of frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.acquire.pool import Floats, Rows

SAMPLE = 1536
"""Frames that clusters are found on; more are only assigned to them."""
_DIRECTIONS = 64
_ITERATIONS = 6
_NEIGHBOURS = 20
_MEMBERS = 512


def clusters(embeddings: Floats, k: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(N,) number in [0, k) of the cluster of each of (N, D) rows; k at most N.

    Lloyd's iterations from k-means++ starts, on at most ``SAMPLE`` rows, in their 64 principal directions.
    """
    rows = np.arange(len(embeddings))
    if len(rows) > SAMPLE:
        rows = np.sort(generator.choice(rows, SAMPLE, replace=False))
    points = embeddings @ _directions(embeddings[rows], generator)
    sample = points[rows]
    centres = _starts(sample, min(k, len(sample)), generator)
    for _ in range(_ITERATIONS):
        nearest = _nearest(sample, centres)
        counts = np.bincount(nearest, minlength=len(centres))
        sums = (np.arange(len(centres))[:, None] == nearest).astype(np.float32) @ sample
        there = counts > 0  # a centre without a frame stays where it is
        centres[there] = sums[there] / counts[there, None]
    return _nearest(points, centres)


def typicality(embeddings: Floats, members: Rows, generator: np.random.Generator) -> tuple[Rows, Floats]:
    """Members of a cluster and how typical of it each is: 1 / (mean distance to its 20 nearest neighbours among them).

    Hacohen et al., "Active Learning on a Budget" (ICML 2022), section 3. Of a cluster of more than 512 rows, so many
    are drawn.

    Args:
        embeddings: (N, D), rows of unit length.
        members: rows of the cluster, one or more.
        generator: of the draw.
    """
    if len(members) > _MEMBERS:
        members = np.sort(generator.choice(members, _MEMBERS, replace=False))
    if len(members) == 1:
        return members, np.ones(1, np.float32)
    vectors = embeddings[members]
    squared = np.maximum(2 - 2 * vectors @ vectors.T, 0)
    np.fill_diagonal(squared, np.inf)
    count = min(_NEIGHBOURS, len(members) - 1)
    near = np.sqrt(np.partition(squared, count - 1, axis=1)[:, :count])
    return members, (1 / (near.mean(axis=1) + 1e-3)).astype(np.float32)


def _directions(sample: Floats, generator: np.random.Generator) -> Floats:
    """(D, 64) principal directions, by two steps of subspace iteration; all D where there are no more."""
    width = sample.shape[1]
    if width <= _DIRECTIONS:
        return np.eye(width, dtype=np.float32)
    basis = generator.standard_normal((width, _DIRECTIONS), np.float32)
    for _ in range(2):
        basis = np.linalg.qr(sample.T @ (sample @ basis))[0]
    return basis


def _starts(points: Floats, k: int, generator: np.random.Generator) -> Floats:
    """k-means++ (Arthur and Vassilvitskii 2007)."""
    chosen = [int(generator.integers(len(points)))]
    lengths = (points**2).sum(axis=1)
    squared = np.full(len(points), np.inf, np.float32)
    for _ in range(k - 1):
        last = chosen[-1]
        np.minimum(squared, np.maximum(lengths + lengths[last] - 2 * points @ points[last], 0), out=squared)
        total = np.cumsum(squared, dtype=np.float64)
        chosen.append(min(int(np.searchsorted(total, generator.random() * total[-1], "right")), len(points) - 1))
    return points[chosen].copy()


def _nearest(points: Floats, centres: Floats) -> NDArray[np.int64]:
    # Of |p - c|^2 only what depends on the centre.
    return (points @ centres.T - 0.5 * (centres**2).sum(axis=1)).argmax(axis=1)
