"""Convolutions as matrix products, where that is faster than oneDNN's way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sonodistill_training.kernels.bfloat16 import trains_in_bfloat16

POSITIONS = 64  # of an image's output map; with more of them oneDNN's own way is faster


class SmallMapConv2d(nn.Conv2d):
    """A convolution of the last stages, whose weight gradient oneDNN computes more slowly than a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        if not (trains_in_bfloat16(self, x) and self._is_small(x)):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        result: Tensor = _Convolve.apply(x, self.weight.to(x.dtype), self.stride, self.padding)  # type: ignore[no-untyped-call]
        return result

    def _is_small(self, x: Tensor) -> bool:
        return -(-x.shape[-2] // self.stride[0]) * -(-x.shape[-1] // self.stride[1]) <= POSITIONS

    @classmethod
    def fits(cls, convolution: nn.Module) -> bool:
        """Whether it is of the plain kind that this class computes."""
        return (
            type(convolution) is nn.Conv2d
            and convolution.kernel_size != (1, 1)
            and convolution.bias is None
            and convolution.groups == 1
            and convolution.dilation == (1, 1)
            and convolution.padding_mode == "zeros"
            and not isinstance(convolution.padding, str)
        )


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution: a linear layer over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        if not trains_in_bfloat16(self, x):
            return super().forward(x)
        places = x.permute(0, 2, 3, 1)
        if self.stride != (1, 1):
            places = places[:, :: self.stride[0], :: self.stride[1]]
        return functional.linear(places.contiguous(), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    @classmethod
    def fits(cls, convolution: nn.Module) -> bool:
        """Whether it is of the plain kind that this class computes."""
        return (
            type(convolution) is nn.Conv2d
            and convolution.kernel_size == (1, 1)
            and convolution.groups == 1
            and convolution.padding in ((0, 0), "valid")
        )


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return functional.conv2d(x, weight, None, stride, padding)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        outputs, inputs, height, width = weight.shape
        above = gradient.permute(0, 2, 3, 1).reshape(-1, outputs)
        product = above.t() @ windows(x, (height, width), ctx.stride, ctx.padding)
        return of_input, product.view(outputs, height, width, inputs).permute(0, 3, 1, 2), None, None


def windows(x: Tensor, size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """What a convolution sees at each output position: (B, C, H, W) to (B * h * w, rows * columns * C)."""
    x = functional.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    seen = x.unfold(1, size[0], stride[0]).unfold(2, size[1], stride[1])  # (B, h, w, C, rows, columns)
    return seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, size[0] * size[1] * x.shape[-1])
