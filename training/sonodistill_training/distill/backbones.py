"""What every teacher backbone is: normalised images in, a list of maps out, and a licence that goes along."""

from __future__ import annotations

import timm
from torch import nn

from sonodistill.errors import BundleConfigError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB_REMEDY = (
    "give the path of a local copy (a file with architecture=<timm name>, or a transformers folder), "
    "or take the offline teacher: sonodistill weights fetch dinov2_vits14, then teacher dinov2_vits14; "
    "a gated model (DINOv3) needs its licence accepted on the hub and `hf auth login`"
)
_DINOV3_NOTICE = (
    "Built with DINOv3. The teacher's weights are under the DINOv3 License "
    "(https://ai.meta.com/resources/models-and-libraries/dinov3-license/); "
    "if you pass on this student, pass on a copy of that licence with it."
)
_DINOV2_NOTICE = "Distilled from DINOv2 (Meta AI), Apache License 2.0."


class Backbone(nn.Module):
    """(B, 3, H, W), normalised, to the maps (B, d, h, w) of the last blocks, the earliest first.

    Attributes:
        dims: channels of each map.
        patch_size: stride of the last map in pixels.
        channels: that it looks at: 3, or 1 for the first of them, all being one gray image.
        mean: of the input in [0, 1], one value or three.
        std: likewise.
        licence_notice: what the licence of the weights asks for.
    """

    dims: tuple[int, ...]
    patch_size: int
    channels: int = 3
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence_notice: str


def licence_notice(name: str, licence: str | None = None) -> str:
    """What goes along with a student of the teacher ``name``; ``licence`` is what timm records for its weights."""
    plain = name.lower().replace("_", "").replace("-", "")
    if "dinov3" in plain or licence == "dinov3-license":
        return _DINOV3_NOTICE
    if "dinov2" in plain:
        return _DINOV2_NOTICE
    return f"Distilled from {name}, whose weights timm records as {licence}." if licence else ""


def timm_licence(name: str) -> str | None:
    """The licence timm records for the weights of a model, if any."""
    config = timm.get_pretrained_cfg(name)
    return config.license if config else None


def check_blocks(blocks: int, available: int) -> None:
    """Raise BundleConfigError when a backbone has fewer blocks than its target is to be made of."""
    if not 1 <= blocks <= available:
        raise BundleConfigError(f"blocks={blocks}, but the teacher has {available}", remedy=f"take 1 to {available}")


def require_a_patch(name: str, patch_size: int, input_size: int) -> None:
    """Raise BundleConfigError when the input is smaller than one patch, a grid of nothing."""
    if input_size < patch_size:
        raise BundleConfigError(
            f"input_size {input_size} gives {name} a grid of 0 x 0: one patch is {patch_size} pixels wide",
            remedy=f"take a multiple of {patch_size}",
        )
