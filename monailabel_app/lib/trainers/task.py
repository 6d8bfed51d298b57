"""Training through the bundle's configs, in the process that MONAI Label starts for it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask

from sonodistill.annotate.training.run import run_training
from sonodistill.annotate.training.state import TrainSettings, read_progress
from sonodistill.annotate.workbench import Workbench
from sonodistill.errors import WeightsError

_NICE = 5


class FrameTrainer(TrainTask):
    """Fine-tunes a model on the accepted frames, and promotes it when it is not worse.

    Args:
        workbench: of the app.
        model: that is trained.
    """

    def __init__(self, workbench: Workbench, model: str) -> None:
        super().__init__(f"Fine-tune {model} on accepted frames; held-out patients or studies say whether it is used")
        self.workbench, self.model = workbench, model

    def config(self) -> dict[str, Any]:
        """What a client may set, with its defaults."""
        return asdict(TrainSettings.of(self.model))

    def stats(self) -> dict[str, Any]:
        """The version at work and how far a training is."""
        try:
            version = self.workbench.versions[self.model].current()
        except WeightsError as error:
            return {"trouble": error.message, "training": read_progress(self.workbench.settings.work, self.model)}
        return {
            "version": version.number if version else None,
            "metrics": version.metrics if version else {},
            "training": read_progress(self.workbench.settings.work, self.model),
        }

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; the datastore is the workbench's. Errors: see ``run_training``."""
        del datastore
        if hasattr(os, "nice"):
            os.nice(_NICE)  # people wait for the server
        settings = TrainSettings.of(self.model, request, strict=False)
        return run_training(self.workbench, self.model, settings)


class Segmentation(FrameTrainer):
    """Masks of the labels."""


class Interactive(FrameTrainer):
    """Clicks to masks."""


class Classification(FrameTrainer):
    """A class for each frame."""
