"""The segmentation head of the simulation: a linear layer on kept features, the same for every strategy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sonodistill.transforms.geometry import from_output
from sonodistill_training.bench.active_learning.frames import Frames
from sonodistill_training.evaluate.metrics.segmentation import count

_STEPS, _RATE, _DECAY = 60, 0.1, 3e-3
_START = -2.0  # of the bias: little of a frame is structure


@dataclass(frozen=True)
class Head:
    """A linear layer.

    Attributes:
        mean, scale: of the labelled frames' features.
        weight, bias: on what is left of them.
    """

    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def probabilities(self, pixels: NDArray[np.float16]) -> NDArray[np.float32]:
        """(n, g * g, C) features to (n, g * g)."""
        features = (torch.from_numpy(pixels).float() - self.mean) / self.scale
        return torch.sigmoid(features @ self.weight + self.bias).numpy()


def fit(frames: Frames, labelled: NDArray[np.int64]) -> Head:
    """Train it from zero on some frames: binary cross-entropy and soft Dice of all of them together, 60 steps of Adam.

    There is nothing random in it.
    """
    features = torch.from_numpy(frames.pixels[labelled]).float().flatten(0, 1)
    truth = torch.from_numpy(frames.truths[labelled]).flatten()
    mean = features.mean(dim=0)
    scale = (features - mean).square().mean().sqrt().clamp_min(1e-6)
    features = (features - mean) / scale
    weight = torch.zeros(features.shape[1], requires_grad=True)
    bias = torch.full((1,), _START, requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], lr=_RATE)
    for step in range(_STEPS):
        optimizer.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
        logits = features @ weight + bias
        said = logits.sigmoid()
        dice = (2 * (said * truth).sum() + 1) / (said.sum() + truth.sum() + 1)
        loss = functional.binary_cross_entropy_with_logits(logits, truth) + 1 - dice
        optimizer.zero_grad()
        (loss + _DECAY * weight.square().sum()).backward()
        optimizer.step()
    return Head(mean, scale, weight.detach(), bias.detach())


def dice(frames: Frames, head: Head, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) Dice of some frames, each on its own pixel grid."""
    found = head.probabilities(frames.pixels[rows])
    side = round(found.shape[1] ** 0.5)
    scores = []
    for row, probability in zip(rows.tolist(), found, strict=True):
        of_data = int(frames.rows[row])
        height, width = frames.data.shapes[of_data].tolist()
        mask = from_output(probability.reshape(1, side, side), (height, width))[0] > 0.5
        scores.append(count(mask, frames.data.truth(of_data)).dice)
    return np.array(scores)
