"""Random views of a frame pack, each a pure function of the seed and its position in the training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonodistill_training.corpus.pack import FramePack
from sonodistill_training.distill.augment import UltrasoundAugmentation
from sonodistill_training.sampling import Position


class PackViews(Dataset[dict[str, Tensor]]):
    """``views[(position, index)]`` is ``{"image": (1, size, size) uint8, "blur": () float32}``.

    Args:
        data: the frames.
        size: pixels of the square view.
        seed: with the position in the training, the only source of randomness.
    """

    def __init__(
        self, data: FramePack, size: int, augmentation: UltrasoundAugmentation | None = None, seed: int = 0
    ) -> None:
        self.data = data
        self.size = size
        self.augmentation = augmentation or UltrasoundAugmentation()
        self.seed = seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        place, index = position
        view, sigma = self.augmentation.view(self.data[index], self.size, np.random.default_rng([self.seed, place]))
        return {"image": torch.from_numpy(view)[None], "blur": torch.tensor(sigma)}
