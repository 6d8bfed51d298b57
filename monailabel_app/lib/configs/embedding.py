"""The encoder's vectors; it is distilled, not trained here."""

from __future__ import annotations

from typing import Any

from monailabel.interfaces.config import TaskConfig
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.train import TrainTask

import lib.infers


class Embedding(TaskConfig):
    def init(self, name: str, model_dir: str, conf: dict[str, str], planner: Any, **kwargs: Any) -> None:
        super().init(name, model_dir, conf, planner, **kwargs)
        self.workbench = kwargs["workbench"]

    def infer(self) -> InferTask:
        return lib.infers.Embedding(self.workbench)

    def trainer(self) -> TrainTask | None:
        return None
