"""UPerNet: segmentation_models_pytorch's decoder on any encoder's maps, made a pyramid where they are none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import nn

from sonodistill.errors import BundleConfigError
from sonodistill.networks.pyramid import require_several, resize

_LEVELS = 4
_WIDTH = 256  # smp's, on a hierarchical encoder


class FeaturePyramid(nn.Module):
    """Four maps of one stride to four scales of it: x4, x2, x1 and x1/2 (BEiT's segmentation, appendix).

    Args:
        channels: of each map, kept.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        first, second = channels[:2]
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(first, first, kernel_size=2, stride=2),
                    nn.BatchNorm2d(first),
                    nn.GELU(),
                    nn.ConvTranspose2d(first, first, kernel_size=2, stride=2),
                ),
                nn.ConvTranspose2d(second, second, kernel_size=2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(kernel_size=2),
            ]
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """(B, C_i, h, w) each, to h x w times 4, 2, 1 and 1/2 (rounded down)."""
        return [level(m) for level, m in zip(self.levels, maps, strict=True)]


class UPerNetHead(nn.Module):
    """Pyramid pooling (1, 2, 3, 6) on the coarsest of four maps, and a feature pyramid network over all.

    On a vision transformer these are the layers of mmseg's UPerHead with BEiT's neck, as in paper B: 74.9 million
    parameters of width 768. There is no dropout before the last layer, and no auxiliary head.

    Args:
        channels: of each map. A hierarchical encoder's map of stride 2 is not read.
        reductions: stride of each map; the same for all for a plain vision transformer.
        classes: channels of the output.
        width: channels of the decoder; by default those of a vision transformer (768 for ViT-B, as in paper B), and
            256 on a hierarchical encoder.

    Raises:
        BundleConfigError: a vision transformer of other than four maps.
    """

    def __init__(
        self, channels: Sequence[int], reductions: Sequence[int], classes: int = 1, width: int | None = None
    ) -> None:
        super().__init__()
        plain = len(set(reductions)) == 1
        if plain:
            require_four(channels, "upernet")
        channels = channels[-_LEVELS:]
        width = width or (channels[-1] if plain else _WIDTH)
        self.scales = FeaturePyramid(channels) if plain else nn.Identity()
        # smp counts the image and its half as levels, and skips both.
        self.decoder = UPerNetDecoder((0, 0, *channels), encoder_depth=_LEVELS + 1, decoder_channels=width)
        if plain:  # mmseg's head, which paper B takes, has none of smp's layer norms before the decoder
            self.decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in channels)
        self.segmentation_head = SegmentationHead(width, classes, kernel_size=1)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Logits (B, classes, *size).

        Raises:
            BundleConfigError: training on one image.
        """
        if self.training:
            require_several(len(maps[-1]), "UPerNet's pyramid pooling")
        levels = self.scales(maps[-_LEVELS:])
        return resize(self.segmentation_head(self.decoder([levels[0], levels[0], *levels])), size)


def require_four(channels: Sequence[int], head: str) -> None:
    """Raise BundleConfigError unless there are four maps."""
    if len(channels) != _LEVELS:
        raise BundleConfigError(
            f"{head} reads four maps of a vision transformer, not {len(channels)}",
            remedy="take the encoder's maps after four of its blocks (3, 5, 7 and 11 of 12, counted from 0)",
        )
