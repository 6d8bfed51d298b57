"""The networks that are measured, by name and with random weights: speed does not depend on what was learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sonodistill.errors import BundleConfigError
from sonodistill.networks.hub import require_timm_name
from sonodistill.networks.pyramid import Features
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo

if TYPE_CHECKING:  # transformers is imported where its networks are asked for: it would be in the memory of the others
    from sonodistill_training.evaluate.encoders.load import VitFeatures

TEACHER = "teacher"
TEACHER_ARCHITECTURE = "vit_base_patch16_dinov3"
_VIT_B = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_OF_LAST_MAP = ("", "light")
"""Heads that read the last map alone: a ViT then need not give any other."""


def split_name(name: str) -> tuple[str, str]:
    """Encoder and head of a name such as "resnet50+unet"; the head is empty for an encoder alone.

    Raises:
        BundleConfigError: no such encoder.
    """
    encoder, _, head = name.partition("+")
    if encoder != TEACHER:
        require_timm_name(encoder)
    return encoder, head


def build(name: str, input_size: int = 224) -> nn.Module:
    """(B, 1, H, W) gray in [0, 1] to logits (B, 1, H, W), or of an encoder to its last map; eval mode, seed 0.

    Args:
        name: ENCODER or ENCODER+HEAD: an encoder of timm, or "teacher" for transformers' DINOv3 ViT-B/16 (of which
            timm's has no bias on queries and values); a head of :data:`sonodistill.networks.build.HEADS`.
        input_size: side of the images, for encoders that are built for one.

    Raises:
        BundleConfigError: no such encoder or head, or a head that does not work on the encoder.
    """
    encoder_name, head = split_name(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if head == "unet" and encoder_name != TEACHER:
            return Segmenter(encoder_name).eval()
        encoder = _encoder(encoder_name, head, input_size)
        if not head:
            return encoder.eval()
        from sonodistill.networks.build import build_segmenter

        return build_segmenter(encoder, head).eval()


def on_meta(name: str, input_size: int = 224) -> nn.Module:
    """:func:`build` without memory for its tensors, to count with."""
    with torch.device("meta"):
        return build(name, input_size)


def classifier_millions(name: str) -> float | None:
    """Parameters (10^6) of timm's network with its ImageNet classifier, which some tables mean by an encoder's; None
    where it has none."""
    import timm

    encoder, _ = split_name(name)
    if encoder == TEACHER:
        return None
    with torch.device("meta"):
        model: Any = timm.create_model(encoder, pretrained=False)
    has_one = any(True for _ in model.get_classifier().parameters())
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6 if has_one else None


def describe(name: str, network: nn.Module, input_size: int) -> WeightsInfo:
    """What a weights file of the network would say of itself."""
    encoder, head = split_name(name)
    features: Any = getattr(network, "encoder", network)
    return WeightsInfo(
        kind="segmenter" if head else "encoder",
        architecture=TEACHER_ARCHITECTURE if encoder == TEACHER else encoder,
        normalisation=features.input.normalisation,
        input_size=(input_size, input_size),
        labels=("structure",) if head else (),
        origin="random weights, for a benchmark",
    )


def _encoder(name: str, head: str, input_size: int) -> Any:
    from sonodistill_training.evaluate.encoders.load import VitFeatures, default_blocks, load_encoder

    encoder: Features = _teacher() if name == TEACHER else load_encoder(f"B:{name}", input_size=input_size)
    if isinstance(encoder, VitFeatures):
        backbone = encoder.backbone
        backbone.take(1 if head in _OF_LAST_MAP else default_blocks(backbone.depth))
        encoder.channels, encoder.reductions = backbone.dims, backbone.reductions
    return encoder


def _teacher() -> VitFeatures:
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    from sonodistill_training.distill.backbone_transformers import TransformersBackbone
    from sonodistill_training.distill.backbones import IMAGENET_MEAN, IMAGENET_STD
    from sonodistill_training.evaluate.encoders.load import VitFeatures

    config = DINOv3ViTConfig(patch_size=16, num_register_tokens=4, pos_embed_rescale=None, **_VIT_B)
    backbone = TransformersBackbone(DINOv3ViTModel(config), 1, (IMAGENET_MEAN, IMAGENET_STD), "")
    return VitFeatures(TEACHER_ARCHITECTURE, backbone)


def require_networks(names: list[str]) -> None:
    """Raise BundleConfigError unless each name has an encoder and a head that exist."""
    from sonodistill.networks.build import HEADS

    for name in names:
        _, head = split_name(name)
        if head and head not in HEADS:
            raise BundleConfigError(f"{name}: unknown head {head}", remedy=f"choose one of {', '.join(HEADS)}")
