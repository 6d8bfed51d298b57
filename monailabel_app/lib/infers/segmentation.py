"""Segmentation by the bundle's network and transforms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from numpy.typing import NDArray

from lib.files import write_result
from lib.infers.task import Clock, FrameTask
from lib.targets import Target
from sonodistill.annotate.errors import ConflictError
from sonodistill.annotate.workbench import SEGMENTATION, Workbench
from sonodistill.inference.predictor import Prediction


class Segmentation(FrameTask):
    """Label numbers (H, W) of each frame: the labels of the store, whatever the order of the model's channels."""

    def __init__(self, workbench: Workbench) -> None:
        names = workbench.labels.names
        super().__init__(
            workbench,
            SEGMENTATION,
            InferType.SEGMENTATION,
            {name: at for at, name in enumerate(names, 1)},
            f"Segmentation of ultrasound frames: {', '.join(names)}",
        )

    def run(self, target: Target, request: Mapping[str, Any], clock: Clock) -> tuple[Path | None, dict[str, Any]]:
        predictor = self.workbench.predictor(SEGMENTATION)
        numbers = numbers_of(predictor.labels, self.workbench.labels.names)
        frames = range(len(target))
        clock.done("pre")
        masks, confidences, scores = {}, [], []
        if target.planar:
            predictions = iter([predictor.predict_one(target.frame(0))])
        else:
            _ = target.shape  # bounded before anything is computed
            predictions = predictor(target.read())
        for at, prediction in enumerate(predictions):
            masks[at], confidence = numbered(prediction, numbers)
            confidences.append(round(confidence, 4))
            scores.append(round(prediction.unfamiliarity, 4))
        clock.done("infer")
        path = write_result(masks, target, request)
        clock.done("write")
        present = np.unique(np.concatenate([np.unique(mask) for mask in masks.values()]))
        drawn = [name for name, number in self.labels.items() if number in present]
        said = {"label_names": dict(self.labels), "labels": drawn, "frames": [*frames], "confidence": confidences}
        # Above 1: the model was not made for such a frame. A model that does not say it leaves the entry out.
        return path, {**said, "unfamiliarity": scores} if predictor.runtime.scored else said


def numbers_of(labels: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...]:
    """The store's number of each channel. Errors: ConflictError for a channel that is no label of the store."""
    if unknown := [label for label in labels if label not in names]:
        raise ConflictError(
            f"the model draws {', '.join(unknown)}, the labels here are {', '.join(names)}",
            remedy="start with --conf labels of the model, or another model",
        )
    return tuple(names.index(label) + 1 for label in labels)


def numbered(prediction: Prediction, numbers: tuple[int, ...]) -> tuple[NDArray[np.uint8], float]:
    """Label numbers (H, W), of the most probable one where several apply, and how sure the model is.

    That is the mean probability of the pixels it labels; of a frame without any, that of the background where it is
    least.
    """
    masks, probabilities = prediction.masks, prediction.probabilities
    if len(numbers) == 1:
        mask = masks[0].astype(np.uint8) * np.uint8(numbers[0])
        best, found = probabilities[0], masks[0]
    else:
        best, found = probabilities.max(0), masks.any(0)
        mask = np.where(found, np.asarray(numbers, np.uint8)[probabilities.argmax(0)], 0).astype(np.uint8)
    return mask, float(best[found].mean() if found.any() else 1 - best.max())
