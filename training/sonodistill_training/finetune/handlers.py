"""Ignite handlers of the fine-tuning configs: exact resume, the best weights, and a log to plot."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from rich.progress import Progress
from torch import nn

from sonodistill import __version__, models
from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path
from sonodistill.weights import WeightsInfo, read_info, save_weights
from sonodistill_training.cost import Cost
from sonodistill_training.distributed import rank
from sonodistill_training.finetune.labels import require_named
from sonodistill_training.logs import JSONL

logger = logging.getLogger(__name__)

_LATER = {"cost"}
"""Parts that the checkpoints of earlier releases lack."""


def one_class_an_image(output: Sequence[Mapping[str, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """One-hot (C,) "pred" and "label" of each image to (B, C) and class numbers (B,), as ignite's Accuracy takes them.

    Image by image it would take the C numbers for C answers of yes or no, most of which are right of any class.
    """
    return torch.stack([item["pred"] for item in output]), torch.stack([item["label"] for item in output]).argmax(1)


class Resume:
    """Save what the training needs after each epoch, and go on from it when the file is there at the start.

    Each epoch draws its random numbers from (seed, epoch) alone, so a training that was killed and run again
    reaches the same weights as one that was not.

    Args:
        path: the checkpoint.
        content: name -> object with ``state_dict`` and ``load_state_dict`` (network, optimiser, scheduler, best ...).
        dataset: the training data set, whose random transforms are seeded.
    """

    def __init__(self, path: str | Path, content: Mapping[str, Any], dataset: Any, seed: int = 0) -> None:
        self.path = Path(path)
        self.content = dict(content)
        self.dataset = dataset
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_STARTED, self.reseed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """Go on after the last whole epoch."""
        if not self.path.is_file():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        for name, part in self.content.items():
            if name in _LATER and name not in state:
                continue
            try:
                part.load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise SonoDistillError(
                    f"belongs to another training: its {name} does not fit",
                    path=self.path,
                    remedy="use the same settings to go on, or another --ckpt_dir to start anew",
                ) from error
        engine.state.epoch = int(state["epoch"])
        engine.state.iteration = engine.state.epoch * engine.state.epoch_length
        logger.info("going on after epoch %d of %d", engine.state.epoch, engine.state.max_epochs)

    def reseed(self, engine: Engine) -> None:
        """Make the epoch's order and augmentation a function of the seed and the epoch."""
        seed = (self.seed * 100_003 + engine.state.epoch) * 1_009 + rank()
        torch.manual_seed(seed)
        set_rnd(self.dataset, seed=seed)

    def save(self, engine: Engine) -> None:
        """Replace the checkpoint, whole or not at all."""
        if rank() == 0:
            state = {name: part.state_dict() for name, part in self.content.items()}
            with atomic_path(self.path) as temporary:
                torch.save(state | {"epoch": engine.state.epoch}, temporary)


class SaveBest:
    """After a validation that beats all before it, write the network as ``model.pt`` and ``model.safetensors``.

    ``model.pt`` is a plain state dict, as MONAI's tools expect it; ``model.safetensors`` carries what a user must know
    (architecture, normalisation, input size, labels, and the teacher, corpus and licence notice of the encoder).

    Args:
        folder: where both are written.
        network: a Segmenter or Classifier.
        metric: the validation metric that is to grow.
        labels: a name for each output of the network.
        encoder_weights: the file that the encoder started from, whose provenance is handed on.
        cost: of the training so far, for the header.

    Attributes:
        file: ``model.safetensors``.
        kept: whether this training has written it, now or before it was interrupted.
    """

    def __init__(
        self,
        folder: str | Path,
        network: nn.Module,
        metric: str,
        input_size: Sequence[int],
        labels: Sequence[str],
        encoder_weights: str | None = None,
        cost: Cost | None = None,
    ) -> None:
        self.folder, self.network, self.metric, self.cost = Path(folder), network, metric, cost
        names = [labels] if isinstance(labels, str) else list(labels)
        require_named(network, names)
        self.file, self.kept = self.folder / "model.safetensors", False
        encoder: Any = network.encoder
        started_from = models.weights_of(encoder_weights)
        ours = isinstance(started_from, Path) and started_from.suffix == ".safetensors"
        origin = read_info(started_from) if ours else None  # type: ignore[arg-type]
        self.info = WeightsInfo(
            kind=str(network.kind),
            architecture=encoder.name,
            normalisation=encoder.input.normalisation,
            input_size=(int(input_size[0]), int(input_size[1])),
            labels=tuple(names),
            version=__version__,
            teacher=origin.teacher if origin else "",
            corpus_hash=origin.corpus_hash if origin else "",
            licence_notice=origin.licence_notice if origin else "",
            corpus_licences=origin.corpus_licences if origin else {},
            corpus_restrictions=origin.corpus_restrictions if origin else {},
        )
        self.best = float("-inf")

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        value = float(engine.state.metrics[self.metric])
        # A validation set without any lesion has no Dice: the first epoch is kept rather than none.
        if value > self.best or self.best == float("-inf"):
            self.best = value if value == value else float("-inf")
            if rank() == 0:
                state = self.network.state_dict()
                with atomic_path(self.folder / "model.pt") as temporary:
                    torch.save(state, temporary)
                cost = self.cost.record() if self.cost is not None else {}
                save_weights(self.file, state, replace(self.info, cost=cost))
            self.kept = True

    def state_dict(self) -> dict[str, float]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from the best value so far, so that a worse epoch does not replace it."""
        self.best = state["best"]
        self.kept = self.best > float("-inf")


class EpochLog:
    """A row an epoch in ``log.jsonl`` (epoch, loss, learning rate, every metric), and a progress bar over batches."""

    def __init__(self, output_dir: str | Path, evaluator: Engine, optimizer: torch.optim.Optimizer) -> None:
        self.path = Path(output_dir) / JSONL
        self.evaluator, self.optimizer = evaluator, optimizer
        self._losses: list[float] = []
        self._progress = Progress(disable=rank() > 0)

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; after the validation handler, whose metrics it logs."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.count)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)
        engine.add_event_handler(Events.COMPLETED, self.stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: Engine) -> None:
        """Open the bar; a training that begins anew begins its log anew."""
        if rank() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if engine.state.epoch == 0:
                self.path.unlink(missing_ok=True)
        total = engine.state.max_epochs * engine.state.epoch_length
        self._task = self._progress.add_task("fine-tuning", total=total, completed=engine.state.iteration)
        self._progress.start()

    def count(self, engine: Engine) -> None:
        """Remember the loss of a batch."""
        self._losses.append(float(engine.state.output[0]["loss"]))
        self._progress.advance(self._task)

    def write(self, engine: Engine) -> None:
        """Log the epoch."""
        row: dict[str, Any] = {"epoch": engine.state.epoch, "loss": sum(self._losses) / max(1, len(self._losses))}
        row["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        row |= {name: float(value) for name, value in engine.state.metrics.items()}
        row |= {name: float(value) for name, value in self.evaluator.state.metrics.items()}
        self._losses.clear()
        if rank() == 0:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            best = {name: round(value, 4) for name, value in row.items() if name.startswith("val_")}
            self._progress.update(self._task, description=f"fine-tuning {best}")

    def stop(self, _: Engine) -> None:
        """Close the bar."""
        self._progress.stop()

    def fail(self, _: Engine, error: BaseException) -> None:
        """Close the bar and let the error through."""
        self._progress.stop()
        raise error
