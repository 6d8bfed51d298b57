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

Columns = dict[str, list[Any]]


def segmentation_columns(
    data: LabelledSet, rows: NDArray[np.int64], logits: Iterable[Tensor]
) -> tuple[Columns, list[NDArray[np.bool_]]]:
    """Columns of the rows, and the mask predicted for each.

    A logit map is brought to the frame's own pixel grid as a probability and cut at 0.5, as inference does it; all
    metrics are taken there.

    Args:
        logits: (B, 1, S, S) float32 for successive batches of the rows.

    Returns:
        image, group, label, lesion, dice, iou, hd95_px, hd95_mm (None where undefined or uncalibrated),
        predicted_pixels, truth_pixels, pixels; and the masks, (H, W) bool.

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
            probability = torch.sigmoid(logit).numpy()
            mask = from_output(probability, tuple(data.shapes[row].tolist()))[0] > 0.5
            scored = score(mask, data.truth(row), data.spacing(row))
            masks.append(mask)
            _append_frame(columns, data, row)
            columns["lesion"].append(scored.truth_pixels > 0)
            for name in ("dice", "iou", "hd95_px", "hd95_mm", "predicted_pixels", "truth_pixels", "pixels"):
                columns.setdefault(name, []).append(getattr(scored, name))
    return columns, masks


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
