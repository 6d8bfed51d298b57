"""Which sample comes when, and its random numbers: pure functions of the seed and the position in the training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Sampler

Position = tuple[int, int]
"""(position in the endless sequence, index into the data set)."""

# splitmix64 (Steele, Lea and Flood, OOPSLA 2014): its increment and the two factors of its finaliser.
_GAMMA, _MIX_1, _MIX_2 = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


def uniform(seed: int, positions: ArrayLike, draws: int) -> NDArray[np.float64]:
    """(len(positions), draws) numbers in [0, 1): row i depends on the seed and ``positions[i]`` alone.

    A counter-based generator: each position starts a splitmix64 sequence of its own. All numbers of a batch are
    computed at once, and the same whichever batch or worker a position falls into.
    """
    start = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)) ^ np.asarray(positions, np.int64).astype(np.uint64)
    steps = np.arange(1, draws + 1, dtype=np.uint64) * _GAMMA
    return (_mix(_mix(start)[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = state + _GAMMA
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    return state ^ (state >> np.uint64(31))


class Order(ABC):
    """An endless sequence of samples in epochs of ``length``; position ``p`` belongs to epoch ``p // length``.

    Nothing is stored, so training resumes at any position and every process of a distributed run knows the whole
    sequence.
    """

    def __init__(self, length: int, seed: int) -> None:
        if length < 1:
            raise ValueError("an empty data set cannot be shuffled")
        self.length = length
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self.epoch)

    @abstractmethod
    def epoch(self, number: int) -> NDArray[np.int64]:
        """(length,) the samples of an epoch."""

    def __getitem__(self, position: int) -> int:
        number, offset = divmod(position, self.length)
        return self._epoch(number).item(offset)

    def span(self, start: int, stop: int) -> NDArray[np.int64]:
        """The samples at the positions ``start .. stop - 1``."""
        first, last = start // self.length, max(start, stop - 1) // self.length
        epochs = np.concatenate([self._epoch(number) for number in range(first, last + 1)])
        return epochs[start - first * self.length : stop - first * self.length]


class EndlessShuffle(Order):
    """Permutations of ``range(length)`` one after the other, without a dropped or repeated sample between them."""

    def epoch(self, number: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, number]).permutation(self.length)


class BlockShuffle(Order):
    """Every sample once an epoch, in an order that a stream can follow: blocks in random order, ``window`` of them
    mixed with one another at a time.

    Args:
        blocks: (N,) the block of each sample.
        window: blocks that must be at hand at once. More mix better; a reader needs memory for two windows.
    """

    def __init__(self, blocks: ArrayLike, seed: int, window: int = 16) -> None:
        self.blocks = np.asarray(blocks)
        self.window = window
        super().__init__(len(self.blocks), seed)

    def epoch(self, number: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self.seed, number])
        windows = generator.permutation(int(self.blocks.max()) + 1) // self.window
        return np.lexsort((generator.random(self.length), windows[self.blocks]))


class BalancedShuffle(Order):
    """Data sets take turns in proportion to ``size ** alpha``; each is walked by an endless order of its own.

    An epoch has as many positions as there are samples, and every epoch the same number for each data set. With
    ``alpha`` 1 that is each sample once; with 0 every data set has the same share, and a sample of a small one comes
    again when all others of it have been seen.

    Args:
        datasets: (N,) the data set of each sample, as numbers from 0.
        alpha: 0 to 1.
        blocks: (N,) as for :class:`BlockShuffle`, where each data set is to be walked by blocks.
    """

    def __init__(
        self, datasets: ArrayLike, seed: int, alpha: float = 0.5, blocks: ArrayLike | None = None, window: int = 2
    ) -> None:
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}, and not between 0 (equal shares) and 1 (natural shares)")
        codes = np.asarray(datasets)
        super().__init__(len(codes), seed)
        self._members = [np.flatnonzero(codes == code) for code in np.unique(codes)]
        self.shares = _apportion(np.array([len(members) for members in self._members]) ** alpha, self.length)
        self._walks: list[Order] = []
        for number, members in enumerate(self._members):
            own = int(_mix(np.array([seed ^ number << 32], np.uint64))[0] >> np.uint64(1))
            if blocks is None:
                self._walks.append(EndlessShuffle(len(members), own))
            else:
                here = np.unique(np.asarray(blocks)[members], return_inverse=True)[1]
                self._walks.append(BlockShuffle(here, own, window))

    def epoch(self, number: int) -> NDArray[np.int64]:
        turns = np.random.default_rng([self.seed, number]).permutation(
            np.repeat(np.arange(len(self.shares)), self.shares)
        )
        samples = np.empty(self.length, np.int64)
        for code, (share, members) in enumerate(zip(self.shares.tolist(), self._members, strict=True)):
            samples[turns == code] = members[self._walks[code].span(number * share, (number + 1) * share)]
        return samples


def _apportion(weights: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole shares of ``total`` in proportion to the weights, by largest remainders."""
    exact = total * weights / weights.sum()
    shares = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")[: total - shares.sum()]
    shares[largest] += 1
    return shares


class StepBatches(Sampler[list[Position]]):
    """Batches for the steps ``start .. stop - 1`` of one rank.

    The global batch of step ``s`` is the positions ``s * batch_size * ranks`` and on; a rank takes every ``ranks``-th.

    Args:
        order: the sequence of samples.
        batch_size: samples a step on each rank.
    """

    def __init__(self, order: Order, batch_size: int, start: int, stop: int, rank: int = 0, ranks: int = 1) -> None:
        self.order, self.batch_size = order, batch_size
        self.start, self.stop = start, stop
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Position]]:
        for step in range(self.start, self.stop):
            first = step * self.batch_size * self.ranks
            positions = range(first, first + self.batch_size * self.ranks)
            samples: Sequence[int] = self.order.span(first, positions.stop).tolist()
            yield list(zip(positions, samples, strict=True))[self.rank :: self.ranks]
