"""Batch normalisation, and the ReLU behind it, in two passes over the data forwards and two backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sonodistill_training.kernels.bfloat16 import channels_last, narrow, rows, trains_in_bfloat16, widen

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]

FAST = {"reassoc", "contract", "nsz"}  # sums in any order; what is not finite stays so
PARTS = 64  # partial sums, in float32: the number of threads does not change the result


@dataclass(frozen=True, slots=True)
class Moments:
    """Of each channel of a batch: float32 arrays of (C,)."""

    mean: Floats
    scale: Floats
    """One over the standard deviation."""
    count: int

    @classmethod
    def of(cls, images: Tensor, norm: nn.BatchNorm2d) -> Moments:
        """Of a channels-last (B, C, H, W) batch, counted into the running ones of ``norm``."""
        data = rows(images)
        parts = np.empty((PARTS, 2, data.shape[1]), np.float32)
        centre = np.empty(data.shape[1], np.float32)
        _sum_rows(data, centre, parts)
        first, second = parts.sum(0, dtype=np.float64) / len(data)
        variance = np.maximum(second - first**2, 0)
        found = cls(
            (centre + first).astype(np.float32), (1 / np.sqrt(variance + norm.eps)).astype(np.float32), len(data)
        )
        found._count_in(variance * len(data) / max(1, len(data) - 1), norm)
        return found

    def _count_in(self, variance: NDArray[np.float64], norm: nn.BatchNorm2d) -> None:
        if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
            return
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            weight = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(torch.from_numpy(self.mean), weight)
            norm.running_var.lerp_(torch.from_numpy(variance.astype(np.float32)), weight)

    def affine(self, weight: Tensor, bias: Tensor) -> tuple[Floats, Floats]:
        """Slope and offset of each channel: what normalises and scales it."""
        slope = weight.detach().numpy() * self.scale
        return slope, bias.detach().numpy() - self.mean * slope

    def of_gradient(self, slope: Floats, sums: NDArray[np.float64]) -> tuple[Floats, Floats, Tensor, Tensor]:
        """What the gradient of the input is made of, and the gradients of weight and bias.

        Args:
            sums: (2, C): the gradient g summed, and summed after multiplication with the input less its mean.

        Returns:
            factor and offset: the input's gradient is slope * g + factor * input + offset.
        """
        factor = -slope * self.scale**2 * sums[1] / self.count
        offset = -slope * sums[0] / self.count - factor * self.mean
        weight, bias = torch.from_numpy((self.scale * sums[1]).astype(np.float32)), torch.from_numpy(sums[0]).float()
        return factor.astype(np.float32), offset.astype(np.float32), weight, bias


class _Normalise(torch.autograd.Function):
    """(B, C, H, W) bfloat16, channels-last, normalised by its own moments, scaled, and with ``relu`` cut off at 0."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, relu: bool) -> Tensor:
        moments = Moments.of(images, norm)
        slope, offset = moments.affine(weight, bias)
        result = torch.empty_like(images)
        _apply(rows(images), slope, offset, relu, rows(result))
        ctx.save_for_backward(images)
        ctx.moments, ctx.slope, ctx.offset, ctx.relu = moments, slope, offset, relu
        return result

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (images,) = ctx.saved_tensors
        data, above = rows(images), rows(channels_last(gradient))
        parts = np.empty((PARTS, 2, data.shape[1]), np.float32)
        sum_gradients(data, above, ctx.slope, ctx.offset, ctx.moments.mean, ctx.relu, parts)
        factor, offset, weight, bias = ctx.moments.of_gradient(ctx.slope, parts.sum(0, dtype=np.float64))
        result = torch.empty_like(images)
        _apply_gradients(data, above, ctx.slope, ctx.offset, factor, offset, ctx.relu, rows(result))
        return result, weight, bias, None, None


class FastBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that takes the ReLU behind it along; elsewhere than in a bfloat16 training it is torch's."""

    relu: bool = False

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W)."""
        if trains_in_bfloat16(self, images):
            result: Tensor = _Normalise.apply(  # type: ignore[no-untyped-call]
                channels_last(images), self.weight, self.bias, self, self.relu
            )
            return result
        plain = super().forward(images)
        return functional.relu(plain) if self.relu else plain


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def _sum_rows(data: Bits, centre: Floats, parts: Floats) -> None:
    """Sums of values and squares of each part's rows, less those of the first row, so that large means cost nothing."""
    count, channels = data.shape
    for c in range(channels):
        centre[c] = widen(data[0, c])
    for part in numba.prange(len(parts)):
        first, second = parts[part, 0], parts[part, 1]
        first[:] = 0
        second[:] = 0
        for row in range(count * part // len(parts), count * (part + 1) // len(parts)):
            for c in range(channels):
                value = widen(data[row, c]) - centre[c]
                first[c] += value
                second[c] += value * value


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def _apply(data: Bits, slope: Floats, offset: Floats, relu: bool, result: Bits) -> None:
    count, channels = data.shape
    floor = np.float32(0.0 if relu else -np.inf)
    for row in numba.prange(count):
        for c in range(channels):
            value = widen(data[row, c]) * slope[c] + offset[c]
            result[row, c] = narrow(floor if value < floor else value)


@numba.njit(fastmath=FAST, inline="always")
def _through(
    value: np.float32, slope: np.float32, offset: np.float32, floor: np.float32, above: np.uint16
) -> np.float32:
    """The gradient that comes through the ReLU: none where the normalised value is cut off."""
    return np.float32(0) if value * slope + offset <= floor else widen(above)


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def sum_gradients(
    data: Bits, above: Bits, slope: Floats, offset: Floats, mean: Floats, relu: bool, parts: Floats
) -> None:
    count, channels = data.shape
    floor = np.float32(0.0 if relu else -np.inf)
    for part in numba.prange(len(parts)):
        first, second = parts[part, 0], parts[part, 1]
        first[:] = 0
        second[:] = 0
        for row in range(count * part // len(parts), count * (part + 1) // len(parts)):
            for c in range(channels):
                value = widen(data[row, c])
                gradient = _through(value, slope[c], offset[c], floor, above[row, c])
                first[c] += gradient
                second[c] += gradient * (value - mean[c])


@numba.njit(parallel=True, fastmath=FAST, cache=True)
def _apply_gradients(
    data: Bits, above: Bits, slope: Floats, offset: Floats, factor: Floats, constant: Floats, relu: bool, result: Bits
) -> None:
    count, channels = data.shape
    floor = np.float32(0.0 if relu else -np.inf)
    for row in numba.prange(count):
        for c in range(channels):
            value = widen(data[row, c])
            gradient = _through(value, slope[c], offset[c], floor, above[row, c])
            result[row, c] = narrow(slope[c] * gradient + factor[c] * value + constant[c])
