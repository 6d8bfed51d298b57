"""Parameters, multiply-accumulates and floating-point operations of networks, counted without computing anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from sonodistill_training.evaluate.tables.published import TEACHER, US

if TYPE_CHECKING:
    import torch
    from torch import nn

SIZES = (224, 256)
NETWORKS = {TEACHER: "teacher+light", US: "resnet50+unet"}
"""The two rows of paper A's Table 5, by the names of :mod:`sonodistill_training.bench.deploy.networks`."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs.

    Attributes:
        encoder_millions, millions: parameters (10^6) of the encoder, and with its head.
        gmacs: multiply-accumulates (10^9) for one image, by pixels of a side of the input, by the rules of fvcore and
            others alike, which give what paper A prints as "GFLOPs": convolutions and linear layers, and with them 2
            for each value of a batch normalisation, 5 of a layer normalisation, 1 of nearest and 4 of bilinear
            interpolation. The products between tokens in attention are not counted (about 4 % of a ViT-B/16's).
        gflops: floating-point operations (10^9) likewise, as PyTorch counts them: two for each multiply-accumulate of
            convolutions, linear layers and attention.
    """

    encoder_millions: float
    millions: float
    gmacs: dict[int, float]
    gflops: dict[int, float]


def count_cost(network: nn.Module, sizes: Sequence[int] = SIZES) -> Cost:
    """The cost of a network that takes one gray image (1, 1, side, side) for each side in ``sizes``.

    Args:
        network: on the device "meta" (``network.to("meta")``), in eval mode; its encoder is ``network.encoder``, or
            itself.
    """
    import torch

    counted = {size: _operations(network, torch.empty(1, 1, size, size, device="meta")) for size in sizes}
    encoder = getattr(network, "encoder", network)
    return Cost(
        _millions(encoder),
        _millions(network),
        {size: macs / 1e9 for size, (macs, _) in counted.items()},
        {size: flops / 1e9 for size, (_, flops) in counted.items()},
    )


@cache
def cost_of(row: str) -> Cost | None:
    """The cost of paper A's teacher or student with its head, as Table 5 has them; None for another row."""
    if row not in NETWORKS:
        return None
    from sonodistill_training.bench.deploy.networks import on_meta

    return count_cost(on_meta(NETWORKS[row]))


def _operations(network: nn.Module, image: torch.Tensor) -> tuple[int, int]:
    """Multiply-accumulates and floating-point operations."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    of_a_value = {
        aten.native_batch_norm: 2,
        aten._native_batch_norm_legit_no_training: 2,
        aten.native_layer_norm: 5,
        aten.upsample_nearest2d: 1,
        aten.upsample_bilinear2d: 4,
    }
    counters = {operator: partial(_values, factor) for operator, factor in of_a_value.items()}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=counters) as counter:
        network(image)
    counts = counter.get_flop_counts()["Global"]
    others = sum(count for operator, count in counts.items() if operator in of_a_value)
    weighted = sum(counts.get(operator, 0) for operator in (aten.convolution, aten.addmm, aten.mm))
    return weighted // 2 + others, counter.get_total_flops() - others


def _values(factor: int, *_: Any, out_shape: Any, **__: Any) -> int:
    shape = out_shape[0] if isinstance(out_shape[0], (tuple, list)) or hasattr(out_shape[0], "numel") else out_shape
    return factor * math.prod(shape)


def _millions(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6
