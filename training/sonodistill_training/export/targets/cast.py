"""Half precision for a format that stores what the network computes in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Cast(nn.Module):
    """Computes in another type; input and output stay float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) float32 to what the network returns, float32."""
        return self.network(x.to(self.dtype)).float()


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """``network`` itself for "fp32", else a copy that computes in "fp16" or "bf16"."""
    if precision == "fp32":
        return network
    dtype = DTYPES[precision]
    return Cast(copy.deepcopy(network).to(dtype), dtype).eval()
