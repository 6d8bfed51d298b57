"""What changes with the step of a self-distillation: momentum, weight decay, temperature, and each layer's rate."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sonodistill.errors import BundleConfigError


def cosine(first: float, last: float, step: int, total: int) -> float:
    """``last + (first - last) * (1 + cos(pi * step / total)) / 2``: half a cosine from first to last."""
    return last + 0.5 * (first - last) * (1 + math.cos(math.pi * min(step, total) / max(1, total)))


def linear(first: float, last: float, step: int, total: float) -> float:
    """From first to last in ``total`` steps, then last."""
    return last if step >= total else first + (last - first) * step / total


@dataclass(frozen=True, slots=True)
class Schedules:
    """DINOv2's schedules; all are pure functions of the step, so that a training that goes on meets the same values.

    Attributes:
        momentum: of the teacher, first and last; half a cosine over the training.
        weight_decay_end: half a cosine from the loop's ``weight_decay`` to this.
        teacher_temperature: first and last; linear over ``temperature_epochs``.
        temperature_epochs: at most three tenths of the training, DINOv2's share.
        student_temperature: constant.
        freeze_epochs: in which the prototypes are not trained (DINO, appendix: "freezing the last layer").
        layer_decay: factor of the learning rate from a block to the one before it.
        patch_rate: further factor of the learning rate of the patch embedding.

    Raises:
        BundleConfigError: a momentum or factor outside 0 to 1, or a temperature that is not positive.
    """

    momentum: tuple[float, float] = (0.992, 1.0)
    weight_decay_end: float = 0.4
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    temperature_epochs: float = 30
    student_temperature: float = 0.1
    freeze_epochs: float = 1
    layer_decay: float = 0.9
    patch_rate: float = 0.2

    def __post_init__(self) -> None:
        for name in ("momentum", "teacher_temperature"):
            pair = getattr(self, name)
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                raise BundleConfigError(f"{name} is {pair}", remedy="give its first and its last value")
            object.__setattr__(self, name, (float(pair[0]), float(pair[1])))
        shares = {"momentum": min(self.momentum), "layer_decay": self.layer_decay, "patch_rate": self.patch_rate}
        for name, value in (shares | {"momentum ": max(self.momentum)}).items():
            if not 0 <= value <= 1:
                raise BundleConfigError(f"{name.strip()} is {value}", remedy="give 0 to 1")
        if min(*self.teacher_temperature, self.student_temperature) <= 0:
            raise BundleConfigError("a temperature is not positive", remedy="DINOv2's are 0.04 to 0.07, and 0.1")

    def momentum_at(self, step: int, total: int) -> float:
        """What the teacher keeps of itself at this step."""
        return cosine(*self.momentum, step, total)

    def weight_decay_at(self, weight_decay: float, step: int, total: int) -> float:
        """From the weight decay that the training was given."""
        return cosine(weight_decay, self.weight_decay_end, step, total)

    def temperature_at(self, step: int, total: int, epoch_steps: float) -> float:
        """Of the teacher."""
        return linear(*self.teacher_temperature, step, min(self.temperature_epochs * epoch_steps, 0.3 * total))

    def freezes(self, step: int, total: int, epoch_steps: float) -> bool:
        """Whether the prototypes stand still; for no longer than a tenth of the training."""
        return step < min(self.freeze_epochs * epoch_steps, 0.1 * total)

    def groups(self, network: nn.Module, depth: int, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups of what is trained, each with its factors ``rate`` and ``decay`` and whether it ``freezes``.

        Args:
            network: with the ViT's names after ``student.model.`` and the prototypes' after ``.prototypes.``.
            depth: blocks of the ViT.
            weight_decay: at the first step; none on biases, norms and layer scales.
        """
        groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                key = (self._rate(name, depth), float(parameter.ndim > 1), ".prototypes." in name)
                groups.setdefault(key, []).append(parameter)
        return [
            {"params": found, "rate": rate, "decay": decay, "freezes": freezes, "weight_decay": decay * weight_decay}
            for (rate, decay, freezes), found in groups.items()
        ]

    def _rate(self, name: str, depth: int) -> float:
        """DINOv2's layer-wise decay: tokens and embeddings are layer 0, blocks 1 to depth, all else depth + 1."""
        _, inside, rest = name.partition("student.")
        if not inside:
            return 1.0
        rest = rest.removeprefix("model.")
        if rest.startswith("blocks."):
            return self.layer_decay ** (depth - int(rest.split(".")[1]))
        if rest.startswith("norm."):
            return 1.0
        return self.layer_decay ** (depth + 1) * (self.patch_rate if rest.startswith("patch_embed.") else 1.0)

    def apply(
        self,
        groups: Iterable[dict[str, Any]],
        rate: float,
        weight_decay: float,
        step: int,
        total: int,
        epoch_steps: float,
    ) -> dict[str, float]:
        """Set the learning rate and weight decay of every group for this step; returns what the log is to show."""
        decay = self.weight_decay_at(weight_decay, step, total)
        frozen = self.freezes(step, total, epoch_steps)
        for group in groups:
            group["lr"] = 0.0 if frozen and group["freezes"] else rate * group["rate"]
            group["weight_decay"] = decay * group["decay"]
        return {
            "weight_decay": decay,
            "teacher_momentum": self.momentum_at(step, total),
            "teacher_temperature": self.temperature_at(step, total, epoch_steps),
        }
