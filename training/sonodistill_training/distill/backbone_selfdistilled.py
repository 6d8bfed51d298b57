"""Checkpoints of self-distillation trainings (DINO, iBOT, DINOv2, UltraDINO): the teacher's ViT and its shape."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from sonodistill.errors import WeightsError
from sonodistill.weights import StateDict

# Of UltraDINO's fetal ultrasound frames; its networks are the ones with a one-channel patch embedding.
ULTRADINO_MEAN, ULTRADINO_STD = (0.1843,), (0.2188,)

_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_CHUNKED_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.(.+)")
_TRAINING_ONLY = ("mask_token", "masked_embed", "register_tokens")
_VIT_KEYS = ("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight")
_SIZES = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large"}


@dataclass(frozen=True, slots=True)
class VitShape:
    """What the tensors of a plain ViT say about it; only the number of heads they do not tell.

    Attributes:
        width: of a token.
        depth: blocks.
        patch_size: side in pixels.
        channels: of the input.
        registers: tokens beside the class token that belong to no patch.
        side: patches along one side of the image that the position embedding was trained at.
        layer_scale: whether each block scales what it adds.
    """

    width: int
    depth: int
    patch_size: int
    channels: int
    registers: int
    side: int
    layer_scale: bool

    def __str__(self) -> str:
        return (
            f"a ViT of width {self.width} with {self.depth} blocks, {self.patch_size}-pixel patches of "
            f"{self.channels} channel(s), {self.registers} register tokens, a grid of {self.side} x {self.side} and "
            f"{'LayerScale' if self.layer_scale else 'no LayerScale'}"
        )

    @property
    def timm_name(self) -> str | None:
        """A timm architecture that :meth:`options` turn into this ViT; None where the width is nobody's."""
        size = _SIZES.get((self.width, self.depth))
        return f"vit_{size}_patch16_224" if size else None

    def options(self) -> dict[str, Any]:
        """Arguments for ``timm.create_model`` that give an architecture of this width and depth this shape."""
        return {
            "patch_size": self.patch_size,
            "in_chans": self.channels,
            "reg_tokens": self.registers,
            # timm's form of DINOv2 with registers: the class token's position is added to the token itself.
            "no_embed_class": self.registers > 0,
            "init_values": 1e-5 if self.layer_scale else None,
        }

    def require(self, name: str, path: Path) -> None:
        """Raise WeightsError when the timm architecture ``name`` is not this ViT.

        Registers, LayerScale and a one-channel input may come on top of what the name says (timm has no name for most
        combinations); width, depth and patch size have to be those of the file, and nothing may be missing from it.
        """
        model = _on_meta(name)
        patch = model.patch_embed.patch_size[0]
        wrong = (model.embed_dim, len(model.blocks), patch) != (self.width, self.depth, self.patch_size)
        lacking = model.num_reg_tokens not in (0, self.registers) or (_has_layer_scale(model) and not self.layer_scale)
        if wrong or lacking:
            scale = "with" if _has_layer_scale(model) else "without"
            raise WeightsError(
                f"{name} was asked for (width {model.embed_dim}, {len(model.blocks)} blocks, {patch}-pixel patches, "
                f"{model.num_reg_tokens} register tokens, {scale} LayerScale), the file holds {self}",
                path=path,
                remedy="give architecture=<the timm name the weights belong to>, or none: it is read off the file",
            )


def is_plain_vit(name: str) -> bool:
    """Whether timm builds ``name`` as its VisionTransformer, the class whose shape can be set from a file."""
    return isinstance(_on_meta(name), VisionTransformer)


def read_self_distilled(state: StateDict, path: Path) -> tuple[StateDict, VitShape | None]:
    """The teacher's backbone without heads, wrappers and chunks, and its shape.

    A state dict that has none of those comes back as it is, with None for the shape. So does one whose shape is not
    to be set (DINOv3's ViT, with rotary positions instead of an embedding), though without heads and chunks.

    Args:
        state: of a file; for UltraDINO ``{"backbone.*", "dino_head.*", "ibot_head.*"}``, or the whole training with
            "student." and "teacher." before those.
        path: named in errors.

    Raises:
        WeightsError: a patch that is not square, or a position embedding that is no class token and a square grid.
    """
    plain = _unchunk(_teacher_backbone(state))
    marked = plain.keys() != state.keys() or any(key in plain for key in _TRAINING_ONLY)
    if not all(key in plain for key in _VIT_KEYS) or "storage_tokens" in plain:
        return plain, None
    if not marked and plain["patch_embed.proj.weight"].shape[1] != 1:
        return plain, None
    plain.pop("masked_embed", None)
    # BEiT's names for LayerScale, which iBOT has taken over
    plain = {re.sub(r"\.gamma_([12])$", r".ls\1.gamma", key): value for key, value in plain.items()}
    # timm's checkpoint_filter_fn knows DINOv2's naming by this key, which a file without masked training lacks.
    plain.setdefault("mask_token", torch.zeros(1, plain["cls_token"].shape[-1]))
    return plain, _shape(plain, path)


def _teacher_backbone(state: StateDict) -> StateDict:
    for wrapper in _WRAPPERS:
        state = {key.replace(wrapper, ""): value for key, value in state.items()}
    if any(key.startswith("teacher.backbone.") for key in state):
        state = {key.removeprefix("teacher."): value for key, value in state.items() if key.startswith("teacher.")}
    # Beside it are only heads: dino_head, ibot_head, or DINO's and iBOT's head.
    part = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    return part or state


def _unchunk(state: StateDict) -> StateDict:
    """ "blocks.<chunk>.<block>.attn..." (FSDP wraps chunks of blocks) to "blocks.<block>.attn...".

    DINOv2 fills a chunk up with identities so that the second number counts through all blocks; a code that counts
    anew in each chunk has the same order.
    """
    found = {key: match for key in state if (match := _CHUNKED_BLOCK.fullmatch(key))}
    order = {pair: i for i, pair in enumerate(sorted({(int(m[1]), int(m[2])) for m in found.values()}))}
    return {
        f"blocks.{order[int(m[1]), int(m[2])]}.{m[3]}" if (m := found.get(key)) else key: value
        for key, value in state.items()
    }


def _shape(state: StateDict, path: Path) -> VitShape:
    patch, positions = state["patch_embed.proj.weight"].shape, state["pos_embed"].shape
    if len(patch) != 4 or patch[2] != patch[3]:
        raise WeightsError(f"its patch embedding has the shape {tuple(patch)}, no square patch", path=path)
    side = math.isqrt(max(positions[1] - 1, 0)) if len(positions) == 3 else 0
    if side == 0 or side * side != positions[1] - 1:
        raise WeightsError(
            f"its position embedding has the shape {tuple(positions)}: no class token and a square grid", path=path
        )
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    blocks = {key.split(".")[1] for key in state if key.startswith("blocks.")}
    return VitShape(patch[0], len(blocks), patch[2], patch[1], registers, side, "blocks.0.ls1.gamma" in state)


def _on_meta(name: str) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=0)


def _has_layer_scale(model: Any) -> bool:
    return hasattr(model.blocks[0].ls1, "gamma")
