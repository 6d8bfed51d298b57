"""The first layers of a ResNet on a gray image: convolution, batch normalisation, ReLU and max pooling."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sonodistill.networks.encoder import GrayInput
from sonodistill_training.kernels.batchnorm import FAST, PARTS, Bits, FastBatchNorm2d, Floats, Moments, sum_gradients
from sonodistill_training.kernels.bfloat16 import channels_last, narrow, pixels, rows, trains_in_bfloat16, widen

_NOWHERE = 255  # where ReLU cut everything off


class OneChannelInput(GrayInput):
    """Gives a training :class:`GrayConv2d` one channel instead of three equal ones."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) in [0, 1] to (B, 1, H, W) in training, else to (B, 3, H, W)."""
        return (x - self.mean) / self.std if self.training else super().forward(x)


class GrayConv2d(nn.Conv2d):
    """A convolution of three channels that takes one instead of three equal ones: its weights added up.

    One of stride 2 is computed as one of stride 1 over four channels, those of each 2 x 2 square: the same sums.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), or (B, 1, H, W)."""
        if x.shape[1] == self.in_channels:
            return super().forward(x)
        weight = self.weight.sum(1, keepdim=True)
        if self.stride != (2, 2):
            return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)
        (height, width), (down, right) = self.kernel_size, self.padding  # type: ignore[misc]
        x = functional.pad(x, (right, right + (x.shape[-1] % 2), down, down + (x.shape[-2] % 2)))
        weight = functional.pixel_unshuffle(functional.pad(weight, (0, width % 2, 0, height % 2)), 2)
        squares = functional.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last)
        return functional.conv2d(squares, weight, self.bias)


class NormalisedPool(FastBatchNorm2d):
    """Batch normalisation, ReLU and 3 x 3 max pooling of stride 2, in one pass after that for the moments."""

    relu = True

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / 2, W / 2) in a bfloat16 training on the CPU, else normalised and cut off alone."""
        if not trains_in_bfloat16(self, images):
            return super().forward(images)
        result: Tensor = _NormalisePool.apply(channels_last(images), self.weight, self.bias, self)  # type: ignore[no-untyped-call]
        return result


class PooledBefore(nn.MaxPool2d):
    """The pooling behind a :class:`NormalisedPool`."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) as it is where it is pooled already."""
        return images if trains_in_bfloat16(self, images) else super().forward(images)


class _NormalisePool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        moments = Moments.of(images, norm)
        slope, offset = moments.affine(weight, bias)
        batch, channels, height, width = images.shape
        shape = (batch, channels, (height + 1) // 2, (width + 1) // 2)
        result, largest = (
            torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last) for _ in range(2)
        )
        where = np.empty((batch, *shape[2:], channels), np.uint8)
        _pool(pixels(images), slope, offset, pixels(result), pixels(largest), where)
        ctx.save_for_backward(images, largest)
        ctx.moments, ctx.slope, ctx.offset, ctx.where = moments, slope, offset, where
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        images, largest = ctx.saved_tensors
        above = channels_last(gradient)
        parts = np.empty((PARTS, 2, images.shape[1]), np.float32)
        sum_gradients(rows(largest), rows(above), ctx.slope, ctx.offset, ctx.moments.mean, True, parts)
        factor, offset, weight, bias = ctx.moments.of_gradient(ctx.slope, parts.sum(0, dtype=np.float64))
        result = torch.empty_like(images)
        _unpool(pixels(images), pixels(above), ctx.where, ctx.slope, factor, offset, pixels(result))
        return result, weight, bias, None


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def _pool(data: Bits, slope: Floats, offset: Floats, result: Bits, largest: Bits, where: NDArray[np.uint8]) -> None:
    """The largest normalised value of each window, the value it came from, and the place, 0 to 8, it was at.

    Where ReLU cuts all of a window off, the value is the one in its middle: cut off like the others, no gradient is
    counted for it.
    """
    batch, height, width, channels = data.shape
    down, across = result.shape[1:3]
    for image in numba.prange(batch):
        best = np.empty(channels, np.float32)
        origin = np.empty(channels, np.float32)
        place = np.empty(channels, np.float32)
        for i in range(down):
            for j in range(across):
                best[:] = 0
                place[:] = _NOWHERE
                for c in range(channels):
                    origin[c] = widen(data[image, 2 * i, 2 * j, c])
                for y in range(max(0, 2 * i - 1), min(height, 2 * i + 2)):
                    for x in range(max(0, 2 * j - 1), min(width, 2 * j + 2)):
                        here = np.float32(3 * (y - 2 * i + 1) + x - 2 * j + 1)
                        for c in range(channels):
                            raw = widen(data[image, y, x, c])
                            value = raw * slope[c] + offset[c]
                            lower = value <= best[c]
                            best[c] = best[c] if lower else value
                            origin[c] = origin[c] if lower else raw
                            place[c] = place[c] if lower else here
                for c in range(channels):
                    result[image, i, j, c] = narrow(best[c])
                    largest[image, i, j, c] = narrow(origin[c])
                    where[image, i, j, c] = np.uint8(place[c])


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def _unpool(
    data: Bits,
    above: Bits,
    where: NDArray[np.uint8],
    slope: Floats,
    factor: Floats,
    constant: Floats,
    result: Bits,
) -> None:
    batch, height, width, channels = data.shape
    down, across = above.shape[1:3]
    for image in numba.prange(batch):
        total = np.empty(channels, np.float32)
        for y in range(height):
            for x in range(width):
                total[:] = 0
                for i in range(y // 2, min(down, (y + 1) // 2 + 1)):
                    for j in range(x // 2, min(across, (x + 1) // 2 + 1)):
                        here = np.uint8(3 * (y - 2 * i + 1) + x - 2 * j + 1)
                        for c in range(channels):
                            gradient = widen(above[image, i, j, c])
                            total[c] += gradient if where[image, i, j, c] == here else np.float32(0)
                for c in range(channels):
                    value = slope[c] * total[c] + factor[c] * widen(data[image, y, x, c]) + constant[c]
                    result[image, y, x, c] = narrow(value)
