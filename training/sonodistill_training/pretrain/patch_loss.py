"""iBOT's loss of many hidden patches, worked through in pieces: no matrix of all patches by all prototypes exists.

A batch of 512 frames hides some 30,000 patches; with 65,536 prototypes one float32 matrix of them takes 7.9 GB, and
logits, their gradient, targets and Sinkhorn's steps are one each. Here a piece is made from the patches' unit vectors
(256 wide) when it is needed, and made again for the gradient; the results are those of the plain form but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sonodistill_training.pretrain.losses import ITERATIONS, Balance, in_float32, together

AT_ONCE = 1 << 26  # values: 268 MB in float32

Cosines = Callable[[Tensor], Tensor]
"""Unit vectors (M, C) to their cosines with the prototypes (M, K)."""
Targets = Callable[[Tensor, Tensor], Tensor]
"""Cosines (m, K) of a piece and its (m,) rows among all to its targets (m, K)."""


def rows_at_once(prototypes: int) -> int:
    """Patches of a piece."""
    return max(1, AT_ONCE // prototypes)


def loss_in_pieces(
    students: Tensor,
    student_cosines: Cosines,
    teachers: Tensor,
    teacher_cosines: Cosines,
    balance: Balance,
    weights: Tensor,
    images: int,
    teacher_temperature: float,
    temperature: float = 0.1,
    rows: int | None = None,
) -> Tensor:
    """:func:`~sonodistill_training.pretrain.losses.ibot_loss` of the balanced targets, in pieces of ``rows`` patches.

    Args:
        students, teachers: (M, C) unit vectors of the hidden patches, of which the heads take cosines.
        balance: of the targets; its centre takes in the teacher's logits.
        weights, images, temperature: as for ``ibot_loss``.
        teacher_temperature: of the targets.
    """
    size = rows or rows_at_once(balance.center.shape[1])
    target = _targets(teachers, teacher_cosines, balance, teacher_temperature, size)

    def of_piece(units: Tensor, teacher: Tensor, place: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = target(teacher_cosines(teacher), place)
        return _cross_entropy(student_cosines(units), wanted, weight, temperature)

    total = students.new_zeros((), dtype=torch.float32)
    places = torch.arange(len(students), device=students.device)
    for piece in _pieces(size, students, teachers, places, weights):
        total = total + checkpoint(of_piece, *piece, use_reentrant=False, preserve_rng_state=False)  # type: ignore[arg-type]
    # Without a hidden patch there is nothing to learn, but a gradient of zero.
    return (total + 0 * students.sum()) / images


@in_float32
def _cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor, temperature: float) -> Tensor:
    logits = logits / temperature
    return (weights * (logits.logsumexp(-1) - (targets * logits).sum(-1))).sum()


@torch.no_grad()
def _targets(units: Tensor, cosines: Cosines, balance: Balance, temperature: float, size: int) -> Targets:
    """What makes a piece's cosines and its places its targets."""
    if balance.kind == "sinkhorn":
        return _sinkhorn(units, cosines, temperature, size)
    center = balance.center.clone()
    if balance.kind == "centering":
        total = torch.zeros_like(balance.center)
        for (piece,) in _pieces(size, units):
            total += cosines(piece).float().sum(0, keepdim=True)
        count = together(total.new_tensor(float(len(units)))).clamp(min=1)
        balance.center.lerp_(together(total) / count, 1 - balance.momentum)
    return lambda logits, _: torch.softmax((logits.float() - center) / temperature, dim=-1)


def _sinkhorn(units: Tensor, cosines: Cosines, temperature: float, size: int) -> Targets:
    """Sinkhorn-Knopp by its two scalings alone: what it makes of the shares is rows x columns x shares.

    The processes meet as often, and over as much, as in :func:`~sonodistill_training.pretrain.losses.sinkhorn`.
    """
    device = units.device
    highest = torch.tensor(-torch.inf, device=device)
    for (piece,) in _pieces(size, units):
        highest = torch.maximum(highest, cosines(piece).float().max() / temperature)
    highest = together(highest, dist.ReduceOp.MAX)
    count = together(torch.tensor(float(len(units)), device=device))
    tiny = torch.finfo(torch.float32).tiny

    def shares(logits: Tensor) -> Tensor:
        return torch.exp(logits.float() / temperature - highest)

    of_rows = torch.ones(len(units), device=device)
    of_columns: Tensor | None = None
    for _ in range(ITERATIONS):
        found: Any = 0
        for piece, row in _pieces(size, units, of_rows):
            share = shares(cosines(piece)) * row[:, None]
            found = found + (share if of_columns is None else share * of_columns).sum(0)
        if isinstance(found, int):  # a process without a hidden patch
            found = torch.zeros(cosines(units.new_zeros(1, units.shape[1])).shape[1], device=device)
        scale = 1 / together(found).clamp(min=tiny) / len(found)
        of_columns = scale if of_columns is None else of_columns * scale
        for piece, row in _pieces(size, units, of_rows):
            sums = (shares(cosines(piece)) * of_columns).sum(1) * row
            row /= sums.clamp(min=tiny) * count  # a view: it changes of_rows
    return lambda logits, place: shares(logits) * of_columns * of_rows[place, None] * count


def _pieces(size: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(size) for tensor in tensors), strict=True) if len(tensors[0]) else iter(())
