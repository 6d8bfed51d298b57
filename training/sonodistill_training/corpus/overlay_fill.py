"""Takes what was drawn out of an image: its pixels become tissue that could be there, and no other pixel changes."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

_WINDOWS = (9, 25, 75, 225)  # px of the squares whose known pixels give the level; the larger ones for wide holes
_KNOWN = 0.1  # part of a square that has to be known
_SHIFTS = tuple((dy * r, dx * r) for r in (5, 9, 15, 25) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)))


def remove(
    gray: NDArray[np.uint8], mask: NDArray[np.bool_], how: Literal["inpaint", "mask"] = "inpaint"
) -> NDArray[np.uint8]:
    """Take the masked pixels out.

    "inpaint" gives them the mean level of the known pixels around, and the speckle (what is left over that mean) of
    known pixels a few px to the side: strokes disappear without the smooth scar that diffusion leaves. "mask" makes
    them black.

    Args:
        gray: (H, W) uint8.
        mask: (H, W) bool.
        how: "inpaint" or "mask".

    Returns:
        (H, W) uint8, a new array, equal to ``gray`` outside of the mask.
    """
    if how not in ("inpaint", "mask"):
        raise ValueError(f'how is "inpaint" or "mask", not {how!r}')
    result = gray.copy()
    if how == "mask" or mask.all():
        result[mask] = 0
        return result
    rows, columns = np.nonzero(mask)
    if rows.size:
        level = _level(gray, mask)
        result[rows, columns] = np.clip(level[rows, columns] + _speckle(gray, mask, level, rows, columns), 0, 255) + 0.5
    return result


def shrink_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at another size: true wherever a pixel of the new size touches a true one of the old.

    Args:
        mask: (H, W) bool.
        size: (height, width) of the result; at most that of the mask.

    Returns:
        ``size`` bool.
    """
    height, width = size
    if (height, width) == mask.shape:
        return mask.copy()
    share = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return share > 1e-6


def _level(gray: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(H, W) mean of the known pixels around each pixel, over the smallest window that knows enough of them."""
    known = (~mask).astype(np.float32)
    value = gray * known
    missing = None  # flat indices of the pixels whose window knows too little; that is few
    for side in _WINDOWS:
        share = cv2.blur(known, (side, side), borderType=cv2.BORDER_CONSTANT)
        total = cv2.blur(value, (side, side), borderType=cv2.BORDER_CONSTANT)
        mean = cv2.divide(total, cv2.max(share, 1e-6))
        if missing is None:
            level, missing = mean, np.flatnonzero(share < _KNOWN)
        else:
            level.ravel()[missing] = mean.ravel()[missing]
            missing = missing[share.ravel()[missing] < _KNOWN]
        if not missing.size:
            return level
    level.ravel()[missing] = value.sum() / known.sum()
    return level


def _speckle(
    gray: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    level: NDArray[np.float32],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> NDArray[np.float32]:
    """What a known pixel beside each of the given ones has over its level; 0 where none of the shifts reaches one."""
    height, width = gray.shape
    over = np.zeros(rows.size, np.float32)
    left = np.arange(rows.size)
    for down, across in _SHIFTS:
        row, column = rows[left] + down, columns[left] + across
        good = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        good[good] = ~mask[row[good], column[good]]
        row, column = row[good], column[good]
        over[left[good]] = gray[row, column] - level[row, column]
        left = left[~good]
        if not left.size:
            break
    return over
