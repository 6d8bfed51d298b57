"""Mixed precision for MONAI's engines."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from sonodistill.networks.precision import use_bf16


class PrecisionInferer(SimpleInferer):
    """Run the network in mixed precision; the output is float32.

    MONAI's engines have a switch for CUDA alone (``amp``), and a CPU with AMX gains as much.

    Args:
        precision: as for :func:`use_bf16`.
    """

    def __init__(self, precision: str = "auto") -> None:
        super().__init__()
        self.precision = precision

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        """``network(inputs)``."""
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=use_bf16(self.precision, inputs.device)):
            return network(inputs, *args, **kwargs).float()
