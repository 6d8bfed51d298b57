"""Structures painted into frames, so that what is segmented is what the prompts mean and not what a corpus labels.

Trained on lesions alone, a network answers "the nearest lesion" to any prompt: a box around a heart chamber gives the
darkest region of the image. Of a painted structure nothing is known but where it was clicked and where its edge is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray

_AXES = (0.04, 0.22)  # half axes, of the image's side
_HARMONICS = (2, 3, 4, 5)
_LEAST_CONTRAST = 0.08
_LARGEST_OVERLAP = 0.1  # of what is painted with what is labelled, for the label to stay meant


class RandPaintedStructured(RandomizableTransform, MapTransform):
    """Paint a darker, brighter or otherwise textured blob into an image (1, H, W) in [0, 1]; half of the time the
    label is then the blob, otherwise the blob is there to be left out.

    Args:
        keys: of the image and the mask, in this order.
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.image_key, self.label_key = self.keys

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        rng = np.random.default_rng(self.R.randint(1 << 31))
        if not self._do_transform:
            return result
        image, label = result[self.image_key], result[self.label_key]
        blob = random_blob(tuple(image.shape[-2:]), rng)
        result[self.image_key] = _like(image, painted(_plane(image), blob, rng))
        mask = _plane(label) > 0
        meant = rng.random() < 0.5 or not mask.any() or (mask & blob).sum() > _LARGEST_OVERLAP * mask.sum()
        result[self.label_key] = _like(label, (blob if meant else mask & ~blob).astype(np.float32))
        return result


class RandSectord(RandomizableTransform, MapTransform):
    """Black out what lies outside a random sector, as around the image of a convex probe: black is no structure.

    Args:
        keys: of images and masks (1, H, W).
        prob: how often.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.2) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        rng = np.random.default_rng(self.R.randint(1 << 31))
        if self._do_transform:
            inside = random_sector(tuple(result[self.keys[0]].shape[-2:]), rng)
            for key in self.key_iterator(result):
                result[key] = result[key] * torch.from_numpy(inside.astype(np.float32)[None])
        return result


def random_blob(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(H, W): an ellipse with a wavy edge, its centre inside the image."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = 1 + sum(rng.normal(0, 0.25 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in _HARMONICS)
    axes = rng.uniform(*_AXES, 2) * max(shape)
    x, y = axes[:, None] * np.clip(radius, 0.3, 2) * (np.cos(angles), np.sin(angles))
    turn = rng.uniform(0, np.pi)
    centre = rng.uniform(0.1, 0.9, 2) * (shape[1], shape[0])
    points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1) + centre
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [points.round().astype(np.int32)], 1)
    return mask.astype(bool)


def painted(image: NDArray[np.float32], blob: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
    """The image (H, W) with other echoes inside the blob, which blend at its edge."""
    texture = image
    if rng.random() < 0.5:  # the speckle of another place
        texture = np.roll(image[:, ::-1], tuple(rng.integers(0, image.shape)), (0, 1))
    gain = rng.uniform(0, 0.6) if rng.random() < 0.5 else rng.uniform(1.2, 2.5)
    inside = texture * gain + rng.uniform(0, 0.05)
    contrast = float(inside[blob].mean() - image[blob].mean()) if blob.any() else 1.0
    if abs(contrast) < _LEAST_CONTRAST:
        # Grains as coarse as speckle, brighter than what surrounds them.
        grains = cv2.GaussianBlur(rng.normal(0, 1, image.shape).astype(np.float32), (0, 0), 1.2)
        inside = inside + rng.uniform(0.1, 0.35) + 0.1 * grains
    edge = cv2.GaussianBlur(blob.astype(np.float32), (0, 0), rng.uniform(0.5, 2.5))
    return np.clip(image + edge * (inside - image), 0, 1).astype(np.float32)


def random_sector(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """(H, W): a fan from above, between two depths."""
    height, width = shape
    apex = np.array([width * rng.uniform(0.4, 0.6), -height * rng.uniform(0.0, 0.4)])
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - apex[0], y - apex[1])
    angle = np.arctan2(x - apex[0], y - apex[1])
    inner = -apex[1] + height * rng.uniform(0, 0.1)
    outer = -apex[1] + height * rng.uniform(0.8, 1.05)
    return (np.abs(angle) < rng.uniform(0.45, 0.9)) & (distance > inner) & (distance < outer)


def _plane(tensor: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray(tensor, np.float32)[0]


def _like(tensor: torch.Tensor, plane: NDArray[np.float32]) -> torch.Tensor:
    """The plane as a tensor (1, H, W), with the metadata of another."""
    new = torch.from_numpy(np.ascontiguousarray(plane))[None]
    return type(tensor)(new, meta=tensor.meta) if hasattr(tensor, "meta") else new
