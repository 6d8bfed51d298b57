"""Mask outlines on gray frames, and pictures as data URIs that a page carries in itself."""

from __future__ import annotations

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

FOUND_RGB = (255, 176, 0)
TRUTH_RGB = (64, 200, 255)
_TINT = 0.16


def outlined(
    image: NDArray[np.uint8], found: NDArray[np.bool_] | None = None, truth: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Gray (H, W) uint8 to RGB (H, W, 3) uint8 with one-pixel outlines on the masks' own border pixels.

    Args:
        image: the frame.
        found: (H, W) bool; amber outline and a faint amber fill, drawn on top.
        truth: (H, W) bool; blue outline.
    """
    picture = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_GRAY2RGB)
    if found is not None and found.any():
        tinted = picture[found] * (1 - _TINT) + np.array(FOUND_RGB) * _TINT
        picture[found] = np.rint(tinted).astype(np.uint8)
    for mask, colour in ((truth, TRUTH_RGB), (found, FOUND_RGB)):
        if mask is not None:
            outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, colour, 1)
    return picture


def png_uri(picture: NDArray[np.uint8]) -> str:
    """RGB (H, W, 3) uint8 as a lossless ``data:image/png`` URI."""
    return _uri("png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def jpeg_uri(picture: NDArray[np.uint8]) -> str:
    """RGB (H, W, 3) uint8 as a ``data:image/jpeg`` URI; chroma is kept at full resolution for thin coloured lines."""
    full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _uri("jpeg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88, *full_chroma])


def _uri(kind: str, picture: NDArray[np.uint8], parameters: list[int]) -> str:
    _, encoded = cv2.imencode(f".{kind}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), parameters)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float | None:
    """2 |A and B| / (|A| + |B|), or None when both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else None
