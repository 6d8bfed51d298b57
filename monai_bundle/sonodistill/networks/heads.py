"""Heads of few parameters on any encoder's maps: light and linear, and many linear ones trained at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError
from sonodistill.networks.pyramid import require_several, resize

_FINEST = 8  # stride of the grid on which a linear head reads a pyramid


class LightHead(nn.Module):
    """3 x 3 convolution, batch normalisation, ReLU and 1 x 1 convolution on the last map.

    What paper A puts on its teacher: 1,770,241 parameters on 768 channels, 87.43 M with a DINOv3 ViT-B/16 (Table 5).

    Args:
        channels: of each map; only the last is read.
        reductions: not read.
        classes: channels of the output.
        width: channels between the convolutions.
    """

    def __init__(self, channels: Sequence[int], reductions: Sequence[int], classes: int = 1, width: int = 256) -> None:  # noqa: ARG002 (every head takes the same)
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels[-1], width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, classes, 1),
        )

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Logits (B, classes, *size)."""
        return resize(self.layers(maps[-1]), size)


class LinearHeads(nn.Module):
    """Independent 1 x 1 convolutions on one normalised feature, to train one for each of many learning rates at once.

    The gradient of one head's loss does not touch another, so the losses are added up. What joins parameters would
    join the heads: clip the gradient of each alone, if at all. The normalisation has no parameters for the same reason;
    a linear layer after it makes them redundant. Weights start as in DINOv3's linear head: N(0, 0.01), bias 0.
    With the moments of all training features given (:meth:`standardise`), which are at hand where features are kept,
    batches are not normalised by their own.

    Args:
        channels: of the feature.
        classes: channels of each head's output.
        count: number of heads.
    """

    def __init__(self, channels: int, classes: int = 1, count: int = 1) -> None:
        super().__init__()
        if count < 1:
            raise BundleConfigError(f"{count} linear heads", remedy="ask for 1 or more")
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.standardised = False
        self.heads = nn.ModuleList(nn.Conv2d(channels, classes, 1) for _ in range(count))
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) to logits (K, B, classes, h, w) of the K heads."""
        heads: Any = self.heads
        # One product with the heads' outputs beside each other reads the feature once, not K times. A convolution, even
        # of 1 x 1, would first bring the feature into another order.
        weight, bias = torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])
        if self.standardised:
            # W (x - m) / s = (W / s) x - (W / s) m: the feature is not touched.
            moments: Any = self.norm
            weight = weight / torch.sqrt(moments.running_var + moments.eps)[:, None, None]
            bias = bias - weight.flatten(1) @ moments.running_mean
        else:
            feature = self.norm(feature)
        weight = weight.flatten(1).expand(len(feature), -1, -1)
        logits = torch.bmm(weight, feature.flatten(2)) + bias[:, None]
        return logits.unflatten(2, feature.shape[2:]).unflatten(1, (len(heads), -1)).transpose(0, 1)

    def standardise(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Normalise by these (C,) moments of the training features from here on, in training too."""
        self.norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        self.norm.running_var.copy_(variance)  # type: ignore[union-attr]
        self.standardised = True

    def parameter_groups(self, rates: Sequence[float]) -> list[dict[str, Any]]:
        """An optimiser's groups, one a head, with the heads' learning rates in their order.

        Raises:
            BundleConfigError: not as many rates as heads.
        """
        if len(rates) != len(self.heads):
            raise BundleConfigError(f"{len(rates)} learning rates for {len(self.heads)} linear heads")
        return [{"params": list(head.parameters()), "lr": rate} for head, rate in zip(self.heads, rates, strict=True)]

    def only(self, index: int) -> LinearHeads:
        """A copy with one of the heads, as it is now."""
        alone = copy.deepcopy(self)
        alone.heads = nn.ModuleList([alone.heads[index]])
        return alone


class PooledLinearHeads(LinearHeads):
    """:class:`LinearHeads` for classification, on pooled features: batch normalisation and linear layers."""

    def forward(self, feature: torch.Tensor) -> torch.Tensor:
        """(B, C) to logits (K, B, classes).

        Raises:
            BundleConfigError: training on one image.
        """
        if self.training and not self.standardised:
            require_several(len(feature), "a linear head on pooled features")
        return super().forward(feature[:, :, None, None]).flatten(2)


class LinearHead(nn.Module):
    """Batch normalisation and a 1 x 1 convolution, on all maps beside each other or on the last.

    All maps are brought to one grid: the finest that is not finer than stride 8, which is a vision transformer's own.

    Args:
        channels: of each map.
        reductions: stride of each map.
        classes: channels of the output.
        maps: "all" or "last".

    Attributes:
        in_channels: of what :meth:`gather` gives.
        linear: :class:`LinearHeads` of one; after a sweep of many, ``head.linear = heads.only(best)``.
    """

    def __init__(self, channels: Sequence[int], reductions: Sequence[int], classes: int = 1, maps: str = "all") -> None:
        super().__init__()
        if maps not in ("all", "last"):
            raise BundleConfigError(f"a linear head on maps={maps!r}", remedy="choose all or last")
        self.maps = maps
        self.reductions = tuple(reductions)
        self.in_channels = sum(channels) if maps == "all" else channels[-1]
        self.linear = LinearHeads(self.in_channels, classes)

    def gather(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """(B, in_channels, h, w): what the linear layer reads. Finer maps are averaged, coarser ones bilinear."""
        if self.maps == "last":
            return maps[-1]
        stride = min((r for r in self.reductions if r >= _FINEST), default=max(self.reductions))
        grid = maps[self.reductions.index(stride)].shape[-2:]
        gathered = []
        for level, reduction in zip(maps, self.reductions, strict=True):
            if reduction < stride:
                level = functional.interpolate(level, size=tuple(grid), mode="area")
            gathered.append(resize(level, grid) if reduction > stride else level)
        return torch.cat(gathered, dim=1)

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Logits (B, classes, *size)."""
        return resize(self.linear(self.gather(maps))[0], size)
