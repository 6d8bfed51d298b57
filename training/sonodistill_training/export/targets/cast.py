"""Half precision for a format that stores what the network computes in."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sonodistill.inference.scored import Scored

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Cast(nn.Module):
    """Computes in another type; input and output stay float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor) -> Any:
        """(B, 1, H, W) float32 to what the network returns, float32."""
        found = self.network(x.to(self.dtype))
        return found.float() if isinstance(found, Tensor) else tuple(part.float() for part in found)


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """``network`` itself for "fp32", else a copy that computes in "fp16" or "bf16"."""
    if precision == "fp32":
        return network
    dtype = DTYPES[precision]
    lower = copy.deepcopy(network).to(dtype)
    if isinstance(network, Scored):
        lower.score = copy.deepcopy(network.score)  # small, and computed in float32 all the same
    return Cast(lower, dtype).eval()
