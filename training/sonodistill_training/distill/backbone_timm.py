"""Teacher backbones from timm: by name from the hub, or with the weights of a local file."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.networks.encoder import require_same_architecture
from sonodistill.networks.hub import create_pretrained, require_timm_name
from sonodistill.weights import (
    StateDict,
    WeightsInfo,
    load_torch_checkpoint,
    load_weights,
    read_info,
    read_metadata,
)
from sonodistill_training.distill.backbone_selfdistilled import (
    ULTRADINO_MEAN,
    ULTRADINO_STD,
    VitShape,
    is_plain_vit,
    read_self_distilled,
)
from sonodistill_training.distill.backbones import (
    HUB_REMEDY,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    block_indices,
    licence_notice,
    require_a_patch,
    timm_licence,
)

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """Any timm model with ``forward_intermediates``: a ViT, or a hierarchical network with stages for blocks."""

    def __init__(self, model: Any, blocks: int, licence_notice: str, *, channels: int = 3) -> None:
        super().__init__()
        self.model = model
        self.channels = channels
        self.depth = len(model.feature_info)
        self.take(blocks)
        self.mean = tuple(model.pretrained_cfg["mean"])
        self.std = tuple(model.pretrained_cfg["std"])
        self.licence_notice = licence_notice

    def take(self, blocks: int | Sequence[int]) -> None:
        self.blocks = block_indices(blocks, self.depth)
        stages = [self.model.feature_info[i] for i in self.blocks]
        self.dims = tuple(stage["num_chs"] for stage in stages)
        self.reductions = tuple(stage["reduction"] for stage in stages)
        self.patch_size = self.reductions[-1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        # A one-channel network sees the gray image itself: with one mean and std all channels of x are that image.
        # It equals a three-channel network whose patch embedding is W / 3 for each channel: sum_c (W / 3) x = W x.
        # norm=True: the final norm on every block taken, without which the target's scale drifts from block to block.
        return self.model.forward_intermediates(
            x[:, : self.channels], indices=list(self.blocks), norm=True, output_fmt="NCHW", intermediates_only=True
        )

    def class_tokens(self, x: torch.Tensor, last: int) -> torch.Tensor:
        if getattr(self.model, "cls_token", None) is None:
            raise BundleConfigError("the network has no class token", remedy="take the linear probe of another recipe")
        blocks = self.model.forward_intermediates(
            x[:, : self.channels],
            indices=last,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
            return_prefix_tokens=True,
        )
        patches, _ = blocks[-1]
        return torch.stack([*(prefix[:, 0] for _, prefix in reversed(blocks)), patches.mean(dim=1)], dim=1)


def timm_backbone(
    name: str, *, blocks: int, input_size: int, random: bool = False, shape: Mapping[str, Any] | None = None
) -> TimmBackbone:
    """A timm model with the hub's weights, or random ones.

    Args:
        shape: further arguments of the model, such as ``in_chans`` or ``drop_path_rate``.

    Raises:
        HubUnreachableError: neither cached nor to be had from the hub.
        BundleConfigError: timm has no such model, fewer blocks than asked for, or an input smaller than a patch.
    """
    require_timm_name(name)
    shape = dict(shape or {})
    options = _size_options(name, input_size, shape.get("patch_size")) | shape
    if random:
        model = timm.create_model(name, pretrained=False, num_classes=0, **options)
    else:
        model = create_pretrained(name, remedy=HUB_REMEDY, num_classes=0, **options)
    return TimmBackbone(model, blocks, licence_notice(name, timm_licence(name)), channels=shape.get("in_chans", 3))


def backbone_from_file(
    path: Path,
    architecture: str | None,
    *,
    blocks: int,
    input_size: int,
    random: bool = False,
    options: Mapping[str, Any] | None = None,
) -> TimmBackbone:
    """A timm model with the weights of a local file in timm's or facebookresearch's naming.

    A file of a self-distillation training (DINO, iBOT, DINOv2, UltraDINO) may name its blocks by chunks and hold heads,
    registers, or a one-channel patch embedding; it needs no ``architecture`` where its width is a usual one. A position
    embedding is resampled to the grid of ``input_size``, and a mask token dropped.

    The input's mean and std are those of the file's header; without one, UltraDINO's for a one-channel network,
    ImageNet's for other self-distilled ones, else those timm records for the architecture.

    Args:
        options: further arguments of the model that change no weight, such as ``drop_path_rate``.

    Raises:
        WeightsError: no such file, an architecture that nobody named, or weights that are not of it.
        BundleConfigError: timm has no such model, fewer blocks than asked for, or an input smaller than a patch.
    """
    if not path.is_file():
        raise WeightsError("there is no such file", path=path, remedy="give the path of a teacher's weights")
    info = read_info(path) if path.suffix.lower() == ".safetensors" else None
    recorded = info.architecture if info else _foreign_architecture(path)
    name = architecture or recorded
    if name is not None and recorded is not None:
        require_same_architecture(path, recorded, name)
    known = random and name is not None  # random weights of a known architecture need nothing from the file
    state, vit = ({}, None) if known else read_self_distilled(read_state(path, info), path)
    vit = vit if name is None else _named_vit(vit, name, path)
    name = name or (vit.timm_name if vit else None)
    if name is None:
        raise WeightsError(
            "the file does not say which architecture it holds" + (f"; it looks like {vit}" if vit else ""),
            path=path,
            remedy="add architecture=<timm name>, such as vit_base_patch16_dinov3",
        )
    shape = (vit.options() if vit else {}) | dict(options or {})
    backbone = timm_backbone(name, blocks=blocks, input_size=input_size, random=True, shape=shape)
    _describe(backbone, path, name, vit, info)
    if not random:
        load_strictly(backbone.model, state, path, name, recorded)
    return backbone


def _describe(backbone: TimmBackbone, path: Path, name: str, vit: VitShape | None, info: WeightsInfo | None) -> None:
    """Give the backbone the normalisation and the licence notice that its file has or implies."""
    if vit is not None:
        logger.info("%s holds %s", path.name, vit)
        gray = vit.channels == 1
        backbone.mean, backbone.std = (ULTRADINO_MEAN, ULTRADINO_STD) if gray else (IMAGENET_MEAN, IMAGENET_STD)
        if gray or not ("dinov2" in name or "." in name):
            # A training of somebody's own has not the licence that timm records for the architecture's usual weights.
            backbone.licence_notice = f"Distilled from {path.name}, a checkpoint that does not say what its licence is."
    if info is not None:
        backbone.mean, backbone.std = info.normalisation
        backbone.licence_notice = info.licence_notice or backbone.licence_notice


def read_state(path: Path, info: WeightsInfo | None) -> StateDict:
    """The tensors of a teacher of ours (``info`` is its header) or of a foreign file, which never runs code."""
    if info is not None:
        return load_weights(path, kinds=("teacher",))[0]
    # DINO and iBOT keep the command line's arguments beside the weights: plain values, which run no code.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return load_torch_checkpoint(path)


def _named_vit(vit: VitShape | None, name: str, path: Path) -> VitShape | None:
    """The file's shape if the architecture asked for can take it on, else None: the weights are compared in full."""
    require_timm_name(name)
    if vit is None or not is_plain_vit(name):
        return None
    vit.require(name, path)
    return vit


def _size_options(name: str, input_size: int, patch_size: int | None) -> dict[str, Any]:
    """Arguments for models with an input size: an absolute position embedding is laid out for it, others adapt."""
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    parameters = inspect.signature(type(model).__init__).parameters
    options: dict[str, Any] = {"img_size": input_size} if "img_size" in parameters else {}
    if options:
        require_a_patch(name, patch_size or model.feature_info[-1]["reduction"], input_size)
    if "dynamic_img_size" in parameters:
        options["dynamic_img_size"] = True
    return options


def _foreign_architecture(path: Path) -> str | None:
    """The timm name at the start of an "architecture" entry in a foreign safetensors header."""
    if path.suffix.lower() != ".safetensors":
        return None
    words = read_metadata(path).get("architecture", "").replace(",", " ").split()
    return next((word for word in words if timm.is_model(word.split(".")[0])), None)


def load_strictly(model: nn.Module, state: StateDict, path: Path, name: str, recorded: str | None = None) -> None:
    """Copy ``state``, in timm's or the original naming, into the timm model ``name``; nothing may be left over.

    Args:
        path: named in errors.
        recorded: the architecture that the file says it holds.

    Raises:
        WeightsError: tensors are missing, unknown, of another shape, or would be left out though they matter.
    """
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    found = recorded or f"a state dict that starts with {', '.join(sorted(state)[:3])}"
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    problem = _other_patch(model, state) or _lost_bias(model, state)
    if convert is not None and problem is None:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # timm prints there for each bias that it leaves out
                state = convert(state, model)
        except (KeyError, RuntimeError, ValueError, AttributeError, IndexError, AssertionError) as error:
            problem = f"its names cannot be converted ({error!r})"
    own = model.state_dict()
    # The classifier of an ImageNet file, and the token of masked training, have no part in the target.
    state = {
        k: v for k, v in state.items() if k in own or not k.startswith(("head.", "fc.", "classifier.", "mask_token"))
    }
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    reshaped = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if problem is None and (missing or unknown or reshaped):
        problem = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:3])}"
            for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", reshaped))
            if keys
        )
    if problem is not None:
        raise WeightsError(
            f"{name} was asked for, the file holds {found}: {problem}",
            path=path,
            remedy="give architecture=<the timm name the weights belong to>",
        )
    model.load_state_dict(state)


def _other_patch(model: nn.Module, state: StateDict) -> str | None:
    """timm would resample a patch embedding to the model's patch size, silently, and another network comes out."""
    key = "patch_embed.proj.weight"
    own, found = model.state_dict().get(key), state.get(key)
    if own is None or found is None or own.ndim != 4 or found.ndim != 4 or own.shape[2:] == found.shape[2:]:
        return None
    return f"its patches are {found.shape[2]} x {found.shape[3]} pixels, not {own.shape[2]} x {own.shape[3]}"


def _lost_bias(model: nn.Module, state: StateDict) -> str | None:
    """timm has two forms of DINOv3: the one without biases of queries and values silently leaves them out of a file.

    Those of the published ViT-B are zero, so that nothing is lost; of another training they may not be.
    """
    key = "blocks.0.attn.qkv.bias"
    own = model.state_dict()
    if "storage_tokens" not in state or key not in state or "blocks.0.attn.q_bias" in own:
        return None
    lost = any(value.any() for name, value in state.items() if name.endswith(".attn.qkv.bias"))
    return "its attention has biases that are not zero (the architecture's name with _qkvb has them)" if lost else None
