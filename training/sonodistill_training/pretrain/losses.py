"""What self-distillation minimises: DINO on class tokens, iBOT on masked patches, KoLeo; and the targets' balancing.

All in float32 with autocast off: a softmax over 65,536 prototypes at a temperature of 0.04 is beyond bfloat16. Every
function takes logits as the heads give them; they are divided by their temperature here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError

BALANCES = ("sinkhorn", "centering", "none")
ITERATIONS = 3
_EPS = 1e-8

_Function = TypeVar("_Function", bound=Callable[..., Any])


def in_float32(function: _Function) -> _Function:
    """Compute with autocast off; the first argument says on which device."""

    def wrapped(first: Tensor, *others: Any, **named: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return function(first.float(), *others, **named)

    wrapped.__doc__, wrapped.__name__ = function.__doc__, function.__name__
    return wrapped  # type: ignore[return-value]


@in_float32
def view_losses(students: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropies between every view of the student and every one of the teacher (DINO, Eq. 2 and 3).

    Args:
        students: (V, B, K) logits.
        targets: (G, B, K) probabilities, each of which sums to 1.
        temperature: of the student.

    Returns:
        (V, G) float32, each the mean over the batch. As a target sums to 1, this is
        ``logsumexp(s / t) - <target, s> / t``, for which no log-softmax has to be kept.
    """
    students = students / temperature
    dots = torch.einsum("vbk,gbk->vg", students, targets.float()) / students.shape[1]
    return students.logsumexp(-1).mean(1)[:, None] - dots


def dino_loss(local: Tensor | None, whole: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """The mean over all pairs of a student's view and another view of the teacher's, as DINOv2 weighs them.

    Args:
        local: (L, B, K) logits of the local views, or None.
        whole: (G, B, K) logits of the global views.
        targets: (G, B, K) probabilities of the same global views; a view is never its own target.
    """
    pairs = view_losses(whole, targets, temperature)
    others = ~torch.eye(len(whole), len(targets), dtype=torch.bool, device=pairs.device)
    total, count = (pairs * others).sum(), len(whole) * (len(targets) - 1)
    if local is not None:
        total, count = total + view_losses(local, targets, temperature).sum(), count + len(local) * len(targets)
    return total / max(count, 1)


@in_float32
def ibot_loss(students: Tensor, targets: Tensor, weights: Tensor, images: int, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of masked patches (iBOT, Eq. 2), each image's patches weighing as much as any other's.

    Args:
        students: (M, K) logits of the masked patches of all images.
        targets: (M, K) probabilities that the teacher gives the same patches, unmasked.
        weights: (M,) one over the number of masked patches of the image that a patch is of.
        images: global views of the batch, whether masked or not.
    """
    students = students / temperature
    return (weights * (students.logsumexp(-1) - (targets.float() * students).sum(-1))).sum() / images


@in_float32
def koleo_loss(features: Tensor) -> Tensor:
    """Kozachenko-Leonenko regulariser (DINOv2, section 4): the mean of minus the log distance to the nearest other.

    Over the images of this process alone, as in DINOv2.

    Args:
        features: (B, C) class tokens of one view of each image, before the head.
    """
    if len(features) < 2:
        return features.sum() * 0
    units = functional.normalize(features, dim=-1, eps=_EPS)
    with torch.no_grad():
        nearest = (units @ units.T).fill_diagonal_(-2).argmax(1)
    return -torch.log(functional.pairwise_distance(units, units[nearest], 2, _EPS) + _EPS).mean()


@torch.no_grad()
@in_float32
def sinkhorn(logits: Tensor, temperature: float, iterations: int = ITERATIONS) -> Tensor:
    """Sinkhorn-Knopp (SwAV, section 3.1): rows that sum to 1, while all prototypes are used alike.

    Over the rows of all processes together; each must call it, if with no rows.

    Args:
        logits: (B, K).

    Returns:
        (B, K) float32.
    """
    logits = logits / temperature
    # A common factor of all rows changes nothing, and keeps the largest at 1.
    highest = logits.max() if len(logits) else logits.new_tensor(-torch.inf)
    shares = torch.exp(logits - together(highest, dist.ReduceOp.MAX))
    rows = together(logits.new_tensor(float(len(logits))))
    tiny = torch.finfo(shares.dtype).tiny
    for _ in range(iterations):
        shares = shares / together(shares.sum(0)).clamp(min=tiny) / shares.shape[1]
        shares = shares / shares.sum(1, keepdim=True).clamp(min=tiny) / rows
    return shares * rows


class Balance(nn.Module):
    """The teacher's logits as targets: sharpened, and kept from all falling on one prototype.

    Args:
        prototypes: K.
        kind: "sinkhorn" (DINOv2's paper); "centering" (DINO, Eq. 4: a running mean is taken off the logits); or "none",
            a bare softmax, which collapses.
        momentum: of the running mean.

    Attributes:
        center: (1, K) float32 running mean, part of what a checkpoint holds; zero where there is none.
    """

    center: Tensor

    def __init__(self, prototypes: int, kind: str = "sinkhorn", momentum: float = 0.9) -> None:
        super().__init__()
        if kind not in BALANCES:
            raise BundleConfigError(f"unknown balancing {kind}", remedy=f"choose one of {', '.join(BALANCES)}")
        self.kind, self.momentum = kind, momentum
        self.register_buffer("center", torch.zeros(1, prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """(B, K) logits to (B, K) float32 probabilities; the centre takes in these logits after their use."""
        if self.kind == "sinkhorn":
            return sinkhorn(logits, temperature)
        logits = logits.float()
        with torch.autocast(logits.device.type, enabled=False):
            targets = torch.softmax((logits - self.center) / temperature, dim=-1)
            if self.kind == "centering":
                rows = together(logits.new_tensor(float(len(logits))))
                mean = together(logits.sum(0, keepdim=True)) / rows.clamp(min=1)
                self.center.lerp_(mean, 1 - self.momentum)
        return targets


@torch.no_grad()
@in_float32
def prototype_health(logits: Tensor, temperature: float) -> dict[str, Tensor]:
    """What a teacher's unbalanced logits (B, K) say of the images, whichever way it collapses.

    Returns:
        ``prototype_entropy``: entropy of the batch's mean softmax as a share of log K; 0 where all images fall on one
            prototype.
        ``prototype_groups``: exp of the mutual information between image and prototype, from 1 (all images look alike
            to the prototypes: one prototype, or the same or no preference for all) to min(B, K).
    """
    probabilities = torch.softmax(logits / temperature, dim=-1)
    whole = _entropy(probabilities.mean(0))
    return {
        "prototype_entropy": whole / math.log(max(2, logits.shape[-1])),
        "prototype_groups": (whole - _entropy(probabilities).mean()).exp(),
    }


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)


def together(value: Tensor, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    """The value over all processes."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value, operation)
    return value
