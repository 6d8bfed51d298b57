"""Whether an encoder's features still span many directions: RankMe, their spread, and channels that never move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sonodistill.errors import EmptyInputError
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.monitor.features import Image, embeddings, require_at_least, require_finite, shrink

DEAD = 1e-4  # a channel is dead below this share of the channels' mean standard deviation
_BLOCKS = 64  # of a streamed corpus: each costs a request of 4 to 6 MB
_TAKEN = 32  # frames at a time, so that few lie in memory at their full size


class Health:
    """``health(encoder, device)`` is ``{"rankme": ..., "feature_std": ..., "dead_channels": ...}``.

    Args:
        images: a corpus, or any sequence of paths or (H, W) uint8; no labels are needed.
        count: how many are drawn, all where there are fewer. RankMe cannot exceed it: compare values of one count only.
        input_size: pixels of the square that each image is brought to, once.
        seed: of the draw.

    Raises:
        EmptyInputError: fewer than two images.
        UnreadableFileError, UnsupportedFormatError, DatasetError: an image cannot be read.
        BundleConfigError: a setting that cannot work.
    """

    def __init__(
        self, images: Corpus | Sequence[Image], count: int = 512, input_size: int = 224, seed: int = 0
    ) -> None:
        require_at_least(2, count=count)
        require_at_least(1, input_size=input_size)
        if len(images) < 2:
            raise EmptyInputError(f"{len(images)} images; the health of features needs two", remedy="give more images")
        chosen = _draw(images, count, seed)
        parts = [chosen[start : start + _TAKEN] for start in range(0, len(chosen), _TAKEN)]
        self.images = torch.cat([shrink(_take(images, part), input_size) for part in parts])

    def __call__(self, encoder: nn.Module, device: torch.device) -> dict[str, float]:
        """The figures of :func:`feature_health`.

        In float32 whatever the training's precision: the rounding of bfloat16 alone would pass for a hundred directions
        in features that are all but equal.

        Raises:
            NotFiniteError: a feature is not a finite number.
        """
        return feature_health(embeddings(encoder, self.images, device, "fp32"))


def feature_health(features: NDArray[np.float64]) -> dict[str, float]:
    """Figures of (N, C) features.

    Returns:
        ``rankme``: see :func:`rankme`.
        ``feature_std``: the standard deviation over images, mean over channels.
        ``dead_channels``: the share of channels whose standard deviation is below 1e-4 of that mean; 1 if no channel
            moves.

    Raises:
        NotFiniteError: a feature is not a finite number.
    """
    std = require_finite(features).std(axis=0)
    # What lies below the rounding of the float32 that the features were computed in is no spread.
    std = np.where(std > np.finfo(np.float32).eps * np.abs(features).max(axis=0), std, 0.0)
    return {
        "rankme": rankme(features),
        "feature_std": float(std.mean()),
        "dead_channels": float((std <= DEAD * std.mean()).mean()),
    }


def rankme(features: NDArray[np.float64]) -> float:
    """RankMe of (N, C) features: exp of the entropy of their singular values, made to sum to 1 (Garrido et al. 2023).

    From 1 (all along one line) to min(N, C). The paper adds 1e-7 to each share so that its logarithm exists; here a
    share of 0 counts nothing, the limit, so that features of r equal singular values give r exactly.

    Raises:
        NotFiniteError: a feature is not a finite number.
    """
    values = np.linalg.svd(require_finite(features), compute_uv=False)
    if not values.any():
        return 1.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _draw(images: Corpus | Sequence[Image], count: int, seed: int) -> list[int]:
    """Which images, in their order; of a streamed corpus, from few blocks."""
    generator = np.random.default_rng(seed)
    candidates = np.arange(len(images))
    if isinstance(images, Corpus) and images.streamed:
        blocks = generator.permutation(np.unique(images.blocks))[:_BLOCKS]
        candidates = candidates[np.isin(images.blocks, blocks)]
    return sorted(generator.permutation(candidates)[:count].tolist())


def _take(images: Corpus | Sequence[Image], indices: list[int]) -> Sequence[Image]:
    return images.take(indices) if isinstance(images, Corpus) else [images[index] for index in indices]
