"""Strategies: which frames to label next. Pure functions of numbers, for the server and the simulation alike."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.acquire.cluster import clusters, typicality
from sonodistill.annotate.acquire.pool import Floats, Pick, Pool, Rows
from sonodistill.annotate.acquire.taken import Limits, Taken, brought_up
from sonodistill.annotate.errors import UnknownIdError

STRATEGIES = {
    "first": "the first frames without a label",
    "random": "frames drawn at random",
    "spread": "files drawn at random, and of each a frame that is new beside its labelled ones",
    "kcenter": "frames that are least like the labelled ones (greedy core-set)",
    "typicality": "the most typical frames of the largest groups of alike ones without a label (TypiClust)",
    "uncertainty": "frames that a model trained on the labels is least sure of; random before there is one",
    "uncertainty_diversity": "of the least sure ones, those least like the labelled ones; random before there is one",
    "auto": "typicality until 20 are labelled, then uncertainty_diversity",
}
"""Name -> what it chooses."""

ENOUGH = 20
"""Labelled frames from which ``auto`` trusts the uncertainty."""

_MOST_CLUSTERS = 256
_UNSURE_SHARE, _UNSURE_EACH = 0.1, 10  # of the candidates, and for each to be chosen: those that count as unsure
_PLAIN = ("first", "random")
Mask = NDArray[np.bool_]


def check_strategy(name: str) -> str:
    """The name itself. Errors: UnknownIdError for another than those of ``STRATEGIES``."""
    if name not in STRATEGIES:
        raise UnknownIdError(f"no strategy {name[:40]!r}", remedy=f"choose one of {', '.join(STRATEGIES)}")
    return name


def select(
    strategy: str,
    pool: Pool,
    labelled: Rows,
    candidates: Rows,
    n: int = 1,
    *,
    seed: int | tuple[int, ...] = 0,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    taken: Taken | None = None,
) -> list[Pick]:
    """Up to ``n`` of the candidates, the most wanted first; the same for the same arguments.

    All strategies but "first" and "random", which are there for comparison, keep frames of one file apart: see
    :class:`Limits`.

    Args:
        strategy: name in :data:`STRATEGIES`.
        pool: N frames.
        labelled: rows of the pool that have a label.
        candidates: rows that may be chosen.
        n: how many.
        seed: of what is drawn.
        limits: of frames of one file.
        taken: what was labelled before, to save computing all of it each time.

    Errors: UnknownIdError for another strategy.
    """
    check_strategy(strategy)
    allowed = np.zeros(len(pool), bool)
    allowed[candidates] = True
    generator = np.random.default_rng(seed)
    now = None if strategy in _PLAIN else brought_up(taken, pool, labelled, limits)
    scorer = _scorer(strategy, pool, labelled, allowed, n, generator, now)
    picks: list[Pick] = []
    while len(picks) < n and allowed.any():
        usable = allowed if now is None else _usable(allowed, now, [pick.row for pick in picks], n)
        scores = scorer.scores(usable)
        if now is not None:
            scores = scores * now.novelty
        row = int(np.where(usable, scores, -1).argmax())
        picks.append(Pick(row, float(scores[row]), scorer.why(row)))
        allowed[row] = False
        scorer.take(row)
        if now is not None:
            now.add(np.array([row]))
    return picks


def _usable(allowed: Mask, taken: Taken, batch: Rows | list[int], n: int) -> Mask:
    """Of the allowed rows those that are new enough, and of files that have not had their share of the batch; where
    there is none, files may have more; where none is new enough, whatever is allowed."""
    new = taken.novelty >= taken.limits.least
    items, counts = np.unique(taken.pool.items[batch], return_counts=True)
    full = items[counts >= max(1, math.ceil(taken.limits.share * n))]
    open_ = ~np.isin(taken.pool.items, full) if len(full) else np.ones(len(new), bool)
    for rule in (new & open_, new, open_):
        left = allowed & rule
        if left.any():
            return left
    return allowed


class _Scorer(Protocol):
    """Scores of 0 or more for all rows, of which those that are usable count."""

    def scores(self, usable: Mask) -> Floats: ...

    def take(self, row: int) -> None: ...

    def why(self, row: int) -> str: ...


def _scorer(
    strategy: str,
    pool: Pool,
    labelled: Rows,
    allowed: Mask,
    n: int,
    generator: np.random.Generator,
    taken: Taken | None,
) -> _Scorer:
    unsure = pool.uncertainty
    if unsure is not None and not np.isfinite(unsure[allowed]).any():
        unsure = None
    if strategy == "auto":
        ready = unsure is not None and len(labelled) >= ENOUGH
        strategy = "uncertainty_diversity" if ready else "typicality"
    if strategy == "first":
        return _Fixed(np.arange(len(pool), 0, -1, dtype=np.float32), "the first without a label")
    if strategy == "random" or (strategy.startswith("uncertainty") and unsure is None):
        return _Fixed(generator.random(len(pool), np.float32), "drawn at random")
    if strategy == "spread":
        return _Fixed(_by_file(pool, allowed, generator), "of a file drawn at random")
    if strategy == "typicality":
        return _Typical(pool, labelled, n, generator)
    if strategy == "uncertainty":
        return _Unsure(np.nan_to_num(unsure))  # type: ignore[arg-type]
    if strategy == "kcenter":
        return _Far(taken)  # type: ignore[arg-type]
    return _UnsureAndFar(np.nan_to_num(unsure), taken, n)  # type: ignore[arg-type]


def _by_file(pool: Pool, allowed: Mask, generator: np.random.Generator) -> Floats:
    """(N,) random numbers, whose largest in a file is uniform in [0, 1] whatever the number of its frames: for stills
    just those of "random"."""
    frames = np.bincount(pool.items, weights=allowed)[pool.items]
    return np.power(generator.random(len(pool), np.float32).astype(float), np.maximum(frames, 1))


class _Fixed:
    """Scores that do not change."""

    def __init__(self, scores: Floats, reason: str) -> None:
        self._scores, self._reason = scores, reason

    def scores(self, usable: Mask) -> Floats:  # noqa: ARG002
        return self._scores

    def take(self, row: int) -> None: ...

    def why(self, row: int) -> str:  # noqa: ARG002
        return self._reason


class _Unsure(_Fixed):
    def __init__(self, uncertainty: Floats) -> None:
        super().__init__(uncertainty, "")

    def why(self, row: int) -> str:
        return f"the model is unsure of it ({self._scores[row]:.2f})"


class _Far:
    """Greedy k-center: Sener and Savarese, "Active Learning for Convolutional Neural Networks" (ICLR 2018)."""

    def __init__(self, taken: Taken) -> None:
        self._taken = taken

    def scores(self, usable: Mask) -> Floats:
        if self._taken.rows:
            return self._taken.distance
        # The first is the most central one: alone, an outlier says least of the others.
        vectors = self._taken.pool.embeddings
        return 1 + vectors @ vectors[usable].mean(axis=0)

    def take(self, row: int) -> None: ...

    def why(self, row: int) -> str:
        far = self._taken.distance[row]
        return (
            f"unlike every labelled frame (distance {far:.2f})" if np.isfinite(far) else "in the middle of all frames"
        )


class _UnsureAndFar:
    """Among the candidates that the model is least sure of, weighted k-center."""

    def __init__(self, uncertainty: Floats, taken: Taken, n: int) -> None:
        self._uncertainty, self._taken, self._each = uncertainty, taken, n * _UNSURE_EACH

    def scores(self, usable: Mask) -> Floats:
        count = max(self._each, round(_UNSURE_SHARE * int(usable.sum())))
        scores = self._uncertainty * np.minimum(self._taken.distance, 2)
        if count < usable.sum():
            least = -np.partition(-self._uncertainty[usable], count - 1)[count - 1]
            scores[self._uncertainty < least] = 0
        return scores

    def take(self, row: int) -> None: ...

    def why(self, row: int) -> str:
        far = min(float(self._taken.distance[row]), 2)
        return f"the model is unsure of it ({self._uncertainty[row]:.2f}), and it is unlike labelled ones ({far:.2f})"


class _Typical:
    """TypiClust: as many clusters as there will be labelled frames; the most typical of the largest without a label."""

    def __init__(self, pool: Pool, labelled: Rows, n: int, generator: np.random.Generator) -> None:
        self._pool, self._generator = pool, generator
        k = max(1, min(len(labelled) + n, _MOST_CLUSTERS, len(pool)))
        self._cluster = clusters(pool.embeddings, k, generator)
        self._sizes = np.bincount(self._cluster, minlength=k)
        self._labelled = np.bincount(self._cluster[labelled], minlength=k)

    def scores(self, usable: Mask) -> Floats:
        there = np.bincount(self._cluster[usable], minlength=len(self._sizes)) > 0
        order = np.lexsort((-self._sizes, self._labelled, ~there))
        members = np.flatnonzero(self._cluster == order[0])
        rows, typical = typicality(self._pool.embeddings, members, self._generator)
        scores = np.zeros(len(self._pool), np.float32)
        # A row that was not drawn for the comparison is as good as none, but better than another cluster's.
        scores[members] = 1e-6
        scores[rows] = typical
        return scores

    def take(self, row: int) -> None:
        self._labelled[self._cluster[row]] += 1

    def why(self, row: int) -> str:
        cluster = self._cluster[row]
        count = int(self._labelled[cluster])
        said = f"{count or 'none'} {'are' if count > 1 else 'is'} labelled"
        return f"typical of {self._sizes[cluster]} frames like it, of which {said}"
