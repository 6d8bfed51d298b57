"""How long, how fast and how exactly to train: the settings of the loop and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sonodistill.errors import SonoDistillError
from sonodistill.networks.precision import PRECISIONS
from sonodistill_training.logs import check_logs


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
        accumulate: a batch is worked through in so many parts, one after the other. Batch normalisation and mixup see
            a part at a time.
        ema: decay of a running average of the weights, which is then what is exported; 0 = none.
        checkpoint_steps: save every so many steps (and at the end, and on Ctrl-C).
        monitor_steps: look at the encoder every so many steps (and at the end); 0 = at the end alone.
        logs: "jsonl", and beside it "csv", "tensorboard", "mlflow".
        mlflow_uri: where MLflow logs to; a SQLite file in the output folder when None.
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
    accumulate: int = 1
    ema: float = 0.0
    monitor_steps: int = 0
    logs: Sequence[str] = ("jsonl",)
    mlflow_uri: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise SonoDistillError(
                f"unknown precision {self.precision}", remedy=f"choose one of {', '.join(PRECISIONS)}"
            )
        for name in ("batch_size", "log_steps", "checkpoint_steps", "accumulate"):
            if getattr(self, name) < 1:
                raise SonoDistillError(f"{name} is {getattr(self, name)}", remedy="give 1 or more")

        check_logs(self.logs)
        if not 0 <= self.ema < 1:
            raise SonoDistillError(
                f"ema is {self.ema}", remedy="give a decay from 0 (none) to less than 1, such as 0.9995"
            )

    def steps(self, samples: int) -> int:
        """Optimiser steps of the whole training on ``samples`` samples."""
        return self.max_steps if self.max_steps is not None else math.ceil(self.max_epochs * samples / self.batch_size)

    def warmup_steps(self, samples: int) -> int:
        """Steps in which the learning rate rises."""
        return min(math.ceil(self.warmup_epochs * samples / self.batch_size), self.steps(samples) // 10)

    def learning_rate_at(self, step: int, samples: int) -> float:
        """Linear warm-up, then half a cosine to zero: a pure function of the step."""
        total, warmup = self.steps(samples), self.warmup_steps(samples)
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
