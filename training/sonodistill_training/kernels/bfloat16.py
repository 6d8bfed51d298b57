"""bfloat16 inside Numba, which has no such type: read and written as the upper half of a float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor, nn


@intrinsic
def widen(_typing: Any, _bits: Any) -> Any:
    """uint16 bits of a bfloat16 -> float32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        return builder.bitcast(builder.shl(builder.zext(arguments[0], word), word(16)), ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def narrow(_typing: Any, _value: Any) -> Any:
    """float32 -> uint16 bits of the nearest bfloat16, ties to even. A NaN may come out as infinity, and so is seen."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, word(16)), word(1))
        rounded = builder.add(builder.add(bits, word(0x7FFF)), odd)
        return builder.trunc(builder.lshr(rounded, word(16)), ir.IntType(16))

    return types.uint16(types.float32), generate


def rows(images: Tensor) -> NDArray[np.uint16]:
    """A channels-last (B, C, H, W) bfloat16 tensor as (B * H * W, C) bits, without a copy."""
    return pixels(images).reshape(-1, images.shape[1])


def pixels(images: Tensor) -> NDArray[np.uint16]:
    """A channels-last (B, C, H, W) bfloat16 tensor as (B, H, W, C) bits, without a copy."""
    return images.detach().permute(0, 2, 3, 1).view(torch.uint16).numpy()


def channels_last(images: Tensor) -> Tensor:
    """The tensor as :func:`rows` needs it; itself where it is so already."""
    return images.to(dtype=torch.bfloat16, memory_format=torch.channels_last)


def trains_in_bfloat16(layer: nn.Module, images: Tensor) -> bool:
    """Whether a layer is trained on the CPU in this precision: what the layers of this package are faster at."""
    return layer.training and images.dtype == torch.bfloat16 and images.device.type == "cpu"
