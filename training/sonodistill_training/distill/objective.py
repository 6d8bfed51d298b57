"""Token alignment between student and teacher (paper A, Eq. 6), and what can be asked for beyond it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError

NORMALISATIONS = ("none", "l2", "standardize")
_CHUNK_ELEMENTS = 2**20  # of the target at a time: 4 MB in float32, which a core's cache still holds


@dataclass(frozen=True, slots=True)
class Objective:
    """How far a student's map is from a teacher's.

    The defaults are Eq. 6: squared differences of tokens as they are. (The paper sums over the channels; the mean is
    minimised here, which is the same up to a factor that AdamW does not see and gradient clipping does.)

    Attributes:
        normalisation: of the tokens: "none" (the paper); "l2" scales each token of both sides to unit length, so that
            the distance is 2 - 2 cos; "standardize" takes from each teacher channel its mean and divides it by its
            standard deviation to the ``power``, both running ones.
        power: of the standard deviation in "standardize": 1 brings each channel to variance 1, so that all count
            alike; 0 keeps their weights; 0.5 is halfway.
        similarity: weight of the mean squared difference between the cosine similarities of all pairs of tokens within
            an image: which places look alike, whatever the channels mean. 0 leaves it out.
    """

    normalisation: str = "none"
    similarity: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        if self.normalisation not in NORMALISATIONS:
            raise BundleConfigError(
                f"unknown target normalisation {self.normalisation}", remedy=f"choose one of {NORMALISATIONS}"
            )
        if not 0 <= self.power <= 1:
            raise BundleConfigError(f"the power of the standard deviation is {self.power}", remedy="give 0 to 1")
        if self.similarity < 0:
            raise BundleConfigError(f"the weight of the similarity is {self.similarity}", remedy="give 0 or more")

    def __call__(
        self, prediction: Tensor, target: Tensor, statistics: ChannelStatistics | None = None
    ) -> dict[str, Tensor]:
        """Distances of a (B, D, H, W) prediction, resized bilinearly to the grid of a (B, D, h, w) target.

        The batch is worked through in pieces, gradient and all, in float32: neither the whole target nor the whole
        resized prediction ever exists in float32 (617 MB each at the paper's batch of 512).

        Returns:
            ``loss``: mean over the batch, to be minimised.
            ``token``: its first term. ``similarity``: its second before the weight, where it is on.
            ``eq6``: the paper's Eq. 6, the squared distance summed over channels, where tokens are not normalised.
            ``target_variance``: what ``token`` is for a student that always answers the mean token.
        """
        if prediction.shape[:2] != target.shape[:2]:
            raise ValueError(f"a prediction of {tuple(prediction.shape)} for a target of {tuple(target.shape)}")
        loss, terms = _Piecewise.apply(prediction, target, self, statistics)  # type: ignore[no-untyped-call]
        values = {"loss": loss, "token": terms[0], "target_variance": terms[2]}
        if self.similarity:
            values["similarity"] = terms[1]
        if self.normalisation == "none":
            values["eq6"] = terms[0] * target.shape[1]
        return values

    def normalise(self, tokens: Tensor, statistics: ChannelStatistics | None = None) -> Tensor:
        """(B, D, h, w) tokens as they are compared; ``statistics`` are the teacher's."""
        if self.normalisation == "l2":
            return functional.normalize(tokens, dim=1)
        return tokens if statistics is None else statistics(tokens, self.power)

    def reduce(self, squares: Tensor) -> Tensor:
        """(..., D) squares over the channels: their sum for unit tokens (2 - 2 cos), else their mean."""
        return squares.sum(-1) if self.normalisation == "l2" else squares.mean(-1)

    def of_piece(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(token term, similarity term) of normalised float32 maps of one shape; means over images and tokens."""
        token = functional.mse_loss(student, teacher)
        if self.normalisation == "l2":
            token = token * student.shape[1]
        if not self.similarity:
            return token, token.new_zeros(())
        return token, functional.mse_loss(_similarities(student), _similarities(teacher))


class ChannelStatistics(nn.Module):
    """Running mean and variance of each teacher channel; part of what a checkpoint holds.

    Attributes:
        mean: (D,) float32.
        var: (D,) float32.
    """

    mean: Tensor
    var: Tensor
    batches: Tensor

    def __init__(self, dim: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("var", torch.ones(dim))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, target: Tensor) -> None:
        """Count a (B, D, h, w) target in; early on all batches weigh the same."""
        moments = [torch.var_mean(piece.float(), dim=(0, 2, 3), correction=0) for piece in target.split(_piece(target))]
        var, mean = (torch.stack(values).mean(0) for values in zip(*moments, strict=True))
        self.batches += 1
        weight = torch.clamp(1 / self.batches, min=self.momentum)
        self.mean.lerp_(mean, weight)
        self.var.lerp_(var, weight)

    def forward(self, target: Tensor, power: float = 1.0) -> Tensor:
        """(B, D, h, w) with mean 0, divided by the standard deviation to this power."""
        shape = (1, -1, 1, 1)
        return (target - self.mean.view(shape)) / self.var.clamp(min=1e-8).pow(power / 2).view(shape)


class _Piecewise(torch.autograd.Function):
    """The objective and its gradient in one pass over pieces of the batch."""

    @staticmethod
    def forward(
        ctx: Any, prediction: Tensor, target: Tensor, objective: Objective, statistics: ChannelStatistics | None
    ) -> tuple[Tensor, Tensor]:
        grid = target.shape[-2:]
        weights = interpolation_matrix(prediction.shape[-2:], grid).to(prediction.device)
        gradient = torch.empty_like(prediction)
        token, similarity = torch.zeros((), device=weights.device), torch.zeros((), device=weights.device)
        moments = torch.zeros(2, target.shape[1], device=weights.device)
        with torch.autocast(weights.device.type, enabled=False):
            piece = _piece(target)
            pieces = (prediction.detach().split(piece), target.split(piece), gradient.split(piece))
            for low, tokens, place in zip(*pieces, strict=True):
                share = len(low) / len(prediction)
                teacher = objective.normalise(tokens.float(), statistics)
                with torch.enable_grad():
                    leaf = low.float().contiguous().requires_grad_()
                    student = objective.normalise((leaf.flatten(2) @ weights).unflatten(2, grid))
                    terms = objective.of_piece(student, teacher)
                    loss = share * (terms[0] + objective.similarity * terms[1])
                place.copy_(torch.autograd.grad(loss, leaf)[0])
                token += share * terms[0].detach()
                similarity += share * terms[1].detach()
                moments[0] += share * teacher.mean((0, 2, 3))
                moments[1] += torch.linalg.vector_norm(teacher.flatten(2), dim=2).square().sum(0)
        moments[1] /= target.numel() / target.shape[1]
        ctx.save_for_backward(gradient)
        terms = torch.stack([token, similarity, objective.reduce(moments[1] - moments[0].square())])
        ctx.mark_non_differentiable(terms)
        return token + objective.similarity * similarity, terms

    @staticmethod
    def backward(ctx: Any, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * scale, None, None, None


@lru_cache(maxsize=8)
def interpolation_matrix(source: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """(H * W, h * w) float32: bilinear interpolation (``align_corners=False``) as a matrix product, for any channels.

    A product with this small matrix, forwards and backwards, takes a fraction of the time of torch's interpolation.
    """
    places = torch.eye(source[0] * source[1]).unflatten(1, source)[:, None]
    return functional.interpolate(places, grid, mode="bilinear", align_corners=False).flatten(1)


def _similarities(tokens: Tensor) -> Tensor:
    """(B, N, N) cosines between the N = h * w tokens of each image."""
    units = functional.normalize(tokens, dim=1).flatten(2)
    return units.transpose(1, 2) @ units


def _piece(target: Tensor) -> int:
    """Images at a time."""
    return max(1, _CHUNK_ELEMENTS // target[0].numel())
