"""Classification: global average pooling and one linear layer on our encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from sonodistill.networks.encoder import Encoder
from sonodistill.networks.whole import load_whole_network, weights_kind


class Classifier(nn.Module):
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

    kind = "classifier"

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
        super().__init__()
        self.encoder = Encoder(encoder, weights, mean, std, drop_path_rate)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(self.encoder.num_features, classes)
        if weights_kind(weights) == "classifier":
            load_whole_network(self, Path(str(weights)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes)."""
        pooled = self.encoder(x).mean(dim=(2, 3))
        return self.head(self.dropout(pooled))
