"""What tables are made of: results that belong together, their metrics with intervals, and the table itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import DatasetError
from sonodistill_training.evaluate.metrics import classification
from sonodistill_training.evaluate.metrics.statistics import (
    Interval,
    MisalignedResultsError,
    Statistic,
    bootstrap,
    mean,
    wilson,
)
from sonodistill_training.evaluate.metrics.structures import (
    counts,
    image_dice,
    is_of_structures,
    metrics_of_structures,
    statistic,
    structures_of,
)
from sonodistill_training.evaluate.metrics.structures import title as title_of_structure
from sonodistill_training.evaluate.results import Cell, Result
from sonodistill_training.evaluate.tables.published import Published

Floats = NDArray[np.float64]

TITLES = {
    "dice_empty1": "Dice",
    "dice_lesions": "Dice, lesions only",
    "iou_empty1": "IoU",
    "iou_lesions": "IoU, lesions only",
    "false_positive_rate": "False positives on normals",
    "missed": "Lesions missed",
    "dice_structures": "Dice, mean of structures",
    "dice_classes": "Dice, with background",
    "dice_structures_images": "Dice of structures, mean over images",
    "hd95_px": "HD95 (px), where defined",
    "hd95_mm": "HD95 (mm), where defined",
    "accuracy": "Accuracy",
    "macro_f1": "Macro F1",
    "auroc": "AUROC",
    "calibration_error": "Calibration error",
    "brier": "Brier score",
}
OF_IMAGES = ("dice_empty1", "dice_lesions", "iou_empty1", "iou_lesions", "false_positive_rate", "missed")
_RATES = ("false_positive_rate", "missed")
DISTANCES = ("hd95_px", "hd95_mm")
CLASSIFICATION = tuple(classification.METRICS)
P_VALUES = ("p", "p_holm")
WITH_NORMALS = ("dice_lesions", "iou_lesions", "false_positive_rate")
"""Metrics that say something of their own only where some test images have no lesion."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A place in a table.

    Attributes:
        estimate, low, high: ours, with its 95 % interval; None where it is unknown.
        published: what the paper prints there.
        codes: of the errata of that (see ``errata.REASONS``).
        reason: why there is no value of ours.
        text: of a column without numbers.
    """

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    published: Published | None = None
    codes: tuple[str, ...] = ()
    reason: str = ""
    text: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the published value."""
        return None if self.estimate is None or self.published is None else self.estimate - self.published.value


@dataclass(frozen=True, slots=True)
class Column:
    """A metric or quantity, how it is headed, and decimals of our values."""

    key: str
    title: str
    decimals: int = 3


@dataclass(frozen=True, slots=True)
class Row:
    """An encoder (or a quantity), an entry for each column, and how many runs ours are of (0: none), with how many
    seeds and draws of the labelled images."""

    name: str
    entries: tuple[Entry, ...]
    runs: int = 0
    seeds: int = 0
    draws: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A table, its caption, and what its reader has to be told (``notices``), as sentences."""

    key: str
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notices: tuple[str, ...] = ()

    def entry(self, row: str, column: str) -> Entry:
        """The entry of a row's name and a column's key."""
        found = next(candidate for candidate in self.rows if candidate.name == row)
        return found.entries[[one.key for one in self.columns].index(column)]


@dataclass(frozen=True)
class Runs:
    """Results that differ in nothing but draw and seed, of the same test images.

    Attributes:
        cell: what they share; draw and seed are 0.
        results: by draw and seed.
        images, groups: (N,) names, of every result.
    """

    cell: Cell
    results: tuple[Result, ...]
    images: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def seeds(self) -> int:
        """How many seeds there are (of any draw)."""
        return len({result.cell.seed for result in self.results})

    @property
    def draws(self) -> int:
        """How many draws of the labelled images there are."""
        return len({result.cell.draw for result in self.results})

    @property
    def counts(self) -> tuple[int, int, int]:
        """Runs, seeds and draws."""
        return len(self.results), self.seeds, self.draws

    @property
    def order(self) -> list[tuple[int, int]]:
        """Draw and seed of each result."""
        return [(result.cell.draw, result.cell.seed) for result in self.results]

    def column(self, name: str) -> NDArray[Any]:
        """(runs, N): a column of the per-image results."""
        return np.stack([_aligned(result, self.images).column(name) for result in self.results])

    def truth(self) -> list[tuple[Any, ...]]:
        """What each test image is compared with: pixels of the lesion and of the frame, or the class."""
        names = ("truth_pixels", "pixels") if self.cell.task == "segmentation" else ("truth",)
        rows = _aligned(self.results[0], self.images)
        columns = [rows.column(name).tolist() for name in names]
        return list(zip(self.images, self.groups, *columns, strict=True))

    @property
    def columns(self) -> list[str]:
        """Names of the per-image results."""
        return list(self.results[0].images.column_names)

    @property
    def structures(self) -> tuple[str, ...]:
        """The background and the structures that the masks tell apart; none for one foreground."""
        return structures_of(self.columns)

    @property
    def has_normals(self) -> bool:
        """Whether a test image is without a lesion."""
        return self.cell.task == "segmentation" and not self.column("lesion")[0].astype(bool).all()

    def has(self, metric: str) -> bool:
        """Whether any of the runs has a value for it (a distance in mm needs a calibration)."""
        if is_of_structures(metric):
            return bool(self.structures)
        return metric not in DISTANCES or not np.isnan(self.column(metric).astype(float)).all()

    def metric(self, name: str) -> Interval:
        """A metric's mean over the runs, with its 95 % interval over groups and runs.

        Raises:
            DatasetError: no such metric.
        """
        statistic, values = self._statistic(name)
        with np.errstate(invalid="ignore"):
            found = bootstrap(statistic, values, self.groups)
        if name in _RATES and found.estimate in (0.0, 1.0):
            # Of what all images share, every resample says the same; Wilson's interval knows how few they are.
            groups = {group for group, value in zip(self.groups, values[0].tolist(), strict=True) if value == value}
            alike = wilson(int(found.estimate) * len(groups), len(groups))
            return replace(found, low=alike.low, high=alike.high)
        return found

    def per_image(self, name: str) -> Floats:
        """(runs, N): Dice or another metric of each image, NaN where it has none; or 1 for a correct class."""
        if name == "accuracy":
            return (self.column("truth") == self.column("predicted")).astype(float)
        if name in DISTANCES:
            return self.column(name).astype(float)
        if name == "dice_structures_images":
            return np.stack([image_dice(run) for run in self._counts()])
        lesion = self.column("lesion").astype(bool)
        empty = self.column("predicted_pixels") == 0
        return {
            "dice_empty1": lambda: self.column("dice").astype(float),
            "iou_empty1": lambda: self.column("iou").astype(float),
            "dice_lesions": lambda: np.where(lesion, self.column("dice"), np.nan),
            "iou_lesions": lambda: np.where(lesion, self.column("iou"), np.nan),
            "false_positive_rate": lambda: np.where(lesion, np.nan, ~empty),
            "missed": lambda: np.where(lesion, empty, np.nan),
        }[name]()

    def _statistic(self, name: str) -> tuple[Statistic, Floats]:
        if self.cell.task == "segmentation" and name in (*OF_IMAGES, *DISTANCES):
            return mean, self.per_image(name)
        if is_of_structures(name) and self.structures:
            if name == "dice_structures_images":
                return mean, self.per_image(name)
            return statistic(name, self.structures), self._counts()
        if self.cell.task == "classification" and name in CLASSIFICATION:
            truth, probabilities = self.classes()
            return partial(classification.METRICS[name], truth), probabilities
        raise DatasetError(f"{self.cell.task} has no metric {name}", remedy=f"choose one of {', '.join(TITLES)}")

    def _counts(self) -> Floats:
        """(runs, N, 3, K) pixels of each structure."""
        columns = {name: self.column(name) for name in self.columns if ":" in name}
        return np.stack(
            [
                counts({name: of[run] for name, of in columns.items()}, self.structures)
                for run in range(len(self.results))
            ]
        )

    def classes(self) -> tuple[NDArray[np.int64], Floats]:
        """(N,) class numbers and (runs, N, K) probabilities."""
        names = [name for name in self.results[0].images.column_names if name.startswith("probability_")]
        labels = [name.removeprefix("probability_") for name in names]
        truth = classification.class_numbers([str(label) for label in self.column("truth")[0]], labels)
        return truth, np.stack([self.column(name) for name in names], axis=2)


def together(results: Sequence[Result]) -> list[Runs]:
    """The results by everything but draw and seed, in the order they come.

    Raises:
        MisalignedResultsError: results of the same cell are not of the same test images.
    """
    found: dict[Cell, list[Result]] = {}
    for result in results:
        found.setdefault(replace(result.cell, draw=0, seed=0), []).append(result)
    return [_runs(cell, members) for cell, members in found.items()]


def _runs(cell: Cell, results: list[Result]) -> Runs:
    ordered = tuple(sorted(results, key=lambda result: (result.cell.draw, result.cell.seed)))
    images = tuple(ordered[0].column("image").tolist())
    groups = tuple(ordered[0].column("group").tolist())
    of_image = dict(zip(images, groups, strict=True))
    for result in ordered[1:]:
        if dict(zip(result.column("image").tolist(), result.column("group").tolist(), strict=True)) != of_image:
            raise MisalignedResultsError(
                f"the test images of {result.cell.title!r} are not those of {ordered[0].cell.title!r}",
                path=result.folder,
                remedy="remove the one of the two folders that is older and run again",
            )
    return Runs(cell, ordered, images, groups)


class _Aligned:
    """A result's columns in the order of the given images."""

    def __init__(self, result: Result, order: NDArray[np.int64]) -> None:
        self._result, self._order = result, order

    def column(self, name: str) -> NDArray[Any]:
        return self._result.column(name)[self._order]


def _aligned(result: Result, images: Sequence[str]) -> _Aligned:
    places = {name: place for place, name in enumerate(result.column("image").tolist())}
    return _Aligned(result, np.array([places[name] for name in images]))


def metrics_of(runs: Sequence[Runs]) -> list[str]:
    """The metrics that a table of these runs shows."""
    if runs[0].cell.task == "classification":
        return list(CLASSIFICATION)
    normals = any(one.has_normals for one in runs)
    shown = [name for name in OF_IMAGES if normals or name not in WITH_NORMALS]
    shown = metrics_of_structures(runs[0].columns) + shown
    return shown + [name for name in DISTANCES if any(one.has(name) for one in runs)]


def heading(metric: str) -> str:
    """A metric in print."""
    return TITLES.get(metric) or title_of_structure(metric)


def entry_of(runs: Runs, metric: str) -> Entry:
    """A metric of the runs as an entry; undefined ones say so."""
    found = runs.metric(metric) if runs.has(metric) else Interval(None, None, None, 0, 0)
    reason = "" if found.estimate is not None else "undefined on these test images"
    return Entry(found.estimate, found.low, found.high, reason=reason)


def describe(runs: Sequence[Runs]) -> str:
    """Recipe, data, split, test images and seeds of results of the same conditions, as one sentence."""
    cell, recipe = runs[0].cell, runs[0].cell.recipe
    images, groups = len(runs[0].images), len(set(runs[0].groups))
    counts = sorted({len(one.results) for one in runs})
    sizes = " or ".join(str(size) for size in sorted({one.cell.recipe.input_size for one in runs}))
    steps = f" of {recipe.epoch_steps} steps" if recipe.epoch_steps else ""
    trained = f"recipe {recipe.name} ({sizes} px, {recipe.epochs} epochs{steps}, batch {recipe.batch_size})"
    counted = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return (
        f"{trained}, data and split {cell.data_sha256[:8]}, {images} test images of {groups} groups, "
        f"{counted} {'run' if counts == [1] else 'runs'}; mean over runs and 95 % interval, groups and runs resampled"
    )


def architecture(encoder: str) -> str:
    """ "R50" of "R50-Distill-US", "R50-ImageNet" and "R50-Rand"; the name itself of another."""
    for ending in ("-Rand", "-ImageNet", "-Distill"):
        if ending in encoder:
            return encoder.partition(ending)[0]
    return encoder


def labelled(cell: Cell) -> str:
    """ "100 % of the labels", "5 % of the labels" or "20 labelled images"."""
    return f"{cell.shots} labelled images" if cell.shots else f"{cell.fraction:.0%} of the labels".replace("%", " %")


def short_weights(weights: str) -> str:
    """ "sha256 1f0c93ab12de" of a file's key, and the key itself of what has no file."""
    kind, _, rest = weights.partition(":")
    if kind == "sha256":
        return f"sha256 {rest[:12]}"
    return weights[:12] if len(weights) == 64 else weights.rstrip(":")


def unlike(one: Any, other: Any, names: Iterable[str]) -> list[str]:
    """ "epochs 2, not 50" for each of the attributes in which two differ; of a hash its first 8 digits."""
    pairs = [(name, str(getattr(one, name)), str(getattr(other, name))) for name in names]
    return [f"{name} {_short(ours)}, not {_short(theirs)}" for name, ours, theirs in pairs if ours != theirs]


def _short(text: str) -> str:
    return text[:8] if len(text) == 64 else text
