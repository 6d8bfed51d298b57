"""Ultrasound-aware augmentation (paper A, section 3.4): moderate zoom crop, horizontal flip, mild blur.

Never a vertical flip (the probe has a fixed side) and never colour. Crop and flip run per frame on uint8; blur and
mixup run on the batch, on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class UltrasoundAugmentation:
    """How views are made. The paper gives no ranges; these are our reading of "moderate zoom" and "mild blur".

    Attributes:
        scale: share of the frame's area that a crop keeps.
        ratio: aspect ratio of the crop relative to the frame's, drawn log-uniformly.
        flip: probability of a horizontal flip.
        blur: probability of a Gaussian blur, with a standard deviation in ``blur_sigma`` pixels of the view.
    """

    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 1.0)

    def view(
        self, image: NDArray[np.uint8], size: int, generator: np.random.Generator
    ) -> tuple[NDArray[np.uint8], float]:
        """A random (size, size) uint8 view of an (H, W) frame, and the blur it is to get (0 = none)."""
        top, left, height, width = self._crop(*image.shape, generator)
        crop = image[top : top + height, left : left + width]
        shrinks = size < min(height, width)
        view = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if generator.random() < self.flip:
            view = view[:, ::-1]
        blurred = generator.random() < self.blur
        sigma = generator.uniform(*self.blur_sigma)
        return np.ascontiguousarray(view, dtype=np.uint8), float(sigma) if blurred else 0.0

    def _crop(self, height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width). The ratio is relative to the frame's own shape, so that a wide frame that is
        later squashed to a square is not cropped to its centre."""
        for _ in range(10):
            area = generator.uniform(*self.scale)
            ratio = math.exp(generator.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            crop_width, crop_height = round(width * math.sqrt(area * ratio)), round(height * math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(generator.integers(0, height - crop_height + 1))
                left = int(generator.integers(0, width - crop_width + 1))
                return top, left, crop_height, crop_width
        return 0, 0, height, width


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image of a (B, 1, H, W) batch by its own standard deviation (B,) in pixels; 0 leaves it as it is."""
    if not bool((sigma > 0).any()):
        return images
    radius = math.ceil(3 * float(sigma.max()))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    # A vanishing width makes the kernel a unit impulse.
    kernels = torch.exp(-0.5 * (offsets / sigma.float().clamp(min=1e-3)[:, None]) ** 2)
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
