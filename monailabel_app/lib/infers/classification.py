"""Classification: it makes no mask, clients find it among the parameters of the result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType

from lib.infers.task import Clock, FrameTask
from lib.targets import Target
from sonodistill.annotate.workbench import CLASSIFICATION, Workbench


class Classification(FrameTask):
    """The class of each frame, and of the image as a whole: that of the mean probabilities."""

    def __init__(self, workbench: Workbench) -> None:
        names = workbench.labels.classes
        super().__init__(
            workbench,
            CLASSIFICATION,
            InferType.CLASSIFICATION,
            {name: at for at, name in enumerate(names)},
            f"Class of ultrasound frames: {', '.join(names)}",
        )

    def run(
        self,
        target: Target,
        request: Mapping[str, Any],  # noqa: ARG002
        clock: Clock,
    ) -> tuple[Path | None, dict[str, Any]]:
        predictor = self.workbench.predictor(CLASSIFICATION)
        clock.done("pre")
        found = [predictor.predict_one(target.frame(0))] if target.planar else list(_told(predictor, target))
        clock.done("infer")
        probabilities = np.stack([one.probabilities for one in found])
        mean = probabilities.mean(0)
        return None, {
            "label_names": {name: at for at, name in enumerate(predictor.labels)},
            "prediction": predictor.labels[int(mean.argmax())],
            "classification": [
                {"frame": at, "label": one.label, "probability": round(float(one.probabilities.max()), 4)}
                for at, one in enumerate(found)
            ],
            "probabilities": {name: round(float(value), 4) for name, value in zip(predictor.labels, mean, strict=True)},
            "confidence": round(float(mean.max()), 4),
        }


def _told(predictor: Any, target: Target) -> Any:
    """Predictions without their frames, which would all be held."""
    from dataclasses import replace

    for prediction in predictor(target.read()):
        yield replace(prediction, frame=None)
