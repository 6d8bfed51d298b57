"""Colour and 16-bit values become gray uint8, in one definition for every reader."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FULL_16 = 65535


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB to (H, W) luma, uint8: Rec. 601, (19595 R + 38470 G + 7471 B + 32768) >> 16, Pillow's "L"."""
    return np.array(Image.fromarray(np.ascontiguousarray(rgb)).convert("L"))


def full_range_16(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Unsigned 16-bit values of any shape to uint8 by their full range: round(v * 255 / 65535)."""
    wide = values.astype(np.uint32)
    return ((wide * 255 + _FULL_16 // 2) // _FULL_16).astype(np.uint8)


def linear(values: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """Values of any shape and type to uint8: ``low`` becomes 0, ``high`` 255, what lies outside is clipped.

    A range without extent (``high <= low``) gives zeros; NaN counts as ``low``.
    """
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    scaled = np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
