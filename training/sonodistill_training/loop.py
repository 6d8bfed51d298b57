"""One training loop for every method: exact resume, DDP, mixed precision, health checks and logs."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path
from sonodistill.networks.precision import PRECISIONS, use_bf16
from sonodistill_training.distributed import World, any_rank, world
from sonodistill_training.progress import Bar, Clock, cut_log, progress_bar, stop_requests
from sonodistill_training.sampling import EndlessShuffle, StepBatches

logger = logging.getLogger(__name__)

CHECKPOINT = "last.pt"
LOG = "log.jsonl"


class DivergedError(SonoDistillError):
    """The loss or the gradient is no longer a finite number."""


class Method(Protocol):
    """What a training method brings; the loop brings the rest."""

    network: nn.Module
    """Everything that is trained. Nothing else is saved or synchronised."""

    def to(self, device: torch.device) -> None:
        """Move the network and what the method keeps beside it (a frozen teacher) to the device."""

    def step(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Losses of one batch; ``"loss"`` is minimised, all are logged. ``network`` may be wrapped by DDP."""

    def identity(self) -> dict[str, Any]:
        """Plain values that must not change when a training is gone on with."""

    def export(self, path: Path) -> None:
        """Write the trained product."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train; the defaults are paper A's, section 3.5, where it states them.

    Attributes:
        max_epochs: passes over the data. Ignored when ``max_steps`` is given.
        batch_size: samples a step, over all processes.
        learning_rate: used as given; it is never scaled by the batch size.
        warmup_epochs: linear warm-up, at most a tenth of the training.
        clip: largest gradient norm.
        precision: "bf16", "fp32" or "auto" (bf16 where the hardware computes it).
        checkpoint_steps: save every so many steps (and at the end, and on Ctrl-C).
    """

    max_epochs: float = 1000
    max_steps: int | None = None
    batch_size: int = 512
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    warmup_epochs: float = 10
    clip: float = 1.0
    precision: str = "auto"
    seed: int = 0
    workers: int = 0
    log_steps: int = 10
    checkpoint_steps: int = 200

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SonoDistillError(
                f"unknown precision {self.precision}", remedy=f"choose one of {', '.join(PRECISIONS)}"
            )
        for name in ("batch_size", "log_steps", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise SonoDistillError(f"{name} is {getattr(self, name)}", remedy="give 1 or more")

    def steps(self, samples: int) -> int:
        """Optimiser steps of the whole training on ``samples`` samples."""
        return self.max_steps if self.max_steps is not None else math.ceil(self.max_epochs * samples / self.batch_size)

    def learning_rate_at(self, step: int, samples: int) -> float:
        """Linear warm-up, then half a cosine to zero: a pure function of the step."""
        total = self.steps(samples)
        warmup = min(math.ceil(self.warmup_epochs * samples / self.batch_size), total // 10)
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def decay_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels; none on biases and normalisation parameters."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class Loop:
    """Train ``method`` on ``dataset`` and leave ``last.pt``, ``log.jsonl`` and the exported product in ``output_dir``.

    The dataset is asked for ``(position, index)`` pairs (see :class:`StepBatches`); all its randomness must come from
    the seed and the position. With that, a training killed at any point and run again reaches the same weights.

    Args:
        method: what is trained and how a batch becomes a loss.
        output_dir: made if it is not there; a training in it is gone on with.
        device: "auto", "cpu", "cuda" ...
        on_log: called on the main process with each row of the log.
        settings: the fields of :class:`Settings`.
    """

    def __init__(
        self,
        method: Method,
        dataset: Dataset[Any],
        output_dir: str | Path,
        device: str | torch.device = "auto",
        on_log: Callable[[dict[str, Any]], None] | None = None,
        **settings: Any,
    ) -> None:
        self.method = method
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.settings = Settings(**settings)
        self.device = device
        self.on_log = on_log

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.settings.steps(len(self.dataset))  # type: ignore[arg-type]

    def run(self) -> Path:
        """Train to the end, from the last checkpoint if there is one. Returns the exported file.

        Raises:
            DivergedError: a loss or gradient is not finite. The checkpoint before it is kept.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once the step in hand is finished and saved.
        """
        with world(self.device) as place:
            return self._run(place)

    def _run(self, place: World) -> Path:
        settings, method = self.settings, self.method
        local_batch, remainder = divmod(settings.batch_size, place.size)
        if remainder:
            raise SonoDistillError(
                f"a batch of {settings.batch_size} cannot be shared by {place.size} processes",
                remedy="choose a batch size that is a multiple of the number of processes",
            )
        torch.manual_seed(settings.seed)
        method.to(place.device)
        optimizer = torch.optim.AdamW(decay_groups(method.network, settings.weight_decay), lr=settings.learning_rate)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        start = self._resume(optimizer, place)
        network = method.network
        if place.size > 1:
            network = DistributedDataParallel(
                network, device_ids=[place.device.index] if place.device.type == "cuda" else None
            )
        samples = len(self.dataset)  # type: ignore[arg-type]
        # A data set may know its order, its way of collating, and how its workers have to be started.
        order = getattr(self.dataset, "order", lambda seed: EndlessShuffle(samples, seed))(settings.seed)
        batches = StepBatches(order, local_batch, start, self.total_steps, place.rank, place.size)
        loader = DataLoader(
            self.dataset,
            batch_sampler=batches,
            collate_fn=getattr(self.dataset, "collate", None),
            num_workers=settings.workers,
            multiprocessing_context=getattr(self.dataset, "start_method", None) if settings.workers else None,
            pin_memory=place.device.type == "cuda",
        )
        bf16 = use_bf16(settings.precision, place.device)
        logger.info("training in %s on %s, %d steps", "bf16" if bf16 else "fp32", place.device, self.total_steps)
        with stop_requests() as stop, progress_bar(self.total_steps, start, place.is_main) as progress:
            clock = Clock()
            for step, batch in enumerate(clock.waiting(loader), start):
                values = self._step(network, optimizer, batch, step, place, bf16)
                done = step + 1
                clock.count(settings.batch_size)
                last = done == self.total_steps
                if place.is_main and (done % settings.log_steps == 0 or last or step == start):
                    row: dict[str, Any] = {"step": done, "epoch": round(done * settings.batch_size / samples, 4)}
                    self._log(row | values | clock.report(), progress)
                progress.advance()
                stopping = any_rank(stop.is_set(), place)
                if place.is_main and (done % settings.checkpoint_steps == 0 or last or stopping):
                    self._save(optimizer, done)
                if stopping and not last:
                    raise KeyboardInterrupt
        product = self.output_dir / "student.safetensors"
        if place.is_main:
            method.export(product)
        return product

    def _step(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: dict[str, Tensor],
        step: int,
        place: World,
        bf16: bool,
    ) -> dict[str, float]:
        """One optimiser step; what it lost, and at which learning rate and gradient norm."""
        torch.manual_seed(_seed(self.settings.seed, step, place.rank))
        rate = self.settings.learning_rate_at(step, len(self.dataset))  # type: ignore[arg-type]
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = {name: value.to(place.device, non_blocking=True) for name, value in batch.items()}
        with torch.autocast(place.device.type, torch.bfloat16, enabled=bf16):
            losses = self.method.step(network, batch, step)
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = float(nn.utils.clip_grad_norm_(self.method.network.parameters(), self.settings.clip))
        values = {name: float(value.detach()) for name, value in losses.items()}
        if not (math.isfinite(norm) and math.isfinite(values["loss"])):
            raise DivergedError(
                f"the loss is {values['loss']} and the gradient norm {norm} at step {step}",
                path=self.output_dir,
                remedy="lower the learning rate or lengthen the warm-up; the last checkpoint is kept",
            )
        optimizer.step()
        return values | {"learning_rate": rate, "gradient_norm": norm}

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and the training that goes on from it."""
        settings = self.settings
        of_data = self.dataset.identity() if hasattr(self.dataset, "identity") else {}
        return (
            self.method.identity()
            | of_data
            | {
                "samples": len(self.dataset),  # type: ignore[arg-type]
                "batch_size": settings.batch_size,
                "seed": settings.seed,
                "total_steps": self.total_steps,
                "learning_rate": settings.learning_rate,
            }
        )

    def _save(self, optimizer: torch.optim.Optimizer, step: int) -> None:
        state = {
            "step": step,
            "identity": self._identity(),
            "network": self.method.network.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        with atomic_path(self.output_dir / CHECKPOINT) as temporary:
            torch.save(state, temporary)

    def _resume(self, optimizer: torch.optim.Optimizer, place: World) -> int:
        path = self.output_dir / CHECKPOINT
        if not path.is_file():
            if place.is_main:
                (self.output_dir / LOG).unlink(missing_ok=True)
            return 0
        state = torch.load(path, map_location=place.device, weights_only=True)
        now = self._identity()
        if state["identity"] != now:
            changed = {
                name: (value, now.get(name)) for name, value in state["identity"].items() if value != now.get(name)
            }
            raise SonoDistillError(
                f"this training was started with other settings (before, now): {changed}",
                path=path,
                remedy="use the same settings to go on, or another output folder to start anew",
            )
        self.method.network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step = int(state["step"])
        if place.is_main:
            logger.info("going on from step %d of %d", step, self.total_steps)
            cut_log(self.output_dir / LOG, step)
        return step

    def _log(self, row: dict[str, Any], progress: Bar) -> None:
        with (self.output_dir / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        progress.show(row)
        if self.on_log:
            self.on_log(row)


def _seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for this step on this rank (drop-path, dropout)."""
    return (seed * 1_000_003 + step) * 1_009 + rank & (2**63 - 1)
