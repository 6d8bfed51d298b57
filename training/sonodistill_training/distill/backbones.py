"""What every teacher backbone is: normalised images in, a list of maps out, and a licence that goes along."""

from __future__ import annotations

from collections.abc import Sequence

import timm
from torch import Tensor, nn

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
    """(B, 3, H, W), normalised, to the maps (B, d, h, w) of the blocks taken, the earliest first.

    Attributes:
        depth: blocks (stages of a hierarchical network) that there are.
        blocks: indices of those taken.
        dims: channels of each map.
        reductions: stride of each map in pixels.
        patch_size: stride of the last map in pixels.
        channels: that it looks at: 3, or 1 for the first of them, all being one gray image.
        mean: of the input in [0, 1], one value or three.
        std: likewise.
        licence_notice: what the licence of the weights asks for.
    """

    depth: int
    blocks: tuple[int, ...]
    dims: tuple[int, ...]
    reductions: tuple[int, ...]
    patch_size: int
    channels: int = 3
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence_notice: str

    def take(self, blocks: int | Sequence[int]) -> None:
        """Make the maps those of the last n blocks, or of the blocks of these indices.

        Raises:
            BundleConfigError: there are no such blocks.
        """
        raise NotImplementedError

    def class_tokens(self, x: Tensor, last: int) -> Tensor:
        """(B, 3, H, W), normalised, to (B, last + 1, d): class tokens of the last blocks, the last block's first, and
        the mean patch token of the last, all after the final norm.

        Raises:
            BundleConfigError: a network without class tokens.
        """
        raise NotImplementedError


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


def block_indices(blocks: int | Sequence[int], available: int) -> tuple[int, ...]:
    """Indices from 0 of the last n blocks, or of those listed.

    Raises:
        BundleConfigError: fewer blocks than asked for, or a list that is no ascending one of theirs.
    """
    if isinstance(blocks, int):
        if not 1 <= blocks <= available:
            raise BundleConfigError(
                f"blocks={blocks}, but the teacher has {available}", remedy=f"take 1 to {available}"
            )
        return tuple(range(available - blocks, available))
    taken = tuple(blocks)
    if not taken or list(taken) != sorted(set(taken)) or taken[0] < 0 or taken[-1] >= available:
        raise BundleConfigError(
            f"blocks={list(taken)}, but the network has the blocks 0 to {available - 1}",
            remedy="list blocks from the first to the last, each once",
        )
    return taken


def require_a_patch(name: str, patch_size: int, input_size: int) -> None:
    """Raise BundleConfigError when the input is smaller than one patch, a grid of nothing."""
    if input_size < patch_size:
        raise BundleConfigError(
            f"input_size {input_size} gives {name} a grid of 0 x 0: one patch is {patch_size} pixels wide",
            remedy=f"take a multiple of {patch_size}",
        )
