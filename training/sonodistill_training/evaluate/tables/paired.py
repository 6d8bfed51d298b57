"""Every encoder of a table against its baseline, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sonodistill.errors import DatasetError
from sonodistill_training.evaluate.learning.recipes import Recipe
from sonodistill_training.evaluate.metrics.statistics import (
    McNemar,
    MisalignedResultsError,
    Paired,
    holm,
    mcnemar,
    paired,
)
from sonodistill_training.evaluate.results import Cell, Result
from sonodistill_training.evaluate.tables.needed import rank
from sonodistill_training.evaluate.tables.parts import Runs, architecture, together, unlike

METRIC = {"segmentation": "dice_empty1", "classification": "accuracy"}
_OF_STRUCTURES = "dice_structures_images"


@dataclass(frozen=True, slots=True)
class Comparison:
    """An encoder less its baseline.

    Attributes:
        cell: the encoder's; draw and seed are 0.
        against: the baseline's.
        metric: what was compared, of each image.
        found: difference, interval and p value.
        p_holm: the p value corrected for the number of encoders that are compared under the same conditions.
        runs: of the encoder and of the baseline.
        mcnemar: of the first run that both have (see ``mcnemar_run``), for classification.
        mcnemar_run: its draw and seed.
    """

    cell: Cell
    against: Cell
    metric: str
    found: Paired
    p_holm: float
    runs: tuple[int, int]
    mcnemar: McNemar | None = None
    mcnemar_run: tuple[int, int] | None = None

    @property
    def baseline(self) -> str:
        """The baseline's name."""
        return self.against.encoder


def conditions(cell: Cell) -> Cell:
    """What two cells must share to be compared: all but the encoder, its weights, draw and seed.

    Metrics are taken on each frame's own grid, so that a size rounded to whole patches is no other condition.
    """
    return replace(cell, encoder="", weights="", recipe=cell.recipe.comparable, draw=0, seed=0)


def by_conditions(runs: Sequence[Runs], any_head: bool = False) -> dict[Cell, list[Runs]]:
    """The runs that may stand in one table.

    Args:
        any_head: whether their heads may differ.

    Raises:
        MisalignedResultsError: runs of equal conditions are not of the same test images.
    """
    found: dict[Cell, list[Runs]] = {}
    for one in runs:
        shared = conditions(one.cell)
        found.setdefault(replace(shared, head="") if any_head else shared, []).append(one)
    for members in found.values():
        for other in members[1:]:
            if sorted(members[0].truth()) != sorted(other.truth()):
                raise MisalignedResultsError(
                    f"{members[0].cell.title!r} and {other.cell.title!r} are of the same data and split by name, not "
                    "of the same test images",
                    path=other.results[0].folder,
                    remedy="remove the older folder and run again",
                )
    return found


def paired_tests(results: Sequence[Result], baseline: str | None = None) -> list[Comparison]:
    """Each encoder against the baseline, under each set of conditions (data, split, recipe, protocol, labels) alone.

    Runs are compared image by image after the mean over runs (Wilcoxon's test of the groups' differences); for
    classification McNemar's test of single runs stands beside it.

    Args:
        results: of any conditions.
        baseline: the name of an encoder, which may have another head (a transformer's light one); default the random
            one of the same architecture and head, or the first in the papers' order.

    Raises:
        DatasetError: nothing has that name.
        MisalignedResultsError: results of equal conditions are not of the same test images.
    """
    grouped = by_conditions(together(results), any_head=baseline is not None)
    if baseline is not None and not any(one.cell.encoder == baseline for runs in grouped.values() for one in runs):
        names = sorted({result.cell.encoder for result in results})
        raise DatasetError(f"there is no result of {baseline}", remedy=f"choose one of {', '.join(names)}")
    return [comparison for runs in grouped.values() for comparison in _among(runs, baseline)]


def not_compared(results: Sequence[Result], baseline: str | None = None) -> list[str]:
    """Who has no comparison with the baseline because that was evaluated under other conditions, a sentence each."""
    grouped = by_conditions(together(results), any_head=baseline is not None)
    everything = [one for runs in grouped.values() for one in runs]
    said = []
    for runs in grouped.values():
        for one in runs:
            name = baseline or f"{architecture(one.cell.encoder)}-Rand"
            named = [other for other in everything if other.cell.encoder == name]
            elsewhere = [other for other in named if looks_like(one, other, any_head=baseline is not None)]
            if elsewhere and all(other.cell.encoder != name for other in runs):
                apart = "; ".join(differences(one, elsewhere[0]))
                said.append(f"{one.cell.encoder} is not compared with {name}: {apart}.")
    return said


def looks_like(one: Runs, other: Runs, any_head: bool = False) -> bool:
    """Whether the tables of two would bear the same title."""
    names = ("task", "data", "protocol", "fraction", "shots", *(() if any_head else ("head",)))
    return all(getattr(one.cell, name) == getattr(other.cell, name) for name in names)


def compare(one: Runs, other: Runs, metric: str | None = None) -> Paired:
    """``one`` less ``other`` on the same test images; their heads may differ, as in the papers.

    Raises:
        DatasetError: their conditions or test images differ; the message says in what.
    """
    other = _reordered(other, one)
    apart = [difference for difference in differences(one, other) if not difference.startswith("head ")]
    if apart:
        raise DatasetError(
            f"{one.cell.encoder} and {other.cell.encoder} cannot be compared: {'; '.join(apart)}",
            remedy="evaluate both with the same data, split and recipe",
        )
    name = metric or metric_of(one)
    drawn_together = one.draws > 1 and one.order == other.order
    return paired(one.per_image(name), other.per_image(name), one.groups, same_runs=drawn_together)


def metric_of(runs: Runs) -> str:
    """What two encoders are compared by, image by image."""
    return _OF_STRUCTURES if runs.structures else METRIC[runs.cell.task]


def differences(one: Runs, other: Runs) -> list[str]:
    """In what the conditions of two differ, in words; empty when they can be compared."""
    ours, theirs = conditions(one.cell), conditions(other.cell)
    names = ("task", "data", "data_sha256", "protocol", "head", "precision", "fraction", "shots")
    found = unlike(ours, theirs, names) + unlike(ours.recipe, theirs.recipe, Recipe.__dataclass_fields__)
    return found or ([] if sorted(one.truth()) == sorted(other.truth()) else ["other test images"])


def _among(runs: Sequence[Runs], baseline: str | None) -> list[Comparison]:
    runs = sorted(runs, key=lambda one: rank(one.cell.encoder))
    pairs = [(one, other) for one in runs if (other := _baseline(one, runs, baseline)) is not None]
    found = [compare(one, other) for one, other in pairs]
    corrected = holm([each.p_value for each in found]) if found else []
    return [_comparison(one, other, each, p) for (one, other), each, p in zip(pairs, found, corrected, strict=True)]


def _baseline(one: Runs, runs: Sequence[Runs], name: str | None) -> Runs | None:
    if name is None:
        random = f"{architecture(one.cell.encoder)}-Rand"
        chosen = next((other for other in runs if other.cell.encoder == random), runs[0])
    else:
        chosen = next((other for other in runs if other.cell.encoder == name), None)
    return None if chosen is None or chosen.cell == one.cell else chosen


def _reordered(other: Runs, one: Runs) -> Runs:
    """The same runs with their images in the order of another's."""
    if set(other.images) != set(one.images):
        return other
    groups = dict(zip(other.images, other.groups, strict=True))
    return replace(other, images=one.images, groups=tuple(groups[name] for name in one.images))


def _comparison(one: Runs, other: Runs, found: Paired, p_holm: float) -> Comparison:
    exact, run = None, None
    shared = [where for where in one.order if where in other.order]
    if one.cell.task == "classification" and shared:
        run = shared[0]
        aligned = _reordered(other, one)
        ours, theirs = one.per_image("accuracy") > 0, aligned.per_image("accuracy") > 0
        exact = mcnemar(ours[one.order.index(run)], theirs[other.order.index(run)])
    counts = len(one.results), len(other.results)
    return Comparison(one.cell, other.cell, metric_of(one), found, p_holm, counts, exact, run)
