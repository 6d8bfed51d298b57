"""What is labelled or chosen, and how unlike it and how new beside it every other frame is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sonodistill.annotate.acquire.pool import Floats, Pool, Rows

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """How frames of one file share the labels: those of a cine are alike, and most say nothing new.

    Attributes:
        span: frames from a labelled one of the same file at which a frame is wholly new in time.
        alike: distance of embeddings (0 to 2) from it at which a frame is wholly new in looks.
        least: a frame less new than this is not chosen while there are others.
        share: of a batch that one file may fill while there are others; one frame is always allowed.
    """

    span: int = 10
    alike: float = 0.5
    least: float = 0.2
    share: float = 0.2


class Taken:
    """Rows of a pool that are labelled or chosen, to which more are added.

    Args:
        pool: N frames.
        limits: of frames of one file.

    Attributes:
        pool: as given.
        rows: that are taken.
        distance: (N,) float32, of each frame to the nearest of them, 0 to 2; infinite before there is any.
        novelty: (N,) float32 in [0, 1], how new each frame is beside those of its own file: the lesser of time and
            looks; 1 where none of its file is taken.
    """

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.pool, self.limits = pool, limits
        self.rows: set[int] = set()
        self.distance: Floats = np.full(len(pool), np.inf, np.float32)
        self.novelty: Floats = np.ones(len(pool), np.float32)
        self._order = np.argsort(pool.items, kind="stable")
        self._items = pool.items[self._order]

    def add(self, rows: Rows) -> None:
        """Take these rows too."""
        vectors = self.pool.embeddings
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            # |a - b|^2 = 2 - 2ab of unit vectors; the square root is that of the nearest alone.
            alike = (vectors @ vectors[block].T).max(axis=1)
            np.minimum(self.distance, np.sqrt(np.maximum(2 - 2 * alike, 0)), out=self.distance)
        for row in rows.tolist():
            self._discount(row)
        self.rows.update(rows.tolist())

    def copy(self, pool: Pool | None = None) -> Taken:
        """One that can go on by itself; ``pool`` may be one of the same frames with other uncertainties."""
        made = object.__new__(Taken)
        made.__dict__.update(self.__dict__)
        made.pool, made.rows = pool or self.pool, set(self.rows)
        made.distance, made.novelty = self.distance.copy(), self.novelty.copy()
        return made

    def _discount(self, row: int) -> None:
        item = self.pool.items[row]
        start, stop = np.searchsorted(self._items, [item, item + 1])
        if stop - start < 2:
            return
        own, vectors = self._order[start:stop], self.pool.embeddings
        gap = np.abs(self.pool.frames[own] - self.pool.frames[row]) / self.limits.span
        apart = np.linalg.norm(vectors[own] - vectors[row], axis=1) / self.limits.alike
        self.novelty[own] = np.minimum(self.novelty[own], np.minimum(gap, apart))


def brought_up(taken: Taken | None, pool: Pool, rows: Rows, limits: Limits) -> Taken:
    """A new one of exactly these rows: ``taken`` with what is new, or all anew where that is of other frames or limits,
    or has more."""
    wanted = set(rows.tolist())
    usable = taken is not None and taken.pool.embeddings is pool.embeddings and taken.limits == limits
    made = taken.copy(pool) if taken is not None and usable and taken.rows <= wanted else Taken(pool, limits)
    made.add(np.array(sorted(wanted - made.rows), np.int64))
    return made
