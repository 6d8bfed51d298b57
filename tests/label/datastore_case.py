"""Masks of the tests of the datastore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SHAPE = (240, 320)


def png(folder: Path, mask: np.ndarray) -> str:
    Image.fromarray(mask).save(folder / "mask.png")
    return str(folder / "mask.png")


def one(number: int = 1, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[20:40, 30:60] = number
    return mask
