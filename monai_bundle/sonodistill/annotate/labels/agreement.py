"""How far annotators agree on the frames that both have labelled."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.model import FINAL, LabelRow, Status

if TYPE_CHECKING:
    from sonodistill.annotate.labels.store import LabelStore

_RESAMPLES = 2000
_COVERED = 95.0


@dataclass(frozen=True, slots=True)
class Overlap:
    """Dice of one label between two annotators.

    Attributes:
        frames: in which at least one of them drew it, and which the figures are of.
        both_empty: frames in which neither drew it; they agree, but have no Dice.
        mean: of the Dice of those frames, None where there is none.
        interval: (low, high), 95 % of the mean by bootstrap; None for frames of fewer than two items.
    """

    frames: int
    both_empty: int
    mean: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Agreement:
    """What two annotators say of the same frames.

    Attributes:
        annotators: their names, in order.
        frames: that both have a mask of.
        unlike: frames whose masks have other sizes, and cannot be compared; not among ``frames``.
        dice: label -> its overlap.
        classified: frames that both gave a class.
        kappa: Cohen's kappa of these classes, unweighted (Cohen 1960); None where there are none, or where chance
            alone would make them agree always.
    """

    annotators: tuple[str, str]
    frames: int
    unlike: int
    dice: dict[str, Overlap]
    classified: int
    kappa: float | None


def agreement(store: LabelStore, *, statuses: Sequence[Status] = FINAL, seed: int = 0) -> list[Agreement]:
    """Every pair of annotators that have a frame in common.

    The bootstrap draws items, each with all of its frames: frames of one cine are no independent evidence.

    Args:
        store: of the labels.
        statuses: of the labels that count.
        seed: of the bootstrap.
    """
    tallies: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
    for _, rows in itertools.groupby(store.rows(status=statuses), key=lambda row: row.frame):
        both = sorted(rows, key=lambda row: row.annotator)
        masks = {row.annotator: _mask(store, row) for row in both} if len(both) > 1 else {}
        for one, other in itertools.combinations(both, 2):
            tally = tallies[one.annotator, other.annotator]
            if one.classification and other.classification:
                tally.classes.append((one.classification, other.classification))
            first, second = masks[one.annotator], masks[other.annotator]
            if first is None or second is None:
                continue
            if first.shape != second.shape:
                tally.unlike += 1
                continue
            tally.scores.append(dice_of(first, second, len(store.names)))
            tally.items.append(one.frame.item)
    return [tally.result(pair, store.names, seed) for pair, tally in sorted(tallies.items())]


@dataclass(slots=True)
class _Tally:
    """Of two annotators: (labels,) Dice and item of each frame, pairs of classes, frames of other sizes."""

    scores: list[NDArray[np.float64]] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    classes: list[tuple[str, str]] = field(default_factory=list)
    unlike: int = 0

    def result(self, pair: tuple[str, str], names: Sequence[str], seed: int) -> Agreement:
        table = np.array(self.scores).reshape(len(self.scores), len(names))
        dice = {name: _overlap(table[:, column], self.items, seed) for column, name in enumerate(names)}
        return Agreement(pair, len(self.scores), self.unlike, dice, len(self.classes), cohen_kappa(self.classes))


def _mask(store: LabelStore, row: LabelRow) -> NDArray[np.uint8] | None:
    """As it is now, which may be None: it may have been taken back since the row was read."""
    label = store.get(row.frame, row.annotator) if row.shape else None
    return None if label is None else label.mask


def dice_of(a: NDArray[np.uint8], b: NDArray[np.uint8], labels: int) -> NDArray[np.float64]:
    """(labels,) 2 |A and B| / (|A| + |B|) of label numbers 1, 2, ...; nan where neither mask has the label."""
    count = labels + 1
    joint = np.bincount(a.ravel().astype(np.intp) * count + b.ravel(), minlength=count * count).reshape(count, count)
    both, sizes = joint.diagonal()[1:], (joint.sum(axis=0) + joint.sum(axis=1))[1:]
    return np.divide(2.0 * both, sizes, out=np.full(labels, np.nan), where=sizes > 0)


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """(observed - expected) / (1 - expected) agreement of two raters; None where that is 0 / 0, and for no pair."""
    if not pairs:
        return None
    classes = sorted({name for pair in pairs for name in pair})
    numbers = np.array([[classes.index(name) for name in pair] for pair in pairs])
    first, second = (np.bincount(numbers[:, rater], minlength=len(classes)) / len(pairs) for rater in (0, 1))
    expected = float(first @ second)
    if len(classes) == 1:
        return None
    return (float((numbers[:, 0] == numbers[:, 1]).mean()) - expected) / (1 - expected)


def _overlap(scores: NDArray[np.float64], items: Sequence[str], seed: int) -> Overlap:
    drawn = ~np.isnan(scores)
    values, count = scores[drawn], int(drawn.sum())
    empty = len(scores) - count
    if not count:
        return Overlap(0, empty, None, None)
    _, cluster = np.unique(np.array(items)[drawn], return_inverse=True)
    sizes, sums = np.bincount(cluster), np.bincount(cluster, weights=values)
    if len(sizes) < 2:
        return Overlap(count, empty, float(values.mean()), None)
    picks = np.random.default_rng(seed).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), _RESAMPLES)
    low, high = np.percentile((picks @ sums) / (picks @ sizes), [50 - _COVERED / 2, 50 + _COVERED / 2])
    return Overlap(count, empty, float(values.mean()), (float(low), float(high)))
