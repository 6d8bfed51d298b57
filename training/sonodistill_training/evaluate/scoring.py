"""Per-image results of the test frames: the columns that every table, interval and gallery is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sonodistill.transforms.geometry import from_output
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.learning.loop import require_finite_logits
from sonodistill_training.evaluate.metrics.segmentation import score
from sonodistill_training.evaluate.metrics.structures import BACKGROUND, OF_STRUCTURES

Columns = dict[str, list[Any]]


def segmentation_columns(
    data: LabelledSet, rows: NDArray[np.int64], logits: Iterable[Tensor]
) -> tuple[Columns, list[NDArray[np.bool_]]]:
    """Columns of the rows, and the mask predicted for each.

    A logit map is brought to the frame's own pixel grid as a probability and cut at 0.5, as inference does it; all
    metrics are taken there.

    Args:
        logits: (B, 1, S, S) float32 for successive batches of the rows; of a set with structures (B, K, S, S), of
            which the most probable on the frame's grid is taken.

    Returns:
        image, group, label, lesion, dice, iou, hd95_px, hd95_mm (None where undefined or uncalibrated),
        predicted_pixels, truth_pixels, pixels; and the masks, (H, W) bool. Of structures these are all of them as one,
        and :func:`structure_columns` are there as well.

    Raises:
        TrainingFailedError: a prediction is not a number.
    """
    columns: Columns = {name: [] for name in ("image", "group", "label", "lesion")}
    masks = []
    remaining = iter(rows.tolist())
    for batch in logits:
        for logit in batch:
            row = next(remaining)
            require_finite_logits(logit, data.files[row])
            grid = tuple(data.shapes[row].tolist())
            if data.structures:
                codes = from_output(torch.softmax(logit, dim=0).numpy(), grid).argmax(axis=0).astype(np.uint8)
                mask = codes > 0
                for name, value in structure_columns(codes, data.codes(row), data.structures).items():
                    columns.setdefault(name, []).append(value)
            else:
                mask = from_output(torch.sigmoid(logit).numpy(), grid)[0] > 0.5
            scored = score(mask, data.truth(row), data.spacing(row))
            masks.append(mask)
            _append_frame(columns, data, row)
            columns["lesion"].append(scored.truth_pixels > 0)
            for name in ("dice", "iou", "hd95_px", "hd95_mm", "predicted_pixels", "truth_pixels", "pixels"):
                columns.setdefault(name, []).append(getattr(scored, name))
    return columns, masks


def structure_columns(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], structures: Sequence[str]
) -> dict[str, int]:
    """``both:<name>``, ``predicted:<name>`` and ``truth:<name>`` of the background and each structure: pixels.

    Args:
        predicted, truth: (H, W) codes.
    """
    found = {}
    for code, name in enumerate((BACKGROUND, *structures)):
        ours, theirs = predicted == code, truth == code
        for which, mask in zip(OF_STRUCTURES, (ours & theirs, ours, theirs), strict=True):
            found[f"{which}:{name}"] = int(np.count_nonzero(mask))
    return found


def classification_columns(
    data: LabelledSet, rows: NDArray[np.int64], probabilities: NDArray[np.float64], classes: Sequence[str]
) -> Columns:
    """image, group, truth, predicted, and probability_<class> of each row.

    Args:
        probabilities: (n, K), rows that add up to 1.

    Raises:
        TrainingFailedError: a prediction is not a number.
    """
    columns: Columns = {name: [] for name in ("image", "group", "truth", "predicted")}
    for row, found in zip(rows.tolist(), probabilities, strict=True):
        require_finite_logits(torch.from_numpy(found), data.files[row])
        columns["image"].append(data.files[row])
        columns["group"].append(data.groups[row])
        columns["truth"].append(data.labels[row])
        columns["predicted"].append(classes[int(found.argmax())])
    for number, name in enumerate(classes):
        columns[f"probability_{name}"] = probabilities[:, number].tolist()
    return columns


def _append_frame(columns: Columns, data: LabelledSet, row: int) -> None:
    columns["image"].append(data.files[row])
    columns["group"].append(data.groups[row])
    columns["label"].append(data.labels[row])
