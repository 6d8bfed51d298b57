"""Losses of the recipes, and the validation scores that choose an epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sonodistill_training.evaluate.learning.recipes import Recipe

_SMOOTH = 1e-5  # as in MONAI's losses
_TINY = 1e-30  # below it the logarithm of a probability stands still
_CHUNK = 1 << 18  # values at a time: what an operation leaves is still in the cache for the next


def segmentation_loss(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Paper A's 0.8 Dice + 0.2 focal (gamma 2, no class weights), the soft Dice over the whole batch as in smp.

    The function takes float logits (B, 1, S, S) and masks of 0 and 1 of the same shape; or (B, K, S, S) of the
    background and K - 1 structures, and masks (B, 1, S, S) of their numbers: then the Dice is the mean over structures
    and the background of a softmax, the focal loss that of the true class.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        if logits.shape[1] > 1:
            return structures_loss(logits, targets, recipe.dice_weight, recipe.focal_gamma)
        return _DiceFocal.apply(logits, targets, recipe.dice_weight, recipe.focal_gamma)

    return loss


def structures_loss(logits: Tensor, targets: Tensor, dice_weight: float, gamma: float) -> Tensor:
    """Soft Dice over the batch, mean over the K classes of (B, K, S, S) logits, and focal loss (gamma 0: log loss).

    Args:
        targets: (B, 1, S, S) numbers of classes.
    """
    found = logits.log_softmax(dim=1)
    numbers = targets.long()
    right = found.gather(1, numbers)
    focal = -((1 - right.exp()).clamp(min=0).pow(gamma) * right).mean() if gamma else -right.mean()
    probabilities = found.exp().transpose(0, 1).flatten(1)
    truth = torch.zeros_like(found).scatter_(1, numbers, 1).transpose(0, 1).flatten(1)
    overlap, total = (probabilities * truth).sum(1), (probabilities + truth).sum(1)
    dice = 1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)
    return dice_weight * dice.mean() + (1 - dice_weight) * focal


class _DiceFocal(torch.autograd.Function):
    """Both losses and their gradient in closed form, a piece of the batch at a time.

    As a chain of operations over a whole batch they wait for memory: more than for what a linear head computes.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, dice_weight: float, gamma: float) -> Tensor:
        x, y = logits.detach().reshape(-1), targets.reshape(-1).to(logits.dtype)
        sign = 2 * y - 1
        right = torch.empty_like(x)  # the probability of what is true
        overlap, total, focal = (x.new_zeros(()) for _ in range(3))
        for some, place, signs, truth in _pieces(x, right, sign, y):
            torch.sigmoid(some * signs, out=place)
            of_truth = place * truth
            found = of_truth.sum()
            overlap += found
            # Of the background, what is found is what is not right.
            total += 2 * found - place.sum() + len(truth)
            focal -= ((1 - place).pow(gamma) * place.clamp(min=_TINY).log()).sum()
        numerator, denominator = 2 * overlap + _SMOOTH, total + _SMOOTH
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(x)
            for likely, signs, truth, place in _pieces(right, sign, y, gradient):
                wrong = 1 - likely
                of_focal = (gamma * likely * likely.clamp(min=_TINY).log() - wrong) * signs * wrong.pow(gamma)
                of_dice = (numerator - 2 * denominator * truth) * (likely * wrong)
                torch.add(of_focal * ((1 - dice_weight) / len(x)), of_dice * (dice_weight / denominator**2), out=place)
            ctx.save_for_backward(gradient.view_as(logits))
        return dice_weight * (1 - numerator / denominator) + (1 - dice_weight) * focal / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return gradient * above, None, None, None


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same stretch of each, one after another."""
    return zip(*(tensor.split(_CHUNK) for tensor in tensors), strict=True)


class DiceScore:
    """Mean Dice of logits (B, 1, S, S) cut at 0, at the network's size; of two empty masks 1.

    Empty truths count, so that an epoch which finds lesions in normal frames is not the best.
    """

    def of_batch(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,): Dice of each image."""
        found, truth = (logits > 0).flatten(1), (targets > 0.5).flatten(1)
        overlap, total = (found & truth).sum(dim=1), found.sum(dim=1) + truth.sum(dim=1)
        return torch.where(total > 0, 2 * overlap / total.clamp(min=1), 1.0)

    def of_all(self, parts: Tensor) -> float:
        """The mean."""
        return float(parts.mean())


class StructuresScore:
    """Dice of each class of logits (B, K, S, S), background included, over the pixels of all frames; their mean.

    Paper B's code chooses its epoch so. A class that neither the truth nor a prediction has is left out.
    """

    def of_batch(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, 3, K): pixels in both, found and true."""
        classes = torch.arange(logits.shape[1], device=logits.device)[None, :, None]
        found = logits.argmax(dim=1).flatten(1)[:, None] == classes
        truth = targets.flatten(1)[:, None] == classes
        return torch.stack([(found & truth).sum(2), found.sum(2), truth.sum(2)], dim=1).double()

    def of_all(self, parts: Tensor) -> float:
        """The mean over the classes that occur."""
        both, found, truth = parts.sum(dim=0)
        there = found + truth > 0
        return float((2 * both[there] / (found + truth)[there]).mean())


class Likelihood:
    """Mean log-likelihood of the true class of logits (B, K).

    What chooses among the epochs of many heads at once has to be finer than a share of a hundred frames: of some
    hundred candidates, the best macro F1 would be a matter of luck.
    """

    def of_batch(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,): of each frame."""
        return -functional.cross_entropy(logits, targets, reduction="none")

    def of_all(self, parts: Tensor) -> float:
        """The mean."""
        return float(parts.mean())


class AccuracyScore:
    """Share of right classes of logits (B, K): what paper B's code chooses a head of its linear probe by."""

    def of_batch(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,): of each frame."""
        return (logits.argmax(dim=1) == targets).double()

    def of_all(self, parts: Tensor) -> float:
        """The mean."""
        return float(parts.mean())


class MacroF1Score:
    """Macro F1 of logits (B, K), over the classes that occur in the truth or among the predictions."""

    def of_batch(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, 2): predicted and true class."""
        return torch.stack([logits.argmax(dim=1), targets], dim=1)

    def of_all(self, parts: Tensor) -> float:
        """The mean over classes."""
        scores = []
        for number in parts.unique():
            positive, true = (parts == number).unbind(1)
            scores.append(2 * (positive & true).sum() / (positive.sum() + true.sum()))
        return float(torch.stack(scores).mean())
