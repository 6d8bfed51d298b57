"""Ultrasound-aware augmentation (paper A, section 3.4): moderate zoom crop, horizontal flip, mild blur.

Never a vertical flip (the probe has a fixed side) and never colour. Crop and flip run on a core, frame by frame, on
uint8; what follows runs on the batch, on the device. Every draw is a pure function of the seed and the position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from sonodistill_training.sampling import uniform

_TRIES = 10  # torchvision's: how often a crop that does not fit is drawn again before the whole frame is taken
_DRAWS = 2 * _TRIES + 9


@dataclass(frozen=True, slots=True)
class Views:
    """How the frames of a batch are to be looked at.

    Attributes:
        boxes: (B, 4) top, left, height and width of the crop, pixels.
        flip: (B,) whether the view is mirrored.
        blur: (B,) standard deviation in pixels of the view; 0 = none.
        intensity: (B, 3) gain, contrast and gamma (see :func:`change_intensity`), or None where that is off.
    """

    boxes: NDArray[np.int64]
    flip: NDArray[np.bool_]
    blur: NDArray[np.float32]
    intensity: NDArray[np.float32] | None

    def on_device(self) -> dict[str, Tensor]:
        """What is left to :func:`finish`, by name."""
        left = {"blur": torch.from_numpy(self.blur)}
        return left if self.intensity is None else left | {"intensity": torch.from_numpy(self.intensity)}


@dataclass(frozen=True, slots=True)
class UltrasoundAugmentation:
    """How views are made. The paper gives no ranges; these are our reading of "moderate zoom" and "mild blur".

    Attributes:
        scale: share of the frame's area that a crop keeps.
        ratio: aspect ratio of the crop relative to the frame's, drawn log-uniformly.
        flip: probability of a horizontal flip.
        blur: probability of a Gaussian blur, with a standard deviation in ``blur_sigma`` pixels of the view.
        intensity: probability of another gain, contrast and gray map. The paper has none.
        gain: added to the gray values, as shares of their range: a scanner's overall gain after log compression.
        contrast: factor of the gray values: its dynamic range.
        gamma: exponent of the gray values: its gray map.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 1.0)
    intensity: float = 0.0
    gain: tuple[float, float] = (-0.1, 0.1)
    contrast: tuple[float, float] = (0.8, 1.25)
    gamma: tuple[float, float] = (0.8, 1.25)

    def draw(self, seed: int, positions: ArrayLike, shapes: ArrayLike) -> Views:
        """The views at these positions of the training, of frames of these (B, 2) shapes."""
        numbers = uniform(seed, positions, _DRAWS)
        boxes = self._boxes(np.asarray(shapes), numbers[:, : 2 * _TRIES + 2])
        flip, blurred, sigma, changed, *levels = numbers[:, 2 * _TRIES + 2 :].T
        intensity = None
        if self.intensity > 0:
            ranges = np.array([self.gain, self.contrast, self.gamma])
            drawn = ranges[:, 0] + np.stack(levels, axis=1) * (ranges[:, 1] - ranges[:, 0])
            intensity = np.where((changed < self.intensity)[:, None], drawn, [0.0, 1.0, 1.0]).astype(np.float32)
        low, high = self.blur_sigma
        blur = np.where(blurred < self.blur, low + (high - low) * sigma, 0.0).astype(np.float32)
        return Views(boxes, flip < self.flip, blur, intensity)

    def _boxes(self, shapes: NDArray[np.int64], numbers: NDArray[np.float64]) -> NDArray[np.int64]:
        """(B, 4) boxes: of ten that are drawn the first that fits, else the whole frame.

        The ratio is relative to the frame's own shape, so that a wide frame that is later squashed to a square is
        not cropped to its centre.
        """
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * numbers[:, :_TRIES]
        low, high = np.log(self.ratio)
        ratio = np.exp(low + (high - low) * numbers[:, _TRIES : 2 * _TRIES])
        heights = np.rint(shapes[:, :1] * np.sqrt(area / ratio)).astype(np.int64)
        widths = np.rint(shapes[:, 1:] * np.sqrt(area * ratio)).astype(np.int64)
        fits = (heights > 0) & (heights <= shapes[:, :1]) & (widths > 0) & (widths <= shapes[:, 1:])
        rows, first, any_fits = np.arange(len(shapes)), fits.argmax(1), fits.any(1)[:, None]
        sizes = np.where(any_fits, np.stack([heights[rows, first], widths[rows, first]], 1), shapes)
        corners = np.floor(numbers[:, 2 * _TRIES :] * (shapes - sizes + 1)).astype(np.int64)
        return np.concatenate([corners, sizes], axis=1)


def crop_and_flip(frames: Sequence[NDArray[np.uint8]], views: Views, size: int) -> NDArray[np.uint8]:
    """(B, 1, size, size) uint8 views of (H, W) frames.

    Bilinear, which is four times as fast as averaging and no worse down to half the size; averaged below that.
    """
    batch = np.empty((len(frames), 1, size, size), np.uint8)
    plan = zip(frames, views.boxes.tolist(), views.flip.tolist(), batch[:, 0], strict=True)
    for frame, (top, left, height, width), flip, view in plan:
        shrinks = max(height, width) > 2 * size
        crop = frame[top : top + height, left : left + width]
        cv2.resize(crop, (size, size), view, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if flip:
            cv2.flip(view, 1, view)
    return batch


def finish(batch: Mapping[str, Tensor]) -> Tensor:
    """The device's part: (B, 1, H, W) uint8 ``image`` to float in [0, 1], with its ``intensity`` and ``blur``."""
    with torch.autocast(batch["image"].device.type, enabled=False):  # bf16 has fewer gray levels than uint8
        images = batch["image"].float() / 255
        if "intensity" in batch:
            images = change_intensity(images, batch["intensity"])
        return gaussian_blur(images, batch["blur"])


def change_intensity(images: Tensor, levels: Tensor) -> Tensor:
    """``clamp(contrast * x ** gamma + gain, 0, 1)`` with a (gain, contrast, gamma) for each image: levels (B, 3).

    Black stays black: what lies outside the sector has no gain.
    """
    gain, contrast, gamma = (level.view(-1, 1, 1, 1) for level in levels.to(images.dtype).unbind(1))
    changed = (contrast * images.clamp(min=1e-6) ** gamma + gain).clamp(0, 1)
    return torch.where(images > 0, changed, images)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image of a (B, 1, H, W) batch by its own standard deviation (B,) in pixels; 0 leaves it as it is.

    Each kernel ends at three standard deviations, whatever the other images of the batch get.
    """
    if not bool((sigma > 0).any()):
        return images
    radius = math.ceil(3 * float(sigma.max()))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    widths = sigma.float()[:, None]
    # A vanishing width makes the kernel a unit impulse.
    kernels = torch.exp(-0.5 * (offsets / widths.clamp(min=1e-3)) ** 2) * (offsets.abs() <= torch.ceil(3 * widths))
    kernels = (kernels / kernels.sum(1, keepdim=True)).to(images.dtype)  # (B, 2r+1)
    batch = images.shape[0]
    stacked = functional.pad(images.transpose(0, 1), (radius,) * 4, mode="reflect")  # (1, B, H+2r, W+2r)
    stacked = functional.conv2d(stacked, kernels[:, None, :, None], groups=batch)
    stacked = functional.conv2d(stacked, kernels[:, None, None, :], groups=batch)
    return stacked.transpose(0, 1)


def mixup(images: Tensor, generator: torch.Generator) -> Tensor:
    """Eq. 7: ``lambda * x_a + (1 - lambda) * x_b`` with one ``lambda ~ U(0, 1)`` a batch and a random partner each."""
    weight = torch.rand((), generator=generator).to(images.device)
    partner = torch.randperm(images.shape[0], generator=generator).to(images.device)
    return weight * images + (1 - weight) * images[partner]
