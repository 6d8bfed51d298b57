"""Classification: global average pooling and one linear layer on our encoder, or on any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sonodistill.networks.encoder import Encoder
from sonodistill.networks.pyramid import Features
from sonodistill.networks.whole import load_whole_network, weights_kind


class PooledClassifier(nn.Module):
    """Any encoder, the mean of its last map, and a linear layer.

    Args:
        encoder: the encoder.
        classes: number of classes.
        dropout: before the linear layer.
    """

    kind = "classifier"

    def __init__(self, encoder: Features, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.num_features, classes)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) to (B, num_features): what ``head`` takes."""
        return self.encoder(x).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes)."""
        return self.head(self.dropout(self.pooled(x)))

    def from_maps(self, x: torch.Tensor, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """:meth:`forward` of an image whose maps are computed already."""
        del x
        return self.head(self.dropout(maps[-1].mean(dim=(2, 3))))


class Classifier(PooledClassifier):
    """(B, 1, H, W) gray in [0, 1] to logits (B, classes).

    Args:
        encoder: timm name of the encoder.
        classes: number of classes.
        weights: as for :class:`Encoder`, or a whole classifier of ours with the same number of classes.
        dropout: before the linear layer.
        mean: as for :class:`Encoder`.
        std: as for :class:`Encoder`.
        drop_path_rate: as for :class:`Encoder`.
    """

    def __init__(
        self,
        encoder: str = "resnet50",
        classes: int = 3,
        weights: str | Path | None = None,
        dropout: float = 0.0,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(Encoder(encoder, weights, mean, std, drop_path_rate), classes, dropout)
        if weights_kind(weights) == "classifier":
            load_whole_network(self, str(weights))
