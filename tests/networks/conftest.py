"""A small random encoder of each family, for decoders and heads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from sonodistill.networks.encoder import Encoder, GrayInput
from sonodistill.networks.pyramid import Features


class PlainViT(nn.Module):
    """A vision transformer of four blocks and 48 channels, its map after each block."""

    def __init__(self, patch: int = 16, blocks: int = 4) -> None:
        super().__init__()
        self.input = GrayInput()
        self.model = timm.create_model(
            f"vit_tiny_patch{patch}_224" if patch == 16 else f"vit_small_patch{patch}_dinov2",
            **{"depth": blocks, "embed_dim": 48, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True},
        )
        self.name, self.num_features, self.input_multiple = f"vit with patches of {patch}", 48, patch
        self.channels, self.reductions = (48,) * blocks, (patch,) * blocks

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        indices = range(len(self.channels))
        return self.model.forward_intermediates(self.input(x), indices=list(indices), intermediates_only=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pyramid(x)[-1]


class Hiera(nn.Module):
    """A hierarchical transformer with a map at each of strides 4 to 32, made for images of 64 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.input = GrayInput()
        small = {"img_size": (64, 64), "embed_dim": 16, "num_heads": 1, "stages": (1, 1, 2, 1)}
        self.model = timm.create_model("hiera_tiny_224", features_only=True, **small)
        self.name, self.num_features, self.input_multiple = "hiera_tiny", 128, 64
        self.channels, self.reductions = (16, 32, 64, 128), (4, 8, 16, 32)

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.model(self.input(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pyramid(x)[-1]


_ENCODERS: dict[str, Callable[[], Features]] = {
    "resnet": lambda: Encoder("resnet10t"),
    "convnext": lambda: Encoder("convnext_atto"),
    "hiera": Hiera,
    "vit16": PlainViT,
    "vit14": lambda: PlainViT(14),
    "vit of three maps": lambda: PlainViT(blocks=3),
}


@pytest.fixture
def make_encoder() -> Callable[[str], Features]:
    """``make_encoder("resnet" | "convnext" | "hiera" | "vit16" | "vit14" | "vit of three maps")``."""

    def make(kind: str) -> Features:
        torch.manual_seed(0)
        return _ENCODERS[kind]()

    return make
