"""The warning score as a part of a network's graph: the same encoder maps make the output and the score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from sonodistill.errors import WeightsError
from sonodistill.inference.familiarity import (
    PREFIX,
    STRIDE,
    VERSION,
    Familiarity,
    FamiliarityError,
    from_tensors,
)
from sonodistill.networks.pyramid import Features
from sonodistill.weights_header import WeightsInfo


def features(maps: list[torch.Tensor], index: int) -> torch.Tensor:
    """(B, 2 C_i) float32: means and standard deviations over the image of the channels of one map."""
    flat = maps[index].float().flatten(2)  # (B, C, h w)
    mean = flat.mean(2)
    return torch.cat([mean, (flat - mean.unsqueeze(2)).square().mean(2).sqrt()], 1)


def map_index(encoder: Features) -> int:
    """Which map of an encoder's pyramid the features are of.

    Raises:
        FamiliarityError: the encoder has none of that stride, as a plain vision transformer.
    """
    if STRIDE not in encoder.reductions:
        raise FamiliarityError(
            f"{encoder.name} has maps of strides {encoder.reductions}, none of stride {STRIDE}",
            remedy="take a convolutional or hierarchical encoder",
        )
    return tuple(encoder.reductions).index(STRIDE)


class Score(nn.Module):
    """An encoder's maps to (B,) scores, in float32 whatever the network computes in."""

    mean: torch.Tensor
    scale: torch.Tensor
    components: torch.Tensor
    gains: torch.Tensor

    def __init__(self, values: Familiarity, index: int) -> None:
        super().__init__()
        self.index = index
        inverse = 1 / torch.from_numpy(values.variances.astype("float64")) / values.threshold**2
        self.rest = float(inverse[-1])
        self.register_buffer("gains", (inverse[:-1] - inverse[-1]).float())
        for name in ("mean", "scale", "components"):
            self.register_buffer(name, torch.from_numpy(getattr(values, name)).float().clone())

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Scores; above 1 for an unfamiliar frame."""
        standard = (features(maps, self.index) - self.mean) / self.scale
        # No matrix product: autocast and the quantisers would compute that in few bits.
        along = (standard.unsqueeze(1) * self.components).sum(2)
        squared = (along.square() * self.gains).sum(1) + standard.square().sum(1) * self.rest
        return squared.clamp(min=0).sqrt()


class Scored(nn.Module):
    """A network and its score: (B, 1, H, W) gray in [0, 1] to what the network returns, and (B,) scores.

    Args:
        network: a Segmenter, Classifier or Encoder of ours.
        score: of its encoder's maps.
    """

    def __init__(self, network: nn.Module, score: Score) -> None:
        super().__init__()
        self.network, self.score = network, score

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The output, bit for bit the network's, and the scores."""
        network: Any = self.network
        maps = getattr(network, "encoder", network).pyramid(x)
        return network.from_maps(x, maps), self.score(maps)


def load_score(path: str | Path, network: nn.Module, info: WeightsInfo) -> Score | None:
    """The score that a weights file of ``network`` holds; None for a file without.

    Raises:
        WeightsError: it does not belong to this network, or a later release wrote it.
    """
    if not info.familiarity:
        return None
    encoder: Any = getattr(network, "encoder", network)
    try:
        if info.familiarity.get("version") != VERSION:
            raise FamiliarityError(f"its version is {info.familiarity.get('version')!r:.20}")
        with safe_open(path, framework="np") as file:
            names = [name for name in file.keys() if name.startswith(PREFIX)]  # noqa: SIM118 (no mapping)
            values = from_tensors({name: file.get_tensor(name) for name in names})
        index = map_index(encoder)
        if len(values.mean) != 2 * encoder.channels[index]:
            raise FamiliarityError(f"its {len(values.mean)} features are not the {2 * encoder.channels[index]} here")
    except FamiliarityError as error:
        raise WeightsError(
            f"its warning score cannot be used: {error.message}",
            path=path,
            remedy="update sonodistill, or fit it anew: `sonodistill weights familiarity`",
        ) from error
    return Score(values, index)
