"""DPT: segmentation_models_pytorch's decoder for vision transformers on the maps of any of ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from torch import nn

from sonodistill.networks.pyramid import resize
from sonodistill.networks.upernet import require_four


class DPTHead(nn.Module):
    """``smp.DPT`` without its encoder, class tokens not read (``decoder_readout="ignore"``).

    Args:
        channels: of each of the four maps.
        reductions: not read: whatever the patch size, the maps become x4, x2, x1 and x1/2 of their grid.
        classes: channels of the output.
        width: channels in which the maps are fused.

    Raises:
        BundleConfigError: other than four maps.
    """

    def __init__(self, channels: Sequence[int], reductions: Sequence[int], classes: int = 1, width: int = 256) -> None:  # noqa: ARG002 (every head takes the same)
        super().__init__()
        require_four(channels, "dpt")
        self.decoder = DPTDecoder(
            # smp derives the scales from the strides: those of patches of 16 pixels are the paper's.
            encoder_out_channels=tuple(channels),
            encoder_output_strides=(16, 16, 16, 16),
            encoder_has_prefix_tokens=False,
            readout="ignore",
            fusion_channels=width,
        )
        self.segmentation_head = DPTSegmentationHead(width, classes)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Logits (B, classes, *size)."""
        height, width = maps[0].shape[-2:]
        if height % 2 or width % 2:
            # The decoder halves the grid and doubles it again, so it has to be even.
            maps = [resize(m, (height + height % 2, width + width % 2)) for m in maps]
        logits = self.segmentation_head(self.decoder(list(maps), [None] * len(maps)))
        return resize(logits, size)
