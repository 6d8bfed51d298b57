"""What a runtime or a precision costs in Dice: a trained segmenter on a labelled test split, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import BundleConfigError
from sonodistill.transforms.geometry import from_output
from sonodistill_training.evaluate.data import LabelledSet, read_set
from sonodistill_training.evaluate.divide import divide
from sonodistill_training.evaluate.metrics.segmentation import count, require_finite_predictions
from sonodistill_training.evaluate.metrics.statistics import bootstrap, mean, paired

_POINTS = 100.0


@dataclass(frozen=True)
class Labelled:
    """A labelled set at a network's input size.

    Attributes:
        data: all frames.
        train, test: rows of the splits.
        way: how it was divided.
    """

    data: LabelledSet
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    way: str

    def images(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, 1, S, S) float32 in [0, 1]."""
        return self.data.images[rows].astype(np.float32) / np.float32(255)


def read_labelled(name: str, folder: Path, input_size: int, most: int | None = None) -> Labelled:
    """Read a set and divide it as an evaluation does.

    Args:
        most: of the test images, spread over the split; all of them by default.

    Raises:
        DatasetError: it cannot be read or divided.
    """
    data = read_set(name, folder, input_size)
    division = divide(data, "segmentation")
    test = division.test
    if most is not None and most < len(test):
        test = test[np.linspace(0, len(test) - 1, most).round().astype(int)]
    return Labelled(data, division.train, test, division.way)


def dice_of(labelled: Labelled, logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(images,) Dice of each test image on its own pixel grid; 1 where both masks are empty.

    Args:
        logits: (images, 1, S, S) of the test images, in their order.

    Raises:
        BundleConfigError: the network has several classes.
        NotFiniteError: a logit is not a number.
    """
    if logits.ndim != 4 or logits.shape[1] != 1:
        raise BundleConfigError(
            f"its output is {('B', *logits.shape[1:])}: Dice is judged of one structure",
            remedy="give --trained a segmenter of one class",
        )
    require_finite_predictions(logits)
    found = []
    for row, logit in zip(labelled.test.tolist(), logits, strict=True):
        probability = 1 / (1 + np.exp(-np.clip(logit, -60, 60)))
        mask = from_output(probability, tuple(labelled.data.shapes[row].tolist()))[0] > 0.5
        found.append(count(mask, labelled.data.truth(row)).dice)
    return np.array(found)


def judge(labelled: Labelled, dice: NDArray[np.float64], eager: NDArray[np.float64] | None) -> dict[str, Any]:
    """Mean Dice with its interval and, beside the eager network in float32, what is lost, in points of 100.

    Returns:
        ``dice``, ``dice_interval``, ``dice_lesions``, ``images``, and with ``eager`` also ``dice_cost_points`` with
        ``dice_cost_interval``: how much lower than eager, paired by image, groups resampled; and
        ``dice_cost_points_lesions``, of the images with a lesion alone.
    """
    groups = [labelled.data.groups[row] for row in labelled.test.tolist()]
    lesion = np.array([labelled.data.truth(row).any() for row in labelled.test.tolist()])
    interval = bootstrap(mean, dice, groups)
    found: dict[str, Any] = {
        "dice": float(dice.mean()),
        "dice_interval": [interval.low, interval.high],
        "dice_lesions": float(dice[lesion].mean()) if lesion.any() else None,
        "images": len(dice),
    }
    if eager is not None:
        lost = paired(eager, dice, groups)
        found["dice_cost_points"] = None if lost.difference is None else _POINTS * lost.difference
        found["dice_cost_interval"] = [None if end is None else _POINTS * end for end in (lost.low, lost.high)]
        # Where there is no lesion one speck turns a Dice of 1 into 0, and hides what happens to the outlines.
        found["dice_cost_points_lesions"] = float(_POINTS * (eager - dice)[lesion].mean()) if lesion.any() else None
    return found


def int8_cost(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """What int8 costs, in points of Dice: of all trained models the most, each in its fastest int8 runtime; None where
    none was judged."""
    judged = [row for row in rows if row["precision"] == "int8" and row.get("dice_cost_points") is not None]
    fastest: dict[str, Mapping[str, Any]] = {}
    for row in sorted(judged, key=lambda row: row["latency_ms_p50"], reverse=True):
        fastest[row["network"]] = row
    return max((row["dice_cost_points"] for row in fastest.values()), default=None)
