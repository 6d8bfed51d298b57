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


class UnetHead(nn.Module):
    """The decoder on the maps of an encoder that is given.

    Parameters are named like those of :class:`Segmenter` without its encoder.

    Args:
        channels: of each map.
        reductions: stride of each map, (2, 4, 8, 16, 32) or (4, 8, 16, 32).
        classes: channels of the output.
    """

    def __init__(self, channels: Sequence[int], reductions: Sequence[int], classes: int = 1) -> None:
        super().__init__()
        self.decoder, self.segmentation_head = _decoder_and_head(channels, reductions, classes)

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Logits (B, classes, *size)."""
        # Of the image the decoder reads only the size.
        image = maps[0].new_empty((maps[0].shape[0], 0, *size))
        return self.segmentation_head(self.decoder(_with_image(image, maps)))


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
        self.decoder, self.segmentation_head = _decoder_and_head(
            self.encoder.channels, self.encoder.reductions, classes
        )
        if weights_kind(weights) == "segmenter":
            load_whole_network(self, str(weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at the input's size.

        Raises:
            ValueError: height or width is no multiple of 32.
        """
        if not torch.jit.is_tracing() and (x.shape[-2] % 32 or x.shape[-1] % 32):
            raise ValueError(f"height and width have to be multiples of 32, not {tuple(x.shape[-2:])}: pad or resize")
        return self.from_maps(x, self.encoder.pyramid(x))

    def from_maps(self, x: torch.Tensor, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """:meth:`forward` of an image whose maps are computed already."""
        return self.segmentation_head(self.decoder(_with_image(x, maps)))


def _decoder_and_head(
    channels: Sequence[int], reductions: Sequence[int], classes: int
) -> tuple[UnetDecoder, SegmentationHead]:
    """As smp initialises them."""
    skips = (0,) * (reductions[0] == 4) + tuple(channels)
    decoder = UnetDecoder((1, *skips), DECODER_CHANNELS, n_blocks=len(DECODER_CHANNELS))
    head = SegmentationHead(DECODER_CHANNELS[-1], classes, kernel_size=3)
    initialize_decoder(decoder)
    initialize_head(head)
    return decoder, head


def _with_image(image: torch.Tensor, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What smp's decoder takes: the image, its half and the rest.

    An encoder that starts at stride 4 has no skip at stride 2: zero channels, as smp does it.
    """
    half = [] if len(maps) == len(DECODER_CHANNELS) else [image[:, :0, ::2, ::2]]
    return [image, *half, *maps]
