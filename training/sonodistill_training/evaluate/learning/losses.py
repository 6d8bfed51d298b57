"""Losses of the recipes, and the validation scores that choose an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sonodistill_training.evaluate.learning.recipes import Recipe


def segmentation_loss(recipe: Recipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Paper A's 0.8 Dice + 0.2 focal (gamma 2, no class weights), the soft Dice over the whole batch as in smp."""
    from monai.losses import DiceFocalLoss

    return DiceFocalLoss(
        sigmoid=True,
        batch=True,
        gamma=recipe.focal_gamma,
        lambda_dice=recipe.dice_weight,
        lambda_focal=1 - recipe.dice_weight,
    )


def dice_score(logits: Tensor, targets: Tensor) -> float:
    """Mean Dice of (N, 1, S, S) logits cut at 0, at the network's size; of two empty masks 1.

    Empty truths count, so that an epoch which finds lesions in normal frames is not the best.
    """
    found, truth = (logits > 0).flatten(1), (targets > 0.5).flatten(1)
    overlap, total = (found & truth).sum(dim=1), found.sum(dim=1) + truth.sum(dim=1)
    return float(torch.where(total > 0, 2 * overlap / total.clamp(min=1), 1.0).mean())


def f1_score(logits: Tensor, targets: Tensor) -> float:
    """Macro F1 of (N, K) logits and (N,) classes, over the classes that occur in either."""
    found = logits.argmax(dim=1)
    scores = []
    for number in range(logits.shape[1]):
        positive, true = found == number, targets == number
        total = positive.sum() + true.sum()
        if total:
            scores.append(2 * (positive & true).sum() / total)
    return float(torch.stack(scores).mean())
