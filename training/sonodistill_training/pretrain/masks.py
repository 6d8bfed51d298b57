"""Which patches of a global view the student does not see: blocks, as in BEiT and iBOT, or single ones, as in MAE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from sonodistill_training.distill.augment_options import Options, Range, Share, Within
from sonodistill_training.sampling import uniform

_LEAST = 4  # patches of a block
_ASPECT = 0.3  # the flattest block; the steepest is 1 / 0.3
_TRIES = 10  # for each block
_OWN_DRAWS = 0x5EED_3A5C  # keeps these numbers apart from those of the views


@dataclass(frozen=True, slots=True)
class BlockMasks(Options):
    """How views are masked.

    Attributes:
        share: of the global views that are masked. Of n views of a frame n * share are, up to rounding: with two views
            and the default, one of them.
        ratio: share of the patches of a masked view that are hidden, uniform between these two.

    Raises:
        AugmentationError: a share or a range cannot be.
    """

    share: Share = 0.5
    ratio: Annotated[Range, Within(0, 1)] = (0.1, 0.5)

    def draw(self, seed: int, positions: NDArray[np.int64], views: int, side: int) -> NDArray[np.bool_]:
        """(B, views, side * side), True where a patch is hidden; each row depends on seed and position alone."""
        masks = np.zeros((len(positions), views, side * side), bool)
        if self.share == 0:
            return masks
        numbers = uniform(seed ^ _OWN_DRAWS, positions, 1 + views)
        # Systematic sampling: points one apart, of which a share falls below it, whichever way they are shifted.
        masked = (numbers[:, :1] + np.arange(views) / views) % 1 < self.share
        low, high = self.ratio
        for row, view in zip(*masked.nonzero(), strict=True):
            hidden = round((low + (high - low) * numbers[row, 1 + view]) * side * side)
            generator = np.random.default_rng((seed & 0xFFFFFFFF, int(positions[row]), int(view)))
            masks[row, view] = block_mask(generator, side, hidden).ravel()
        return masks


@dataclass(frozen=True, slots=True)
class RandomMasks(Options):
    """Single patches of every view, as many of each.

    Attributes:
        share: of the patches of a view that are hidden.

    Raises:
        AugmentationError: a share that cannot be.
    """

    share: Share = 0.75

    def draw(self, seed: int, positions: NDArray[np.int64], views: int, side: int) -> NDArray[np.bool_]:
        """(B, views, side * side), True where a patch is hidden; each row depends on seed and position alone."""
        patches = side * side
        numbers = uniform(seed ^ _OWN_DRAWS, positions, views * patches).reshape(len(positions), views, patches)
        return numbers.argsort(-1) < round(self.share * patches)


def block_mask(generator: np.random.Generator, side: int, hidden: int) -> NDArray[np.bool_]:
    """(side, side), True at exactly ``hidden`` patches: rectangles until no further one fits, then single patches."""
    mask = np.zeros((side, side), bool)
    left = min(hidden, mask.size)
    while left >= _LEAST:
        for _ in range(_TRIES):
            area = generator.uniform(_LEAST, left)
            aspect = math.exp(generator.uniform(math.log(_ASPECT), -math.log(_ASPECT)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (0 < height < side and 0 < width < side):
                continue
            top, start = generator.integers(side - height + 1), generator.integers(side - width + 1)
            block = mask[top : top + height, start : start + width]
            new = block.size - int(block.sum())
            if 0 < new <= left:
                block[:] = True
                left -= new
                break
        else:
            break
    if left:
        mask.ravel()[generator.permutation(np.flatnonzero(~mask))[:left]] = True
    return mask
