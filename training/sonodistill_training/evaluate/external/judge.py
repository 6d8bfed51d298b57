"""One segmenter on one set of frames: a row for each image, what they amount to, and what could not be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import DatasetError, EmptyInputError, SonoDistillError
from sonodistill.frames import Frame
from sonodistill.inference.predictor import Prediction, Predictor
from sonodistill_training.evaluate.external.cases import Case, cases
from sonodistill_training.evaluate.external.frames import Item, Reading, truth_of
from sonodistill_training.evaluate.metrics.calibration import Reliability, reliability
from sonodistill_training.evaluate.metrics.segmentation import score, summarise_segmentation
from sonodistill_training.evaluate.metrics.statistics import bootstrap, mean

COLUMNS = (
    *("image", "group", "dice", "iou", "hd95_px", "hd95_mm", "predicted_pixels", "truth_pixels", "pixels"),
    *("brier", "unfamiliarity"),
)

Row = dict[str, Any]


@dataclass
class Judged:
    """What a set of frames says of a model.

    Attributes:
        rows: of every image that could be read, with :data:`COLUMNS`.
        bins: of the probabilities of all pixels.
        items: that the rows are of.
        cases: those to look at, by kind.
        skipped: images that could not be read, and why.
    """

    rows: list[Row] = field(default_factory=list)
    bins: Reliability = field(default_factory=Reliability)
    items: list[Item] = field(default_factory=list)
    cases: dict[str, list[Case]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def judge(predictor: Predictor, items: list[Item], label: int = 0, tick: Callable[[], None] = lambda: None) -> Judged:
    """Predict every annotated frame and compare it with its mask on the frame's own grid.

    Args:
        predictor: a segmenter.
        items: without a mask they are skipped by name.
        label: which of its channels.
        tick: called after each item.

    Raises:
        EmptyInputError: no item could be judged.
    """
    judged = Judged()
    reading = Reading(items)
    for item, frame in reading:
        try:
            if item.mask is None:
                raise DatasetError("has no mask", path=item.path)
            truth = truth_of(item, (frame.image.shape[0], frame.image.shape[1]))
            _add(judged, item, frame, truth, predictor.predict_one(frame), label)
        except (SonoDistillError, OSError, ValueError) as error:
            reading.note(item, error)
        tick()
    judged.skipped = reading.skipped
    judged.cases = cases(predictor, judged.items, judged.rows, label)
    if not judged.rows:
        first = next(iter(reading.skipped.items()), ("", "it is empty"))
        raise EmptyInputError(f"none of {len(items)} images could be judged ({first[0]}: {first[1]})")
    return judged


def _add(judged: Judged, item: Item, frame: Frame, truth: NDArray[np.bool_], found: Prediction, label: int) -> None:
    spacing = frame.mm_per_pixel or ((item.mm_per_pixel,) * 2 if item.mm_per_pixel else None)
    mask = found.masks[label]
    bins = reliability(found.probabilities[label], truth)
    scored = asdict(score(mask, truth, spacing))
    judged.bins.add(bins)
    judged.rows.append(
        {"image": item.name, "group": item.group, **scored, "brier": bins.brier, "unfamiliarity": found.unfamiliarity}
    )
    judged.items.append(item)


def summary(judged: Judged) -> dict[str, Any]:
    """What the rows amount to: means with 95 % intervals over whole groups, calibration, familiarity.

    ``dice`` and ``iou`` each under the three ways of dealing with empty masks: all images with an empty prediction of
    an empty truth as 1, lesions alone, and beside them ``false_positive_rate`` and ``missed``.
    """
    columns = {name: [row[name] for row in judged.rows] for name in COLUMNS}
    groups = np.array(columns["group"])
    said: dict[str, Any] = {"counts": summarise_segmentation(columns), "groups": len(set(columns["group"]))}
    lesion = np.array(columns["truth_pixels"]) > 0
    predicted = np.array(columns["predicted_pixels"]) > 0
    every = np.ones(len(lesion), bool)
    of = {
        "dice_empty1": ("dice", every),
        "dice_lesions": ("dice", lesion),
        "iou_empty1": ("iou", every),
        "iou_lesions": ("iou", lesion),
        "hd95_px": ("hd95_px", lesion),
        "hd95_mm": ("hd95_mm", lesion),
        "brier": ("brier", every),
    }
    intervals = {
        name: _interval(np.array(columns[column], float)[use], groups[use]) for name, (column, use) in of.items()
    }
    intervals["false_positive_rate"] = _interval(predicted[~lesion].astype(float), groups[~lesion])
    intervals["missed"] = _interval((~predicted[lesion]).astype(float), groups[lesion])
    said["intervals"] = intervals
    bins = judged.bins
    said["calibration"] = {"ece": bins.error, "worst_bin": bins.worst, "brier": bins.brier, "curve": bins.curve()}
    scores = np.array(columns["unfamiliarity"], float)
    said["familiarity"] = None if np.isnan(scores).all() else _familiarity(scores, columns, groups)
    said["skipped"] = judged.skipped
    return said


def _familiarity(scores: NDArray[np.float64], columns: dict[str, list[Any]], groups: NDArray[Any]) -> dict[str, Any]:
    dice, strange = np.array(columns["dice"], float), scores > 1
    return {
        "unfamiliar": _interval(strange.astype(float), groups),
        "dice_familiar": _interval(dice[~strange], groups[~strange]),
        "dice_unfamiliar": _interval(dice[strange], groups[strange]),
        "median": float(np.median(scores)),
    }


def _interval(values: NDArray[np.float64], groups: NDArray[Any]) -> dict[str, Any]:
    if not values.size or np.isnan(values).all():
        return {"estimate": None, "low": None, "high": None, "n": 0}
    found = bootstrap(partial(mean), values, groups)
    return {"estimate": found.estimate, "low": found.low, "high": found.high, "n": int((~np.isnan(values)).sum())}
