"""Which frames of a cine are worth keeping: not too many a second, and none that looks like one kept before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError

_BLANK_CONTRAST = 2.0  # gray levels: a thumbnail whose standard deviation is less shows nothing
_LIT = 8  # gray levels: a thumbnail's pixel that is never brighter lies outside the sector
_LEAST_CONTRAST = 0.5  # gray levels: less within the lit part is rounding
_SAME = 1e-4  # closer than this is the same picture twice, but for rounding
_TIME_TOLERANCE_MS = 1.0  # 15 frames of 33.333 ms are half a second
_BLOCK = 256  # frames that are compared at once


@dataclass(frozen=True)
class Thinning:
    """How much of a clip is kept.

    Attributes:
        per_second: at most so many frames a second; not used where the times are unknown.
        different: least difference from every frame kept before. 0 is the same picture, 1 one that has nothing in
            common: 1 - correlation of the thumbnails (or 1 - cosine of the embeddings), whatever the gain.
        per_clip: at most so many frames of one file: the most different of those that the other two let through.
    """

    per_second: float = 2.0
    different: float = 0.03
    per_clip: int = 64

    def __post_init__(self) -> None:
        if not self.per_second > 0:
            raise SonoDistillError(f"per second is {self.per_second}", remedy="give more than 0")
        if not 0 <= self.different <= 2:
            raise SonoDistillError(
                f"different is {self.different}", remedy="give 0 (drop the same picture only) to 1 (nothing in common)"
            )
        if self.per_clip < 1:
            raise SonoDistillError(f"per clip is {self.per_clip}", remedy="give 1 or more")


@dataclass(frozen=True)
class Selection:
    """What is kept of N frames, and why the rest is not.

    Attributes:
        kept: (K,) int64, frame numbers, ascending.
        resembles: (N,) int64, the kept frame that each is most like; itself for a kept frame, -1 for a blank one.
        difference: (N,) float32, from that frame, as in ``Thinning.different``; 0 for a kept, NaN for a blank one.
    """

    kept: NDArray[np.int64]
    resembles: NDArray[np.int64]
    difference: NDArray[np.float32]

    def reason(self, frame: int) -> str | None:
        """Why the frame is dropped: "redundant" or "blank"; None for a kept one."""
        if self.resembles[frame] == -1:
            return "blank"
        return None if self.resembles[frame] == frame else "redundant"


def select(
    thumbs: NDArray[np.uint8],
    times: Sequence[float | None],
    thinning: Thinning,
    *,
    embeddings: NDArray[np.float32] | None = None,
) -> Selection:
    """Choose among a clip's N frames, from the first on.

    The first frame that shows something is kept. A later one is when it comes at least 1 / ``per_second`` after the
    last kept and differs from every kept frame, also from those long before: hearts come back to where they were. Of
    more than ``per_clip``, those are taken that each differ most from the ones already taken (farthest point). Frames
    without contrast are never kept, nor is the same picture twice.

    Args:
        thumbs: (N, 32, 32) uint8, as ``Survey.thumbs``; black out what should not be compared.
        times: milliseconds of each frame. Where one is None, or they do not advance, difference alone decides.
        embeddings: (N, D) float, compared in place of the thumbnails.
    """
    pixels = thumbs.reshape(len(thumbs), thumbs.shape[1] * thumbs.shape[2])
    shown = np.flatnonzero(_contrast(pixels) >= _BLANK_CONTRAST)
    vectors = _directions(pixels[shown]) if embeddings is None else _unit(embeddings[shown])
    when = _advancing(np.array([np.nan if time is None else time for time in times], np.float64)[shown])
    kept = _farthest(vectors, _greedy(vectors, when, thinning), thinning.per_clip)
    return _explain(len(thumbs), shown, vectors, kept)


def _contrast(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Standard deviation of each row, of one block at a time: ``std`` would make eight bytes of each."""
    blocks = range(0, len(pixels), _BLOCK)
    return np.concatenate([np.zeros(0), *(pixels[begin : begin + _BLOCK].std(axis=1) for begin in blocks)])


def _directions(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, P) uint8 -> (N, P') float32 of length one, whose inner products are correlations.

    Only pixels that are lit in some frame count, else the black corners that all frames share would be most of it.
    The column that is added is negligible where there is contrast; where there is none, it makes the frames the same.
    """
    brightest = pixels.max(axis=0, initial=0)
    lit = pixels[:, brightest >= min(_LIT, brightest.max())].astype(np.float32)
    lit -= lit.mean(axis=1, keepdims=True)
    floor = np.full((len(lit), 1), _LEAST_CONTRAST * np.sqrt(lit.shape[1]), np.float32)
    return _unit(np.concatenate([lit, floor], axis=1))


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    vectors = vectors.astype(np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _advancing(times: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """The times, or None where they say nothing: one is missing, they go back, or they stand still."""
    known = len(times) > 1 and not np.isnan(times).any() and (np.diff(times) >= 0).all() and times[-1] > times[0]
    return times if known else None


def _gap(thinning: Thinning) -> float:
    """Least milliseconds between two kept frames."""
    return 1000 / thinning.per_second - _TIME_TOLERANCE_MS


def _most_alike(thinning: Thinning) -> float:
    """The similarity from which on two frames are not both kept."""
    return 1 - max(thinning.different, _SAME)


def _greedy(vectors: NDArray[np.float32], times: NDArray[np.float64] | None, thinning: Thinning) -> NDArray[np.int64]:
    """Rows kept in one pass. A block is compared with those kept so far in one product, and with itself in another."""
    gap, most = _gap(thinning), _most_alike(thinning)
    kept: list[int] = []
    kept_vectors = np.empty_like(vectors)  # filled from the front
    earliest = -np.inf
    for begin in range(0, len(vectors), _BLOCK):
        block = vectors[begin : begin + _BLOCK]
        alike = (block @ kept_vectors[: len(kept)].T).max(axis=1, initial=-1)
        among = block @ block.T
        for row in range(len(block)):
            number = begin + row
            if alike[row] > most or (times is not None and times[number] < earliest):
                continue
            kept_vectors[len(kept)] = block[row]
            kept.append(number)
            np.maximum(alike, among[row], out=alike)
            if times is not None:
                earliest = times[number] + gap
    return np.array(kept, np.int64)


def _farthest(vectors: NDArray[np.float32], rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most ``most`` of the rows, ascending: the first, then each time the one least like those taken (the earlier of
    two equals)."""
    if len(rows) <= most:
        return rows
    candidates = vectors[rows]
    taken = [0]
    alike = candidates @ candidates[0]
    while len(taken) < most:
        alike[taken[-1]] = np.inf
        taken.append(int(alike.argmin()))
        np.maximum(alike, candidates @ candidates[taken[-1]], out=alike)
    return rows[np.sort(taken)]


def _explain(count: int, shown: NDArray[np.int64], vectors: NDArray[np.float32], kept: NDArray[np.int64]) -> Selection:
    resembles, difference = np.full(count, -1, np.int64), np.full(count, np.nan, np.float32)
    for begin in range(0, len(vectors), _BLOCK):
        alike = vectors[begin : begin + _BLOCK] @ vectors[kept].T
        rows = shown[begin : begin + _BLOCK]
        resembles[rows] = shown[kept][alike.argmax(axis=1)]
        difference[rows] = np.maximum(1 - alike.max(axis=1), 0)
    numbers = shown[kept]
    resembles[numbers], difference[numbers] = numbers, 0
    return Selection(numbers, resembles, difference)
