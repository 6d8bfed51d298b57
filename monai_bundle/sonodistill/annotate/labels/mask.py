"""Masks of label numbers: checked, and as PNG files."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sonodistill.annotate.errors import InvalidLabelError
from sonodistill.frames.bounds import MAX_PIXELS, MAX_SIDE


def checked(mask: object, names: int, shape: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The mask as (H, W) uint8 of label numbers, 0 for background.

    Args:
        mask: (H, W) bool, or integers of any size whose values a uint8 holds.
        names: how many labels there are; a mask holds 0 to this.
        shape: (H, W) that it has to have, where that is known.

    Errors: InvalidLabelError.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "bui":
        found = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InvalidLabelError(f"a mask holds whole numbers, this is {found}", remedy="send uint8 label numbers")
    if mask.ndim != 2 or not 0 < mask.size <= MAX_PIXELS or max(mask.shape) > MAX_SIDE:
        raise InvalidLabelError(f"a mask has a height and a width, this one is {_by(mask.shape)}")
    if shape is not None and mask.shape != tuple(shape):
        raise InvalidLabelError(f"the mask is {_by(mask.shape)}, its frame is {_by(shape)} (height by width)")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high > names:
        raise InvalidLabelError(
            f"the mask holds {low if low < 0 else high}, which names no label",
            remedy=f"0 is background, the labels are 1 to {names}",
        )
    return np.ascontiguousarray(mask, dtype=np.uint8)


def to_png(mask: NDArray[np.uint8]) -> bytes:
    """A gray PNG file of (H, W) uint8, exact."""
    # OpenCV writes it in half the time that Pillow takes.
    written, png = cv2.imencode(".png", mask)
    if not written:
        raise InvalidLabelError("the mask cannot be written as PNG")
    return png.tobytes()


def from_png(png: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 of a gray PNG file of that shape; nothing of another size is decoded.

    Errors: InvalidLabelError.
    """
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            if image.mode != "L" or (image.height, image.width) != tuple(shape):
                raise InvalidLabelError(f"the mask is no gray PNG of {_by(shape)}")
            return np.array(image)
    except InvalidLabelError:
        raise
    except Exception as error:  # Pillow raises what it likes for damaged data
        raise InvalidLabelError(f"the mask cannot be decoded ({type(error).__name__})") from error


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a single number"
