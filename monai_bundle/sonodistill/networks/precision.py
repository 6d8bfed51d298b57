"""Mixed precision where the hardware computes it: bfloat16 on the CPU as well as on a GPU."""

from __future__ import annotations

import torch

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
