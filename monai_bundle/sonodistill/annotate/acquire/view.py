"""What can be chosen at one moment, ready for the strategies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sonodistill.annotate.acquire.pool import Floats, Pool, Rows, prepare
from sonodistill.annotate.acquire.store import EmbeddingStore, Key
from sonodistill.annotate.acquire.taken import Limits, Taken, brought_up
from sonodistill.annotate.acquire.uncertainty import Ensemble
from sonodistill.annotate.ids import FrameId

_SCORED_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class View:
    """The frames that can be chosen, as they were at one moment. It is not changed.

    Attributes:
        pool: their numbers.
        frames: of each row.
        rows: frame -> row.
        taken: those that were labelled.
    """

    pool: Pool
    frames: Sequence[FrameId] = ()
    rows: Mapping[FrameId, int] = field(default_factory=dict)
    taken: Taken | None = None


def empty_view() -> View:
    """Nothing to choose."""
    none = np.zeros(0, np.int64)
    return View(Pool(np.zeros((0, 1), np.float32), none, none))


class ViewMaker:
    """Makes views of a store; what did not change since the last one is not computed again.

    Args:
        store: of the embeddings.
        limits: of frames of one file.
    """

    def __init__(self, store: EmbeddingStore, limits: Limits) -> None:
        self._store, self._limits = store, limits
        self._rows: list[int] = []
        self._last: View | None = None
        self._ensemble: Ensemble | None = None
        self._scores: Floats = np.zeros(0, np.float32)

    def make(
        self,
        is_current: Callable[[Key], bool],
        labelled: Collection[FrameId],
        ensemble: Ensemble | None,
        between: Callable[[], None],
    ) -> View:
        """The view of now.

        Args:
            is_current: whether a row's file is there, and as it was.
            labelled: frames with a label.
            ensemble: what says how unsure a model is.
            between: called between one part of a longer computation and the next.
        """
        store = self._store
        rows = [row for row in store.rows.values() if is_current(store.keys[row])]
        last = self._last
        if last is None or rows != self._rows:
            frames = [store.keys[row][0] for row in rows]
            numbers: dict[str, int] = {}
            items = np.array([numbers.setdefault(frame.item, len(numbers)) for frame in frames], np.int64)
            indices = np.array([frame.index for frame in frames], np.int64)
            pool = Pool(prepare(store.vectors()[rows]), items, indices)
            last = View(pool, frames, {frame: row for row, frame in enumerate(frames)})
        self._score(np.array(rows, np.int64), ensemble, between)
        unsure = None if ensemble is None else self._scores[rows]
        pool = Pool(last.pool.embeddings, last.pool.items, last.pool.frames, unsure)
        there = np.array(sorted(last.rows[frame] for frame in labelled if frame in last.rows), np.int64)
        taken = brought_up(last.taken, pool, there, self._limits)
        self._rows, self._last = rows, View(pool, last.frames, last.rows, taken)
        return self._last

    def _score(self, rows: Rows, ensemble: Ensemble | None, between: Callable[[], None]) -> None:
        """Score the rows that this ensemble has not scored."""
        if ensemble is not self._ensemble:
            self._ensemble, self._scores = ensemble, self._scores[:0]
        unknown = np.full(len(self._store) - len(self._scores), np.nan, np.float32)
        self._scores = np.concatenate([self._scores, unknown])
        if ensemble is None:
            return
        left = rows[np.isnan(self._scores[rows])]
        for start in range(0, len(left), _SCORED_AT_ONCE):
            between()
            part = left[start : start + _SCORED_AT_ONCE]
            self._scores[part] = ensemble.score(self._store.maps(part))
