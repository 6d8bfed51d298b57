"""Random views of a corpus in batches, each a pure function of the seed and its position in the training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.distill.augment import Augmentation, UltrasoundAugmentation, crop_and_flip
from sonodistill_training.sampling import BalancedShuffle, BlockShuffle, EndlessShuffle, Order, Position


class CorpusViews(Dataset[dict[str, Tensor]]):
    """``views[(position, index)]`` is ``{"image": (1, size, size) uint8, "blur": () float32, ...}``.

    A data loader asks for whole batches, which are made at once (``views.__getitems__``) and need no collating.

    Args:
        data: the frames, a :class:`Corpus` or any sequence of (H, W) uint8 arrays.
        size: pixels of the square view.
        augmentation: how views are made; None is :class:`UltrasoundAugmentation` as the paper has it.
        seed: with the position in the training, the only source of randomness.
        balance: data sets come in proportion to their size to this power: 1 as they are, 0 all alike.
    """

    def __init__(
        self,
        data: Corpus | Sequence[Any],
        size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        balance: float = 1.0,
    ) -> None:
        self.data = data
        self.size = size
        self.augmentation: Augmentation = augmentation or UltrasoundAugmentation()
        self.seed = seed
        self.balance = balance

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        return {name: values[0] for name, values in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[Position]) -> dict[str, Tensor]:
        """The batch of these positions: ``image`` (B, 1, size, size) uint8 and what the device is to do to it."""
        places, indices = zip(*positions, strict=True)
        corpus = isinstance(self.data, Corpus)
        frames = self.data.take(indices) if corpus else [self.data[index] for index in indices]  # type: ignore[union-attr]
        views = self.augmentation.draw(self.seed, places, np.array([frame.shape for frame in frames]))
        return {"image": torch.from_numpy(crop_and_flip(frames, views, self.size))} | views.on_device()

    @staticmethod
    def collate(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch is made as one: there is nothing to collate."""
        return batch

    def order(self, seed: int) -> Order:
        """The order of a training: balanced if asked for, and by blocks where the corpus is streamed."""
        streamed = isinstance(self.data, Corpus) and self.data.streamed
        if self.balance == 1:
            return BlockShuffle(self.data.blocks, seed) if streamed else EndlessShuffle(len(self), seed)  # type: ignore[union-attr]
        codes, _ = self.data.datasets  # type: ignore[union-attr]
        return BalancedShuffle(codes, seed, self.balance, self.data.blocks if streamed else None)  # type: ignore[union-attr]

    @property
    def start_method(self) -> str | None:
        """How workers must be started: the client of an object store does not survive a fork."""
        return "spawn" if isinstance(self.data, Corpus) and self.data.streamed else None

    def identity(self) -> dict[str, Any]:
        """What must not change when a training is gone on with."""
        return {"augmentation": self.augmentation.identity, "balance": self.balance}
