"""Masks of the labels by the bundle's network."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.train import TrainTask

import lib.infers
import lib.trainers


class Segmentation(TaskConfig):
    def init(self, name: str, model_dir: str, conf: dict[str, str], planner: Any, **kwargs: Any) -> None:
        super().init(name, model_dir, conf, planner, **kwargs)
        self.workbench = kwargs["workbench"]

    def infer(self) -> InferTask:
        return lib.infers.Segmentation(self.workbench)

    def trainer(self) -> TrainTask | None:
        return lib.trainers.Segmentation(self.workbench, self.name)
