"""Which sample comes when: an endless shuffled sequence that is a pure function of the seed and the position."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

Position = tuple[int, int]
"""(position in the endless sequence, index into the data set)."""


class EndlessShuffle:
    """Permutations of ``range(length)`` one after the other, without a dropped or repeated sample between them.

    Position ``p`` belongs to epoch ``p // length``. Nothing is stored, so training resumes at any position and every
    process of a distributed run knows the whole sequence.
    """

    def __init__(self, length: int, seed: int) -> None:
        if length < 1:
            raise ValueError("an empty data set cannot be shuffled")
        self.length = length
        self.seed = seed
        self._permutation = lru_cache(maxsize=2)(self._shuffle)

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.length)

    def __getitem__(self, position: int) -> int:
        epoch, offset = divmod(position, self.length)
        return int(self._permutation(epoch)[offset])


class StepBatches(Sampler[list[Position]]):
    """Batches for the steps ``start .. stop - 1`` of one rank.

    The global batch of step ``s`` is the positions ``s * batch_size * ranks`` and on; a rank takes every ``ranks``-th.

    Args:
        order: the sequence of samples.
        batch_size: samples a step on each rank.
    """

    def __init__(
        self, order: EndlessShuffle, batch_size: int, start: int, stop: int, rank: int = 0, ranks: int = 1
    ) -> None:
        self.order, self.batch_size = order, batch_size
        self.start, self.stop = start, stop
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Position]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size * self.ranks + self.rank
            positions = range(first, first + self.batch_size * self.ranks, self.ranks)
            yield [(position, self.order[position]) for position in positions]
