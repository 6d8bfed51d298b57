"""Interactive segmentation: features of the image alone, computed once, and a small network that reads prompts on them.

The prompts are maps beside the features, in the manner of RITM (Sofiiuk et al., "Reviving iterative training with mask
guidance for interactive segmentation", 2022), which adds them to the image instead and runs the encoder at each click.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.pyramid import Features, input_multiple, resize
from sonodistill.networks.whole import load_whole_network, weights_kind

STRIDE = 4
"""Of features, prompt maps and logits."""
PROMPTS = ("positive", "around positive", "negative", "around negative", "box", "mask")
"""The prompt maps, in their order."""
_NEAR, _AROUND = 1.5, 8.0  # standard deviations of a click, in cells of the maps
_COARSE = 4  # stride of the coarse branch on top of STRIDE
_GROUPS = 8

Point = Sequence[float]
PromptMaps = torch.Tensor | Callable[[Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]


def map_size(size: Sequence[int]) -> tuple[int, int]:
    """(height, width) of the maps of an image of this (height, width)."""
    return -(-size[0] // STRIDE), -(-size[1] // STRIDE)


def prompt_maps(
    size: Sequence[int],
    positive: Sequence[Point] = (),
    negative: Sequence[Point] = (),
    box: Sequence[float] | None = None,
    mask: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
) -> NDArray[np.float32]:
    """Draw prompts: (6, H / 4, W / 4) float32 in [0, 1], in the order of :data:`PROMPTS`.

    A click is a Gaussian of 1.5 cells, which says where, and one of 8 cells, which is seen from afar. The box is the
    share of each cell within it, and so is the mask.

    Args:
        size: (H, W) of the network's input.
        positive: points (x, y) in its pixels, from the centre of the first.
        negative: likewise.
        box: (x0, y0, x1, y1), the pixels at its corners included.
        mask: of any shape, which is taken for the whole image; not 0 is inside.
    """
    height, width = map_size(size)
    maps = np.zeros((len(PROMPTS), height, width), np.float32)
    for channel, points in ((0, positive), (2, negative)):
        if len(points):
            cells = (np.asarray(points, np.float64).reshape(-1, 2) + 0.5) / STRIDE - 0.5
            maps[channel] = _bumps(cells, (height, width), _NEAR)
            maps[channel + 1] = _bumps(cells, (height, width), _AROUND)
    if box is not None:
        x0, y0, x1, y1 = (float(value) for value in box)
        maps[4] = np.outer(_covered(y0, y1 + 1, height), _covered(x0, x1 + 1, width))
    if mask is not None:
        inside = np.where(np.asarray(mask) != 0, np.uint8(255), np.uint8(0))
        maps[5] = cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255)
    return maps


def _bumps(cells: NDArray[np.float64], size: tuple[int, int], deviation: float) -> NDArray[np.float64]:
    """(h, w): the highest of the Gaussians around points (x, y)."""
    across = np.exp(-0.5 * ((np.arange(size[1]) - cells[:, :1]) / deviation) ** 2)
    down = np.exp(-0.5 * ((np.arange(size[0]) - cells[:, 1:]) / deviation) ** 2)
    return (down[:, :, None] * across[:, None, :]).max(axis=0)


def _covered(first: float, last: float, cells: int) -> NDArray[np.float32]:
    """The share of each cell that lies between two edges, in pixels from the edge of the image."""
    start = np.arange(cells, dtype=np.float32) * STRIDE
    return np.clip(np.minimum(last, start + STRIDE) - np.maximum(first, start), 0, STRIDE) / STRIDE


class ClickNetwork(nn.Module):
    """Any encoder with a decoder whose last, small part reads prompts.

    Args:
        encoder: the encoder.
        width: channels of the features, a multiple of 8.
    """

    kind = "interactive"

    def __init__(self, encoder: Features, width: int = 64) -> None:
        super().__init__()
        if width < _GROUPS or width % _GROUPS:
            raise BundleConfigError(f"a width of {width}", remedy=f"give a multiple of {_GROUPS}")
        self.encoder = encoder
        self._used = [at for at, stride in enumerate(encoder.reductions) if stride >= STRIDE]
        self.laterals = nn.ModuleList(nn.Conv2d(encoder.channels[at], width, 1) for at in self._used)
        self.merge = _Block(width, width)
        self.features = nn.Conv2d(width, width, 3, padding=1)
        self.prompts = nn.Conv2d(len(PROMPTS), width, 3, padding=1)
        self.coarse = nn.Sequential(
            _Block(width, 2 * width), _Block(2 * width, 2 * width, 2), _Block(2 * width, 2 * width, 4)
        )
        self.coarse_out = nn.Conv2d(2 * width, width, 1)
        self.fine = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.fine_norm = nn.GroupNorm(_GROUPS, width)
        self.last = _Block(width, width)
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) gray in [0, 1] to the features (B, width, H / 4, W / 4), which do not depend on prompts.

        Raises:
            BundleConfigError: height or width is no multiple of what the encoder needs.
        """
        size, multiple = x.shape[-2:], input_multiple(self.encoder)
        if not torch.jit.is_tracing() and (size[0] % multiple or size[1] % multiple):
            raise BundleConfigError(
                f"height and width have to be multiples of {multiple} for {self.encoder.name}, not {tuple(size)}",
                remedy="pad or resize the images",
            )
        maps = self.encoder.pyramid(x)
        merged = None
        for lateral, at in zip(reversed(self.laterals), reversed(self._used), strict=True):
            own = lateral(maps[at])
            merged = own if merged is None else own + resize(merged, own.shape[-2:])
        if merged is None:
            raise BundleConfigError(f"{self.encoder.name} has no map of stride {STRIDE} or more")
        return self.features(self.merge(resize(merged, map_size(size))))

    def refine(self, features: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Features and prompt maps (B, 6, H / 4, W / 4) to logits (B, 1, H / 4, W / 4)."""
        x = functional.relu(features + self.prompts(prompts))
        coarse = self.coarse_out(self.coarse(functional.avg_pool2d(x, _COARSE, ceil_mode=True)))
        x = functional.relu(self.fine_norm(self.fine(x)) + resize(coarse, x.shape[-2:]))
        return self.head(x + self.last(x))

    def forward(self, x: torch.Tensor, prompts: PromptMaps | None = None) -> torch.Tensor:
        """Logits (B, 1, H, W).

        Args:
            x: (B, 1, H, W) gray in [0, 1].
            prompts: their maps; or a function that is given :meth:`refine` of these images and makes them, as clicks
                do that answer what the network says; or None for no prompts.
        """
        features = self.embed(x)
        if callable(prompts):
            kept = features.detach()
            prompts = prompts(lambda maps: self.refine(kept, maps))
        if prompts is None:
            prompts = features.new_zeros(len(features), len(PROMPTS), *features.shape[-2:])
        return resize(self.refine(features, prompts), x.shape[-2:])


class ClickSegmenter(ClickNetwork):
    """As :class:`ClickNetwork`, on an encoder of timm.

    Args:
        encoder: its name.
        width: channels of the features.
        weights: as for :class:`Encoder`, or a whole one of ours of the same width.
        mean: as for :class:`Encoder`.
        std: as for :class:`Encoder`.
        drop_path_rate: as for :class:`Encoder`.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        width: int = 64,
        weights: str | Path | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(Encoder(encoder, weights, mean, std, drop_path_rate), width)
        if weights_kind(weights) == self.kind:
            load_whole_network(self, str(weights))


class _Block(nn.Sequential):
    """A 3x3 convolution, normalised by groups: a batch of one image is trained and computed like any other."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False),
            nn.GroupNorm(_GROUPS, outputs),
            nn.ReLU(inplace=True),
        )
