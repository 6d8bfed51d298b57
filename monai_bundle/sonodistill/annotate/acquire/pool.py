"""Frames to choose among, as numbers: embeddings, the files they are of, and how unsure a model is of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_WIDEST = 512


@dataclass(frozen=True, eq=False)
class Pool:
    """Frames to choose among.

    Attributes:
        embeddings: (N, D) float32, rows of unit length: see :func:`prepare`.
        items: (N,) int64, the file that each frame is of.
        frames: (N,) int64, its place there.
        uncertainty: (N,) float32 in [0, 1], NaN where it is unknown; None before there is a model.
    """

    embeddings: Floats
    items: Rows
    frames: Rows
    uncertainty: Floats | None = None

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Pick:
    """A chosen frame: its row in the pool, the score it was chosen by (of its strategy's own scale), and why."""

    row: int
    score: float
    why: str


def prepare(vectors: NDArray[np.floating]) -> Floats:
    """(N, D) embeddings to (N, d) float32 rows of unit length about their common mean, d at most 512.

    The mean of a pool says nothing about which of its frames differ, and after a ReLU it is most of every vector.
    More than 512 numbers are projected at random (the same way always), which keeps distances within a few percent.
    """
    made = np.array(vectors, np.float32)
    if len(made) > 1:
        made -= made.mean(axis=0)
    if made.shape[1] > _WIDEST:
        made = made @ projection(made.shape[1], _WIDEST)
    made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-12)
    return made


def projection(inputs: int, outputs: int) -> Floats:
    """(inputs, outputs) float32, orthonormal columns drawn from a fixed seed; outputs at most inputs."""
    drawn = np.random.default_rng(0).standard_normal((inputs, outputs))
    return np.linalg.qr(drawn)[0].astype(np.float32)
