"""What the inference tasks share."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from lib.targets import Target
from sonodistill.annotate.errors import NotTrainedError
from sonodistill.annotate.workbench import Workbench


class Clock:
    """Seconds of the stages of a request, under the names that MONAI Label's clients know."""

    def __init__(self) -> None:
        self._began = self._last = time.perf_counter()
        self.seconds = dict.fromkeys(("pre", "infer", "invert", "post", "write"), 0.0)

    def done(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def latencies(self) -> dict[str, Any]:
        total = time.perf_counter() - self._began
        return {stage: round(one, 4) for stage, one in {**self.seconds, "total": total}.items()}


class FrameTask(InferTask):
    """A model of the workbench, asked frame by frame. It can be asked for nothing before it has weights.

    Args:
        workbench: the model is of.
        name: of the model.
        type: which clients choose by.
        labels: name -> number of what it draws.
        description: for people.
    """

    def __init__(
        self, workbench: Workbench, name: str, type: InferType, labels: Mapping[str, int], description: str
    ) -> None:
        super().__init__(type=type, labels=dict(labels), dimension=2, description=description)
        self.workbench, self.name = workbench, name
        self._lock = threading.Lock()

    def is_valid(self) -> bool:
        return self.workbench.versions[self.name].current() is not None

    def info(self) -> dict[str, Any]:
        version = self.workbench.versions[self.name].current()
        return {**super().info(), "version": version.number if version else None}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """The path of a new temporary file of masks, or None, and what is said of them.

        Args:
            request: ``target`` is the image; the rest is what the client sent.

        Errors: NotTrainedError; those of the model and of the image.
        """
        version = self.workbench.versions[self.name].current()
        if version is None:
            raise NotTrainedError(
                f"the model {self.name} has no weights yet",
                remedy=f"start with --conf {self.name} FILE, or accept labels and train it",
            )
        clock, target = Clock(), request["target"]
        with self._lock:  # two at a time would take the processor from each other
            clock.done("pre")
            path, params = self.run(target, request, clock)
        params.update(model=self.name, version=version.number, image=target.id, latencies=clock.latencies())
        return None if path is None else str(path), params

    @abstractmethod
    def run(self, target: Target, request: Mapping[str, Any], clock: Clock) -> tuple[Path | None, dict[str, Any]]:
        """What ``__call__`` returns but for what all models say."""
