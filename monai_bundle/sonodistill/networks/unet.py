"""Segmentation: segmentation_models_pytorch's U-Net decoder on our encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import nn

from sonodistill.networks.encoder import Encoder
from sonodistill.networks.whole import load_whole_network, weights_kind

DECODER_CHANNELS = (256, 128, 64, 32, 16)


class Segmenter(nn.Module):
    """U-Net: (B, 1, H, W) gray in [0, 1] to logits (B, classes, H, W).

    Parameters are named like those of ``smp.Unet("tu-<encoder>")``.

    Args:
        encoder: timm name of the encoder.
        classes: channels of the output.
        weights: as for :class:`Encoder`, or a whole segmenter of ours with the same number of classes.
        mean: as for :class:`Encoder`.
        std: as for :class:`Encoder`.
        drop_path_rate: as for :class:`Encoder`.
    """

    kind = "segmenter"

    def __init__(
        self,
        encoder: str = "resnet50",
        classes: int = 1,
        weights: str | Path | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(encoder, weights, mean, std, drop_path_rate)
        # An encoder that starts at stride 4 has no skip at stride 2: zero channels, as smp does it.
        self._no_half = self.encoder.reductions[0] == 4
        skips = (0,) * self._no_half + self.encoder.channels
        self.decoder = UnetDecoder((1, *skips), DECODER_CHANNELS, n_blocks=len(DECODER_CHANNELS))
        self.segmentation_head = SegmentationHead(DECODER_CHANNELS[-1], classes, kernel_size=3)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)
        if weights_kind(weights) == "segmenter":
            load_whole_network(self, Path(str(weights)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at the input's size.

        Raises:
            ValueError: height or width is no multiple of 32.
        """
        if not torch.jit.is_tracing() and (x.shape[-2] % 32 or x.shape[-1] % 32):
            raise ValueError(f"height and width have to be multiples of 32, not {tuple(x.shape[-2:])}: pad or resize")
        maps = self.encoder.pyramid(x)
        if self._no_half:
            maps = [x[:, :0, ::2, ::2], *maps]
        return self.segmentation_head(self.decoder([x, *maps]))
