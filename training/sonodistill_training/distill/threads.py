"""Which cores compute the teacher and which the student, where both work at the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sonodistill.networks.encoder import Encoder
from sonodistill_training.distill.teacher import Teacher

_BACKWARD = 3  # forward and backward pass of a network cost three forward passes
_SMALL, _SLOWER = 36, 2  # a student whose last map has fewer positions computes at half the rate
_SLACK = 1.15  # longer than an even share by which the slower of the two may take


@dataclass(frozen=True, slots=True)
class Threads:
    """How many each has."""

    teacher: int
    student: int


def share_threads(teachers: Sequence[Teacher], student: Encoder, input_size: int, total: int) -> Threads:
    """Threads in proportion to the work of a step, so that teachers and student finish together.

    Each then works on cores of its own, and loses less than with all cores on every operation, one after the other.
    Where no whole numbers come near to an even share, both have all the cores, and the system shares them out. It
    follows from the networks and the size alone: the same command is computed in the same way again.
    """
    of_teacher = sum(_operations(teacher, teacher, input_size) for teacher in teachers)
    of_student = _BACKWARD * _operations(student, student.pyramid, input_size)
    if (input_size // student.reductions[-1]) ** 2 < _SMALL:
        of_student *= _SLOWER
    share = of_teacher / (of_teacher + of_student)
    own = min(max(1, round(total * share)), total - 1)
    if own < 1 or max(share * total / own, (1 - share) * total / (total - own)) > _SLACK:
        return Threads(total, total)
    return Threads(own, total - own)


def _operations(network: nn.Module, forward: Any, input_size: int) -> float:
    """Of one image, forwards."""
    was, weight = network.training, next(network.parameters())
    images = torch.zeros(1, 1, input_size, input_size, device=weight.device, dtype=weight.dtype)
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(images)
    network.train(was)
    return float(counter.get_total_flops())
