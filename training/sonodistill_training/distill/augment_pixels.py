"""What is done to the gray values of a batch on its device, each image by its own numbers and none by a Python loop.

Images are (B, 1, H, W) float in [0, 1]. What becomes of an image does not depend on the rest of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def change_intensity(images: Tensor, levels: Tensor) -> Tensor:
    """``clamp(contrast * x ** gamma + gain, 0, 1)`` with a (gain, contrast, gamma) for each image: levels (B, 3).

    Black stays black: what lies outside the sector has no gain.
    """
    gain, contrast, gamma = (level.view(-1, 1, 1, 1) for level in levels.to(images.dtype).unbind(1))
    changed = (contrast * images.clamp(min=1e-6) ** gamma + gain).clamp(0, 1)
    return torch.where(images > 0, changed, images)


def change_gain_by_depth(images: Tensor, points: Tensor) -> Tensor:
    """Time-gain compensation: ``clamp(x + gain, 0, 1)`` with a gain that changes smoothly from the top to the bottom.

    A gain before log compression is a sum after it. Black stays black, as in :func:`change_intensity`.

    Args:
        points: (B, k) gain at k depths, evenly spread from the first row to the last, as a scanner's sliders are.
            Between two of them it follows a cubic that is level at both, so that it never exceeds them.
    """
    rows, last = images.shape[-2], points.shape[1] - 1
    places = torch.linspace(0, last, rows, device=images.device)
    above = places.floor().clamp(max=last - 1).long()
    share = places - above
    share = share * share * (3 - 2 * share)
    gain = points[:, above] * (1 - share) + points[:, above + 1] * share  # (B, H)
    return torch.where(images > 0, (images + gain[:, None, :, None]).clamp(0, 1), images)


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """torchvision's ``v2.ColorJitter`` of gray images, where saturation and hue have nothing to change.

    Brightness is ``clamp(b * x, 0, 1)`` and contrast ``clamp(c * x + (1 - c) * mean(x), 0, 1)``; since both clamp, and
    the mean is that of the image as it is by then, their order matters.

    Args:
        factors: (B, 3) brightness, contrast, and their order: brightness first where it is below 0.5.
    """
    brightness, contrast, order = factors.to(images.dtype).unbind(1)
    brightness_first = order < 0.5
    for is_brightness in (brightness_first, ~brightness_first):
        factor = torch.where(is_brightness, brightness, contrast).view(-1, 1, 1, 1)
        rest = torch.where(is_brightness, 0, 1 - contrast).view(-1, 1, 1, 1)
        images = (factor * images + rest * images.mean((1, 2, 3), keepdim=True)).clamp(0, 1)
    return images


def gaussian_blur(images: Tensor, sigma: Tensor, depth: Tensor | None = None) -> Tensor:
    """Blur each image by its own standard deviation in pixels; 0 leaves it as it is.

    Each kernel ends at three standard deviations, whatever the other images of the batch get, and images are continued
    by reflection: ``v2.functional.gaussian_blur`` with a kernel of ``2 * ceil(3 * sigma) + 1``.

    Args:
        sigma: (B,) standard deviation; with ``depth``, that of the first row.
        depth: (B,) that of the last row relative to the first's; it grows linearly between them. As the beam of a
            transducer widens with depth, so does what it makes of a point.
    """

    def blur(chosen: Tensor) -> Tensor:
        if depth is None:
            radius = _radius(sigma[chosen], images)
            return _convolve(images[chosen], _kernels(sigma[chosen], radius), "reflect")
        growth = torch.linspace(0, 1, images.shape[-2], device=images.device)
        return _blur_by_row(images[chosen], sigma[chosen, None] * (1 + (depth[chosen, None] - 1) * growth))

    return _change(images, sigma > 0, blur)


def speckle(images: Tensor, levels: Tensor, seeds: Tensor) -> Tensor:
    """``clamp(x * (1 + strength * n), 0, 1)`` with noise n of unit variance that is correlated in space.

    The gray values are log-compressed, so this is texture rather than a model of interference; being a factor, it
    leaves black as black as it was.

    Args:
        levels: (B, 2) strength, and size of the grains as in :func:`grains`.
        seeds: (B,) int64 in [0, 2**32): with its size, all that an image's noise depends on.
    """

    def add_noise(chosen: Tensor) -> Tensor:
        strength, size = levels[chosen].to(images.dtype).unbind(1)
        noise = grains(seeds[chosen], (images.shape[-2], images.shape[-1]), size)
        return (images[chosen] * (1 + strength.view(-1, 1, 1, 1) * noise)).clamp(0, 1)

    return _change(images, levels[:, 0] > 0, add_noise)


def grains(seeds: Tensor, shape: tuple[int, int], size: Tensor) -> Tensor:
    """(B, 1, H, W) stationary noise of mean 0 and variance 1: white noise, blurred by ``size`` (B,) pixels.

    Its autocorrelation is a Gaussian of ``sqrt(2) * size``, continued periodically. The white noise is a hash of the
    seed and the pixel, in whole numbers, and so the same on every device.
    """
    pixels = torch.arange(shape[0] * shape[1], device=seeds.device)
    hashed = _hash(_hash(pixels) ^ seeds[:, None]).view(-1, 1, *shape)
    white = hashed.float() * (2 * math.sqrt(3) / 2**32) - math.sqrt(3)  # uniform, of variance 1
    kernels = _kernels(size, _radius(size, white))
    return _convolve(white, kernels, "circular") / (kernels**2).sum(1).view(-1, 1, 1, 1)


def _change(images: Tensor, which: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The images with those that are meant (B,) changed; ``change`` gets their indices and returns them."""
    chosen = which.nonzero()[:, 0]
    return images.index_copy(0, chosen, change(chosen)) if len(chosen) else images


def _radius(sigma: Tensor, images: Tensor) -> int:
    """Three standard deviations of the widest, but no more than an image can be continued by."""
    return min(math.ceil(3 * float(sigma.max())), images.shape[-2] - 1, images.shape[-1] - 1)


def _weights(offsets: Tensor, sigma: Tensor) -> Tensor:
    """Of a Gaussian that is not normalised. A vanishing width makes it a unit impulse."""
    return torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)) ** 2) * (offsets.abs() <= torch.ceil(3 * sigma))


def _kernels(sigma: Tensor, radius: int) -> Tensor:
    """(B, 2 * radius + 1) normalised kernels of these (B,) standard deviations."""
    offsets = torch.arange(-radius, radius + 1, device=sigma.device, dtype=torch.float32)
    weights = _weights(offsets, sigma.float()[:, None])
    return weights / weights.sum(1, keepdim=True)


def _convolve(images: Tensor, kernels: Tensor, continued: str) -> Tensor:
    """Each image by its own (B, 2r+1) kernel, along both axes."""
    batch, radius = images.shape[0], kernels.shape[1] // 2
    kernels = kernels.to(images.dtype)
    stacked = functional.pad(images.transpose(0, 1), (radius,) * 4, mode=continued)  # (1, B, H+2r, W+2r)
    stacked = functional.conv2d(stacked, kernels[:, None, :, None], groups=batch)
    stacked = functional.conv2d(stacked, kernels[:, None, None, :], groups=batch)
    return stacked.transpose(0, 1)


def _blur_by_row(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur with a standard deviation for each row: sigma (B, H).

    Down the columns first: then both passes that make a row of the result use that row's kernel, and their product is
    its two-dimensional Gaussian exactly. One pass over the batch for each weight of the widest kernel.
    """
    radius = _radius(sigma, images)
    offsets = torch.arange(radius + 1, device=sigma.device, dtype=torch.float32)
    first, *others = _weights(offsets[:, None, None], sigma.float())  # each (B, H)
    # Added one by one, so that the zeros at the end of a narrow kernel change nothing in the last digit.
    total = first + 2 * sum(others, torch.zeros_like(first))
    shares = [(weight / total).to(images.dtype)[:, None, :, None] for weight in (first, *others)]
    for axis, border in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded, length = functional.pad(images, border, mode="reflect"), images.shape[axis]
        images = padded.narrow(axis, radius, length) * shares[0]
        for distance in range(1, radius + 1):
            for start in (radius - distance, radius + distance):
                images.addcmul_(padded.narrow(axis, start, length), shares[distance])
    return images


def _hash(values: Tensor) -> Tensor:
    """Scramble whole numbers in [0, 2**32), int64 (T. Mueller's hash: two multiplications that cannot overflow)."""
    for _ in range(2):
        values = ((values ^ (values >> 16)) * 0x45D9F3B) & 0xFFFFFFFF
    return values ^ (values >> 16)
