"""Intervals and tests: how far a result would move with other patients and other seeds.

Images of one group (patient, case, video) are not independent: whole groups are resampled, never images. An interval
of one run says how the result depends on the test set alone; only several runs say how it depends on the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sonodistill.errors import BundleConfigError, EmptyInputError, SonoDistillError

RESAMPLES = 2000
LEVEL = 0.95
MOST_UNDEFINED = 0.05  # share of resamples without a value (a class was not drawn) above which no interval is given
_BLOCK = 200  # resamples at a time, to bound memory: their weights are (200, images)

Floats = NDArray[np.float64]

Statistic = Callable[[NDArray[Any], Floats], Floats]
"""``statistic(run, weights)``: the (images, ...) results of one run and (resamples, images) counts of how often each
image was drawn, to (resamples,); NaN where it is undefined."""


Groups = Sequence[Any] | NDArray[Any]
"""(images,): which patient, case or video each image is of."""


class MisalignedResultsError(SonoDistillError):
    """Results that are not of the same images, or not one row an image."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the ends of its 95 % interval.

    ``estimate`` is None where it is undefined in a run; ``low`` and ``high`` too, and where they cannot be known: one
    group, or too many resamples without a value.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n_groups: int
    n_seeds: int


@dataclass(frozen=True, slots=True)
class Paired:
    """How much higher the first of two encoders scores on the same images, and how surely.

    Attributes:
        difference, low, high: of the means, first less second, with its 95 % interval (None: see :class:`Interval`).
        p_value: two-sided, of the test named by ``test``; correct it by :func:`holm` when several pairs are tested.
        images, n_groups: that the comparison rests on.
    """

    difference: float | None
    low: float | None
    high: float | None
    p_value: float
    test: str
    images: int
    n_groups: int


@dataclass(frozen=True, slots=True)
class McNemar:
    """Images that only the first, and only the second run got right, and the two-sided exact p value."""

    only_a: int
    only_b: int
    p_value: float


def mean(run: NDArray[Any], weights: Floats) -> Floats:
    """Weighted mean of (images,) values, leaving out those that are NaN (an undefined distance): a Statistic."""
    defined = ~np.isnan(run)
    total = weights @ defined.astype(float)
    return weights @ np.where(defined, run, 0.0) / np.where(total > 0, total, np.nan)


def bootstrap(
    statistic: Statistic, values: ArrayLike, groups: Groups, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Percentile 95 % interval of a statistic, from resamples of whole groups and, with several, of runs.

    Every resample draws as many groups as there are with replacement, the same for all runs, since all runs have the
    same test set; then one run less than there are, and takes the mean of their statistics. One less, since means of
    n drawn from n vary less than means of n new ones, by (n - 1) / n (McCarthy and Snowden 1985). Intervals of 5 runs
    are still too narrow where seeds matter more than patients: in simulations they held the truth in 88 to 91 %.

    Args:
        statistic: :func:`mean` for columns of results, or ``partial(classification.macro_f1, truth)``.
        values: (seeds, images, ...), or (images,) of a single run.
        groups: of the images.

    Raises:
        EmptyInputError: no run or no image.
        MisalignedResultsError: values and groups are not of the same images.
        BundleConfigError: no resample.
    """
    runs = _runs(values, groups)
    replicates = _replicates(statistic, runs, groups, resamples, (seed, 1))
    return _interval(_estimate(statistic, runs), replicates, groups, len(runs))


def bootstrap_difference(
    statistic: Statistic,
    a: ArrayLike,
    b: ArrayLike,
    groups: Groups,
    *,
    same_runs: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """:func:`bootstrap` of the statistic of ``a`` less that of ``b``; both take the same groups in every resample.

    Args:
        a, b: (seeds, images, ...) of the same images; as many runs each, or not.
        same_runs: whether run i of both belongs together (the same draw of labelled images), and is drawn together;
            otherwise each takes runs of its own. A shared seed alone does not make two networks alike.

    Raises:
        EmptyInputError, MisalignedResultsError: as in :func:`bootstrap`, or runs that cannot belong together.
    """
    first, second = _runs(a, groups), _runs(b, groups)
    if same_runs and len(first) != len(second):
        raise MisalignedResultsError(
            f"{len(first)} runs beside {len(second)}", remedy="give the same runs of both, or same_runs=False"
        )
    ours = _replicates(statistic, first, groups, resamples, (seed, 1))
    theirs = _replicates(statistic, second, groups, resamples, (seed, 1 if same_runs else 2))
    difference = _estimate(statistic, first) - _estimate(statistic, second)
    return _interval(difference, ours - theirs, groups, min(len(first), len(second)))


def paired(
    a: ArrayLike, b: ArrayLike, groups: Groups, *, same_runs: bool = False, resamples: int = RESAMPLES, seed: int = 0
) -> Paired:
    """Compare a metric of each image (Dice, distance, correctness) between two encoders on the same images.

    The interval is :func:`bootstrap_difference` of the means: groups and runs are resampled. The p value is Wilcoxon's
    signed-rank test of the groups' mean differences, after the mean over runs: it asks whether these runs would
    differ on other patients, and does not know of other seeds. Images without a value (NaN) in any run of either are
    left out of both.

    Args:
        a, b: (seeds, images), or (images,). groups, same_runs: as in :func:`bootstrap_difference`.

    Raises:
        EmptyInputError: no image has a value in every run.
        MisalignedResultsError: as in :func:`bootstrap_difference`.
    """
    from scipy.stats import wilcoxon

    first, second, names = _runs(a, groups), _runs(b, groups), np.asarray(groups)
    known = ~(np.isnan(first).any(axis=0) | np.isnan(second).any(axis=0))
    if not known.any():
        raise EmptyInputError("no image has a value in every run of both", remedy="compare another metric")
    first, second, names = first[:, known], second[:, known], names[known]
    interval = bootstrap_difference(mean, first, second, names, same_runs=same_runs, resamples=resamples, seed=seed)
    _, index = np.unique(names, return_inverse=True)
    by_image = first.mean(axis=0) - second.mean(axis=0)
    # Rounded, for sums in another order must not turn equal scores into ranks.
    by_group = np.round(np.bincount(index, by_image) / np.bincount(index), 12)
    p_value = float(wilcoxon(by_group).pvalue) if by_group.any() else 1.0
    test = f"Wilcoxon signed-rank, {len(by_group)} groups"
    ends = interval.estimate, interval.low, interval.high
    return Paired(*ends, p_value, test, int(known.sum()), len(by_group))


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """McNemar's exact test of two classifiers: are the images that only one gets right shared evenly?

    It takes images as independent, and one run each; several runs or images of a group are for :func:`paired`.

    Args:
        correct_a, correct_b: (images,) bool.

    Raises:
        MisalignedResultsError: not bool, or not of the same images.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(correct_a), np.asarray(correct_b)
    if first.shape != second.shape or first.ndim != 1 or first.dtype != np.bool_ or second.dtype != np.bool_:
        raise MisalignedResultsError(
            f"{first.dtype} of shape {first.shape} beside {second.dtype} of shape {second.shape}",
            remedy="give (images,) bool of one run each",
        )
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    apart = only_a + only_b
    return McNemar(only_a, only_b, float(binomtest(only_a, apart, 0.5).pvalue) if apart else 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979), in the order given: reject where one is below the level.

    Raises:
        BundleConfigError: one is not in [0, 1].
    """
    given = np.asarray(p_values, float)
    if not ((given >= 0) & (given <= 1)).all():  # also NaN
        raise BundleConfigError(f"p values {given.tolist()}", remedy="give values in [0, 1]")
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return adjusted.tolist()


def wilson(successes: int, n: int) -> Interval:
    """A rate with Wilson's 95 % interval, which stays within [0, 1] and does not shrink to nothing at 0 of n.

    It takes the n images as independent, each a group of its own. All None where n is 0.

    Raises:
        BundleConfigError: more successes than trials, or fewer than none.
    """
    from scipy.stats import binomtest

    if not 0 <= successes <= n:
        raise BundleConfigError(f"{successes} of {n}", remedy="give 0 <= successes <= n")
    if n == 0:
        return Interval(None, None, None, 0, 1)
    ends = binomtest(int(successes), int(n)).proportion_ci(LEVEL, method="wilson")
    return Interval(successes / n, float(ends.low), float(ends.high), int(n), 1)


def _runs(values: ArrayLike, groups: Groups) -> Floats:
    """(seeds, images, ...) float64."""
    runs = np.asarray(values, float)
    runs = runs[None] if runs.ndim == 1 else runs
    if runs.ndim < 2 or runs.shape[1] != len(groups):
        raise MisalignedResultsError(
            f"values of shape {runs.shape} for {len(groups)} images", remedy="give (seeds, images, ...)"
        )
    if not runs.size:
        raise EmptyInputError("no result to resample", remedy="give at least one run of one image")
    return runs


def _estimate(statistic: Statistic, runs: Floats) -> float:
    return float(np.mean([statistic(run, np.ones((1, runs.shape[1])))[0] for run in runs]))


def _replicates(statistic: Statistic, runs: Floats, groups: Groups, resamples: int, seeds: tuple[int, int]) -> Floats:
    """(resamples,) mean over the drawn runs. The first seed alone says which groups are drawn; both, which runs."""
    if resamples < 1:
        raise BundleConfigError(f"resamples is {resamples}", remedy="give 1 or more")
    blocks = _weights(groups, resamples, seeds[0])
    of_runs = np.concatenate([np.stack([statistic(run, weights) for run in runs], axis=1) for weights in blocks])
    drawn = _drawn(np.random.default_rng(seeds), resamples, len(runs), max(len(runs) - 1, 1))
    # A run that was not drawn does not matter, even where its statistic is NaN.
    return np.where(drawn > 0, of_runs * drawn, 0.0).sum(axis=1) / drawn.sum(axis=1)


def _weights(groups: Groups, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of (resamples, images): how often the group of each image was drawn."""
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    generator = np.random.default_rng((seed, 0))
    for start in range(0, resamples, _BLOCK):
        yield _drawn(generator, min(_BLOCK, resamples - start), len(names), len(names))[:, index]


def _drawn(generator: np.random.Generator, resamples: int, n: int, draws: int) -> Floats:
    """(resamples, n): how often each of n is among the draws with replacement."""
    drawn = generator.integers(n, size=(resamples, draws)) + n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n).astype(float)


def _interval(estimate: float, replicates: Floats, groups: Groups, n_seeds: int) -> Interval:
    n_groups = len(np.unique(np.asarray(groups)))
    if not np.isfinite(estimate):
        return Interval(None, None, None, n_groups, n_seeds)
    defined = replicates[np.isfinite(replicates)]
    if n_groups < 2 or len(defined) < (1 - MOST_UNDEFINED) * len(replicates):
        return Interval(estimate, None, None, n_groups, n_seeds)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high), n_groups, n_seeds)
