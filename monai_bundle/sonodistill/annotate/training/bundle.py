"""A training through the bundle's own configs, in this process."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sonodistill.annotate.training.start import Job
from sonodistill.annotate.training.state import RUNNING, write_progress
from sonodistill.annotate.workbench import CLASSIFICATION, INTERACTIVE, SEGMENTATION

logger = logging.getLogger(__name__)

CONFIGS: dict[str, tuple[str, ...]] = {
    SEGMENTATION: ("train.yaml",),
    CLASSIFICATION: ("train.yaml", "classify.yaml"),
    INTERACTIVE: ("train.yaml", "interactive.yaml"),
}
_CACHE_BYTES = 1 << 30


def train_bundle(job: Job) -> None:
    """Leave model.safetensors, of the best epoch, in the folder of the run; go on after the epoch of a last.pt there.

    Errors: SonoDistillError for what the config cannot be run with.
    """
    from sonodistill.bundle import Workflow

    overrides = {
        **asdict(job.settings),
        "dataset_dir": str(job.data.folder),
        "output_dir": str(job.run),
        "ckpt_dir": str(job.run),
        "encoder": job.start.architecture,
        "encoder_weights": str(job.start.weights),
        "seed": job.workbench.settings.seed,
        **job.start.overrides,
    }
    names = job.workbench.labels.names
    if job.model == SEGMENTATION:
        overrides["labels"] = list(names)
    workflow = Workflow(list(CONFIGS[job.model]), workflow_type="train", logging_file=False, **overrides)
    if job.model == SEGMENTATION and len(names) > 1:
        _tell_labels_apart(workflow, len(names))
    height, width = workflow.parser["input_size"]
    frames = job.data.train + job.data.validation
    workflow.parser["cache_rate"] = min(1.0, _CACHE_BYTES / (frames * int(height) * int(width) * 8))
    handler = {
        "_target_": f"{EpochProgress.__module__}.{EpochProgress.__qualname__}",
        "work": str(job.workbench.settings.work),
        "model": job.model,
        "metric": "@key_metric_name",
        "evaluator": "@validate#evaluator",
    }
    workflow.parser["train::handlers"] = [*workflow.parser["train::handlers"], handler]
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def _tell_labels_apart(workflow: Any, labels: int) -> None:
    """train.yaml has one channel and masks of one label."""
    workflow.parser["network_def::classes"] = labels
    at = next(
        at
        for at, one in enumerate(workflow.parser["deterministic_transforms"])
        if one["_target_"].endswith(".MaskToInputd")
    )
    workflow.parser[f"deterministic_transforms::{at}"] = {
        "_target_": "sonodistill.annotate.labels.channels.NumbersToInputd",
        "keys": "label",
        "size": "@input_size",
        "labels": labels,
    }


class EpochProgress:
    """An ignite handler that replaces the progress of a training after each epoch, and logs a line.

    Args:
        work: folder of work.
        model: that is trained.
        metric: name of the validation metric.
        evaluator: engine that computes it.
    """

    def __init__(self, work: str, model: str, metric: str, evaluator: Any) -> None:
        self.work, self.model, self.metric, self.evaluator = Path(work), model, metric, evaluator
        self._losses: list[float] = []
        self._began, self._first = 0.0, 0

    def attach(self, engine: Any) -> None:
        """Register with a trainer, after the handlers that resume and validate."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def start(self, engine: Any) -> None:
        """Say that it begins, or after which epoch it goes on."""
        self._began, self._first = time.monotonic(), engine.state.epoch
        self._write(engine, None, None)

    def count(self, engine: Any) -> None:
        """Remember the loss of a batch."""
        self._losses.append(float(engine.state.output[0]["loss"]))

    def write(self, engine: Any) -> None:
        """Say how the epoch went."""
        loss = sum(self._losses) / max(1, len(self._losses))
        self._losses.clear()
        metric = self.evaluator.state.metrics.get(self.metric, math.nan)
        self._write(engine, loss, float(metric))
        logger.info(
            "epoch %d of %d: loss %.4f, %s %.4f",
            engine.state.epoch,
            engine.state.max_epochs,
            loss,
            self.metric,
            metric,
        )

    def _write(self, engine: Any, loss: float | None, metric: float | None) -> None:
        epoch, of = engine.state.epoch, engine.state.max_epochs
        done = epoch - self._first
        eta = (time.monotonic() - self._began) / done * (of - epoch) if done else None
        write_progress(
            self.work,
            self.model,
            state=RUNNING,
            phase="training",
            pid=os.getpid(),
            epoch=epoch,
            of=of,
            loss=loss,
            metric=metric,
            metric_name=self.metric,
            eta_seconds=eta,
        )
