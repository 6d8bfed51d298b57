"""Mixed precision where the hardware computes it: bfloat16 on the CPU as well as on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError

PRECISIONS = ("auto", "bf16", "fp32")


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether to autocast to bfloat16: "bf16" always, "fp32" never, "auto" where the device computes it in hardware.

    Raises:
        BundleConfigError: another word.
    """
    if precision not in PRECISIONS:
        raise BundleConfigError(f"unknown precision {precision}", remedy=f"choose one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


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
