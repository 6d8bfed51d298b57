"""The end of a fine-tuning: what it cost and its warning score, into the header of the model that was kept."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from rich.progress import Progress

from sonodistill.errors import SonoDistillError
from sonodistill.inference.familiarity import FamiliarityError
from sonodistill.weights import load_weights, read_info, save_weights
from sonodistill_training.cost import Cost
from sonodistill_training.distributed import rank
from sonodistill_training.evaluate.external.frames import index_sha256
from sonodistill_training.evaluate.familiarity.fit import Embedder, count, fit_to, store
from sonodistill_training.finetune.handlers import SaveBest

logger = logging.getLogger(__name__)

_SPLITS = ("train", "validation")


class Finish:
    """When the last epoch is over, complete ``model.safetensors``: all its seconds, and the score of its frames.

    The score is that of ``sonodistill weights familiarity``: the training split fits it, the validation split sets its
    threshold. Where it cannot be fitted, as to too few frames, the model stays without one and a line says why.

    Args:
        best: wrote the model.
        dataset_dir: folder that was trained on.
        familiarity: whether a score is fitted.
        cost: of the training.
        seed: of the dealing into splits, where the index names none.
        device: that the features are computed on.
    """

    def __init__(
        self,
        best: SaveBest,
        dataset_dir: str | Path,
        familiarity: bool = True,
        cost: Cost | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> None:
        self.best, self.folder, self.familiarity, self.cost = best, Path(dataset_dir), familiarity, cost
        self.seed, self.device = seed, device
        self._epochs = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the handlers that validate and save."""
        if self.cost is not None:
            engine.add_event_handler(Events.STARTED, self.cost.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.count)
        engine.add_event_handler(Events.COMPLETED, self)

    def count(self) -> None:
        """An epoch was trained by this run."""
        self._epochs += 1

    def __call__(self) -> None:
        path = self.best.file
        if rank() > 0 or not self.best.kept or not path.is_file():
            return
        if self.cost is not None and self._epochs:
            state, info = load_weights(path)
            save_weights(path, state, replace(info, cost=self.cost.record()))
        if self.familiarity:
            self._fit(path)

    def _fit(self, path: Path) -> None:
        known = read_info(path)
        if known is not None and known.familiarity.get("index_sha256") == index_sha256(self.folder):
            return  # the training was over already
        try:
            with Progress(transient=True) as bar:
                task = bar.add_task("fitting the warning score", total=count(self.folder, self.seed, _SPLITS))
                embedder = Embedder(path, self.device)
                fitted = fit_to(embedder, self.folder, seed=self.seed, splits=_SPLITS, tick=lambda: bar.advance(task))
        except FamiliarityError as error:
            logger.warning("the model has no warning score: %s", error.message)
        except SonoDistillError as error:
            logger.warning("the model has no warning score, which could not be fitted: %s", error)
        else:
            store(path, path, fitted)
            frames, held = fitted.about["frames"], fitted.about["calibration_frames"]
            logger.info("the model warns of unfamiliar frames: fitted to %d, calibrated by %d", frames, held)
            if fitted.skipped:
                name, why = next(iter(fitted.skipped.items()))
                logger.warning("%d frames were left out of the score (%s: %s)", len(fitted.skipped), name, why)
