"""Frame geometry on the way into a network and back: one definition for torch, ONNX Runtime and MONAI transforms."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int]


def to_input(image: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
    """(H, W) uint8 -> (1, *size) float32 in [0, 1]. Area averaging when shrinking, bilinear when enlarging.

    The aspect ratio is not kept, as in the papers' recipes; ``from_output`` undoes it.
    """
    height, width = image.shape
    shrinks = size[0] < height or size[1] < width
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return (resized.astype(np.float32) / np.float32(255))[None]


def mask_to_input(mask: NDArray[np.uint8], size: Size) -> NDArray[np.float32]:
    """(H, W) mask, any value above 0 being foreground -> (1, *size) float32 of 0 and 1, nearest neighbour."""
    binary = (mask > 0).astype(np.uint8)
    return cv2.resize(binary, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float32)[None]


def from_output(probability: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """(C, h, w) probabilities -> (C, *size) float32 on the frame's own pixel grid, bilinear."""
    planes = np.empty((len(probability), *size), np.float32)
    for plane, resized in zip(probability, planes, strict=True):
        cv2.resize(plane, size[::-1], dst=resized, interpolation=cv2.INTER_LINEAR)
    return planes
