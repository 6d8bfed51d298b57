"""Encoders by row, or by an architecture of one's own, loaded from their published formats into one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from sonodistill.errors import BundleConfigError, HubUnreachableError, WeightsError
from sonodistill.networks.encoder import Encoder, GrayInput
from sonodistill.networks.pyramid import Features
from sonodistill.weights import read_info
from sonodistill_training.distill.backbone_timm import backbone_from_file, load_strictly, read_state, timm_backbone
from sonodistill_training.distill.backbone_transformers import TransformersBackbone, transformers_backbone
from sonodistill_training.distill.backbones import IMAGENET_MEAN, IMAGENET_STD, Backbone
from sonodistill_training.evaluate.encoders.sam2 import read_sam2
from sonodistill_training.evaluate.encoders.spec import EncoderSpec, parse_encoder
from sonodistill_training.evaluate.encoders.usfm import usfm_state

__all__ = ["EncoderSpec", "Features", "VitFeatures", "default_blocks", "load_encoder", "parse_encoder"]


_LAST = 4  # blocks whose class tokens DINOv2's linear evaluation reads


class VitFeatures(nn.Module):
    """A ViT, BEiT or DINOv3 to be trained: patch tokens of some of its blocks, each after the final norm, as maps.

    Class and register tokens are left out. It is a :class:`~sonodistill.networks.pyramid.Features`.

    Args:
        name: architecture.
        backbone: of timm or transformers.
        fixed_size: side of the only images that it takes (relative positions of a fixed grid), or None for any.
    """

    def __init__(self, name: str, backbone: Backbone, fixed_size: int | None = None) -> None:
        super().__init__()
        self.name = name
        self.channels = backbone.dims
        self.reductions = backbone.reductions
        self.num_features = backbone.dims[-1]
        self.input_multiple = backbone.patch_size
        self.fixed_size = fixed_size
        self.input = GrayInput(backbone.mean, backbone.std)
        self.backbone = backbone

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) in [0, 1] to the maps (B, C_i, H / patch, W / patch) of the blocks taken.

        Raises:
            ValueError: x is not gray, or of a size that the network does not take.
        """
        sides = x.shape[-2:]
        if x.shape[1] != 1 or any(side % self.input_multiple for side in sides):
            raise ValueError(
                f"{self.name} takes (B, 1, H, W) with H and W multiples of {self.input_multiple}, not {tuple(x.shape)}"
            )
        if self.fixed_size is not None and tuple(sides) != (self.fixed_size, self.fixed_size):
            raise ValueError(f"{self.name} was built for {self.fixed_size} pixels a side, not {tuple(sides)}")
        return self.backbone(self.input(x))

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n + 1, C): class tokens of the last n blocks, at most four, the last block's first, and the mean patch
        token of the last, all after the final norm.
        """
        return self.backbone.class_tokens(self.input(x), min(_LAST, self.backbone.depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in [0, 1] to the last map (B, num_features, H / patch, W / patch)."""
        return self.pyramid(x)[-1]


def default_blocks(depth: int) -> tuple[int, ...]:
    """Four blocks of a ViT, as paper B takes them: (3, 5, 7, 11) of 12, (7, 11, 15, 23) of 24."""
    last = (depth // 3, depth // 2, 2 * depth // 3, depth)
    return tuple(sorted({max(end, 1) - 1 for end in last}))


def load_encoder(
    spec: str | EncoderSpec,
    *,
    input_size: int,
    blocks: Sequence[int] | None = None,
    drop_path_rate: float = 0.0,
    seed: int | None = None,
) -> Features:
    """An encoder that can be trained, with its weights.

    Args:
        spec: what :func:`~sonodistill_training.evaluate.encoders.spec.parse_encoder` takes, or gives.
        input_size: side of the images in pixels; an absolute position embedding is resampled to its grid.
        blocks: indices from 0 of the ViT blocks that make the pyramid, by default :func:`default_blocks`.
        drop_path_rate: stochastic depth while training.
        seed: of random weights; None is 0. The global random state is not touched.

    Raises:
        WeightsError: the file is not what the row takes; the message names both, and where to get the right one.
        HubUnreachableError: weights of the hub that are neither cached nor to be had.
        BundleConfigError: an encoder that does not exist, or an input size or blocks that it cannot have.
    """
    parsed = spec if isinstance(spec, EncoderSpec) else parse_encoder(spec)
    row = parsed.row
    where = f"{row.name} takes {row.source}" if row else "give the file of its architecture, NAME:ARCHITECTURE=FILE"
    # Drawn from the CPU's generator alone, whose state is put back.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed or 0)
        try:
            return _build(parsed, input_size, blocks, drop_path_rate)
        except WeightsError as error:
            raise WeightsError(f"for {parsed.name}: {error.message}", path=error.path, remedy=where) from error
        except HubUnreachableError as error:
            remedy = f"give a local copy: {row.alias}=FILE ({row.source})" if row else error.remedy
            raise HubUnreachableError(error.message, remedy=remedy) from error


def _build(
    spec: EncoderSpec, input_size: int, blocks: Sequence[int] | None, drop_path_rate: float
) -> Encoder | VitFeatures:
    architecture = spec.architecture or _recorded(spec.file)
    if architecture is not None and _is_pyramid(architecture):
        if blocks is not None:
            raise BundleConfigError(f"{architecture} has a map for each stage; only a ViT's blocks can be chosen")
        return _pyramid_encoder(spec, architecture, drop_path_rate)
    backbone = _vit_backbone(spec, architecture, input_size, drop_path_rate)
    backbone.take(default_blocks(backbone.depth) if blocks is None else blocks)
    if input_size % backbone.patch_size:
        below = input_size // backbone.patch_size * backbone.patch_size
        raise BundleConfigError(
            f"{spec.name} has patches of {backbone.patch_size} pixels, which do not fill {input_size}",
            remedy=f"take an input size of {below} or {below + backbone.patch_size}",
        )
    embedding = getattr(getattr(backbone, "model", None), "patch_embed", None)
    fixed = input_size if getattr(embedding, "strict_img_size", False) else None
    return VitFeatures(architecture or spec.name, backbone, fixed)


def _recorded(file: Path | None) -> str | None:
    """The architecture in the header of a weights file of ours."""
    info = _own_header(file)
    return info.architecture if info else None


def _own_header(file: Path | None) -> Any:
    return read_info(file) if file is not None and file.suffix.lower() == ".safetensors" else None


def _is_pyramid(architecture: str) -> bool:
    """Whether timm builds it with maps of different strides: a CNN or a hierarchical transformer."""
    if "/" in architecture:
        return False
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, pretrained=False)
    return len({stage["reduction"] for stage in getattr(model, "feature_info", [])}) > 1


def _pyramid_encoder(spec: EncoderSpec, architecture: str, drop_path_rate: float) -> Encoder:
    if not architecture.startswith("sam2_hiera"):
        weights = "imagenet" if spec.hub else spec.file
        return Encoder(architecture, weights, drop_path_rate=drop_path_rate)
    ours = _own_header(spec.file) is not None
    weights = "imagenet" if spec.hub else spec.file if ours else None
    normalisation = (None, None) if ours else (IMAGENET_MEAN, IMAGENET_STD)
    state = read_sam2(spec.file) if spec.file is not None and not ours else None
    encoder = Encoder(architecture, weights, *normalisation, drop_path_rate=drop_path_rate)
    if spec.file is not None and state is not None:
        # Within timm's wrapper for feature maps, which has taken the head off.
        load_strictly(encoder.model.model, state, spec.file, architecture)
    return encoder


def _vit_backbone(spec: EncoderSpec, architecture: str | None, input_size: int, drop_path_rate: float) -> Backbone:
    options = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
    if spec.hub and architecture is not None and "/" in architecture:
        return transformers_backbone(architecture, blocks=1, input_size=input_size, drop_path_rate=drop_path_rate)
    if spec.file is None:
        if architecture is None:  # the parser lets no such spec through
            raise BundleConfigError(f"{spec.name} has neither an architecture nor a file")
        return timm_backbone(architecture, blocks=1, input_size=input_size, random=not spec.hub, shape=options)
    if spec.file.is_dir():
        backbone: Backbone = transformers_backbone(
            spec.file, blocks=1, input_size=input_size, drop_path_rate=drop_path_rate
        )
        if architecture is not None:
            _require_like(backbone, architecture, spec.file)
        return backbone
    ours = _own_header(spec.file) is not None
    if architecture is not None and architecture.startswith("beit_") and not ours:
        backbone = _beit_backbone(spec.file, architecture, input_size, options)
    else:
        backbone = backbone_from_file(spec.file, architecture, blocks=1, input_size=input_size, options=options)
    if spec.row is not None and spec.row.normalisation is not None and not ours:
        backbone.mean, backbone.std = spec.row.normalisation
    return backbone


def _beit_backbone(file: Path, architecture: str, input_size: int, options: Mapping[str, Any]) -> Backbone:
    state = usfm_state(read_state(file, None), file)
    # With the class token for pooling, which has no part in the maps, timm builds the final norm that the file has.
    shape = {"global_pool": "token", **options}
    backbone = timm_backbone(architecture, blocks=1, input_size=input_size, random=True, shape=shape)
    load_strictly(backbone.model, state, file, architecture)
    return backbone


def _require_like(backbone: TransformersBackbone, architecture: str, folder: Path) -> None:
    """Raise WeightsError when a folder of transformers holds another ViT than timm's ``architecture``."""
    with torch.device("meta"):
        model: Any = timm.create_model(architecture, num_classes=0)
    asked = (model.embed_dim, len(model.blocks), model.patch_embed.patch_size[0], model.num_prefix_tokens)
    found = (backbone.dims[0], backbone.depth, backbone.patch_size, backbone.prefix_tokens)
    kind = backbone.model.config.model_type
    if asked != found or ("dinov3" in kind) != ("dinov3" in architecture):
        width, depth, patch, prefix = found
        raise WeightsError(
            f"{architecture} was asked for, the folder holds a {kind} of width {width} with {depth} blocks, "
            f"{patch}-pixel patches and {prefix} tokens before those of the patches",
            path=folder,
        )
