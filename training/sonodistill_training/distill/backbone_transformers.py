"""Teacher backbones from transformers: DINOv2 and DINOv3 ViTs, from a folder or by id."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn
from transformers import AutoConfig, AutoModel, BaseImageProcessor, PreTrainedModel

from sonodistill.errors import HubUnreachableError, WeightsError
from sonodistill.networks.hub import hub_errors, hub_problem
from sonodistill_training.distill.backbones import (
    HUB_REMEDY,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    block_indices,
    licence_notice,
    require_a_patch,
)

logger = logging.getLogger(__name__)


class TransformersBackbone(Backbone):
    """A DINOv2 or DINOv3 ViT of transformers."""

    def __init__(self, model: PreTrainedModel, blocks: int, normalisation: tuple, licence_notice: str) -> None:
        super().__init__()
        config = model.config
        self.depth = config.num_hidden_layers
        self.model = model
        self.norm = model.norm if hasattr(model, "norm") else model.layernorm
        self.patch_size = config.patch_size
        self.take(blocks)
        self.prefix_tokens = 1 + getattr(config, "num_register_tokens", 0)
        self.mean, self.std = normalisation
        self.licence_notice = licence_notice

    def take(self, blocks: int | Sequence[int]) -> None:
        self.blocks = block_indices(blocks, self.depth)
        self.dims = (self.model.config.hidden_size,) * len(self.blocks)
        self.reductions = (self.patch_size,) * len(self.blocks)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        height, width = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        output = self.model(pixel_values=x, output_hidden_states=True)
        # hidden_states come before the final norm, except that some versions tie the last one to last_hidden_state.
        # The first of them is what goes into block 0.
        last, hidden = self.depth - 1, output.hidden_states
        tokens = [output.last_hidden_state if i == last else self.norm(hidden[i + 1]) for i in self.blocks]
        return [t[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, (height, width)).contiguous() for t in tokens]

    def class_tokens(self, x: torch.Tensor, last: int) -> torch.Tensor:
        output = self.model(pixel_values=x, output_hidden_states=True)
        earlier = [self.norm(hidden[:, 0]) for hidden in output.hidden_states[-last:-1]]
        final = output.last_hidden_state
        patches = final[:, self.prefix_tokens :].mean(dim=1)
        return torch.stack([final[:, 0], *reversed(earlier), patches], dim=1)


def transformers_backbone(
    spec: str | Path, *, blocks: int, input_size: int, random: bool = False, drop_path_rate: float = 0.0
) -> TransformersBackbone:
    """A DINOv2 or DINOv3 ViT from a transformers folder, or by id from the hub or its cache.

    While it is trained, positions are as they are in timm: DINOv3's random rescaling of them is off.

    Args:
        drop_path_rate: stochastic depth while training.

    Raises:
        HubUnreachableError: neither cached nor to be had from the hub.
        WeightsError: the folder holds another kind of model.
    """
    local = isinstance(spec, Path)
    problem = None if local else hub_problem()
    local_only = local or problem is not None
    with contextlib.nullcontext() if local else hub_errors(str(spec), HUB_REMEDY):
        try:
            config = AutoConfig.from_pretrained(spec, local_files_only=local_only)
            if config.model_type not in ("dinov2", "dinov2_with_registers", "dinov3_vit"):
                raise WeightsError(
                    f"{spec} is a {config.model_type}; DINOv2 and DINOv3 ViTs are read through transformers",
                    remedy="take its timm name (convnext_tiny.dinov3_lvd1689m)",
                )
            _set_training(config, drop_path_rate)
            if random:
                model = AutoModel.from_config(config)
            else:
                model, loading = AutoModel.from_pretrained(
                    spec, config=config, local_files_only=local_only, dtype=torch.float32, output_loading_info=True
                )
                # transformers would go on with random values in their place
                if missing := sorted(set(loading["missing_keys"]) - {"embeddings.mask_token"}):
                    raise WeightsError(f"{spec} lacks {len(missing)} tensors: {', '.join(missing[:3])}")
        except (OSError, ValueError) as error:
            if problem is not None:
                raise HubUnreachableError(
                    f"the weights of {spec} are not cached and the hub does not answer: {problem}", remedy=HUB_REMEDY
                ) from error
            if local:
                raise WeightsError(str(error).splitlines()[0], path=spec, remedy="save it again") from error
            raise
    _resample_position_embedding(model, input_size)
    return TransformersBackbone(
        model, blocks, _processor_normalisation(spec, local_only), licence_notice(config.model_type)
    )


def _set_training(config: Any, drop_path_rate: float) -> None:
    config.drop_path_rate = drop_path_rate
    for name in ("pos_embed_shift", "pos_embed_jitter", "pos_embed_rescale"):
        if hasattr(config, name):
            setattr(config, name, None)


def _resample_position_embedding(model: Any, input_size: int) -> None:
    """Lay DINOv2's absolute embedding out for ``input_size`` as timm does, so that both backends have one target."""
    embedding = getattr(model.embeddings, "position_embeddings", None)
    if embedding is None:
        return
    require_a_patch(model.config.model_type, model.config.patch_size, input_size)
    side = input_size // model.config.patch_size
    if embedding.shape[1] != side * side + 1:
        resampled = resample_abs_pos_embed(embedding.data, new_size=[side, side], num_prefix_tokens=1)
        model.embeddings.position_embeddings = nn.Parameter(resampled)


def _processor_normalisation(spec: str | Path, local_only: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(spec, local_files_only=local_only)
        return tuple(settings["image_mean"]), tuple(settings["image_std"])
    except (OSError, KeyError):
        logger.warning("%s has no preprocessor_config.json: taking ImageNet's mean and std", spec)
        return IMAGENET_MEAN, IMAGENET_STD
