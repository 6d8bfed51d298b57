"""Embeddings of frames by a pretrained network: what a network takes for alike, beside the hash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import nn

INPUT_SIDE = 224


def load_embedder(spec: str | Path, *, architecture: str | None = None) -> nn.Module:
    """A frozen network from (B, 1, H, W) gray in [0, 1] to a map (B, D, h, w).

    Args:
        spec: one of our weights files (encoder, segmenter, classifier), or whatever ``load_teacher`` takes.
        architecture: timm name, for a file that does not state its own.

    Raises:
        HubUnreachableError, WeightsError, BundleConfigError: as ``load_teacher`` and ``Encoder`` raise them.
    """
    from sonodistill.networks.encoder import NETWORK_KINDS, Encoder
    from sonodistill.weights import read_info
    from sonodistill_training.distill.teacher import load_teacher

    path = Path(spec)
    info = read_info(path) if path.suffix.lower() == ".safetensors" and path.is_file() else None
    if info is not None and info.kind in NETWORK_KINDS:
        return Encoder(architecture or info.architecture, weights=path).eval().requires_grad_(False)
    return load_teacher(spec, blocks=1, input_size=INPUT_SIDE, architecture=architecture)


def embed(
    frames: Iterable[NDArray[np.uint8]], spec: str | Path | nn.Module, batch: int = 32, *, mirror: bool = False
) -> NDArray[np.float16]:
    """(N, D) float16 unit vectors: the mean of each frame's patch tokens (or last map).

    Args:
        frames: (H, W) uint8 of any size; each is brought to 224 x 224.
        spec: as for :func:`load_embedder`, or what it returned.
        batch: frames that go through the network together.
        mirror: turn the frames left to right first.

    Raises:
        HubUnreachableError, WeightsError, BundleConfigError: see :func:`load_embedder`.
    """
    import torch
    from torch import nn

    network = spec if isinstance(spec, nn.Module) else load_embedder(spec)
    device = next(network.parameters()).device
    found = [np.empty((0, 0), np.float16)]
    for some in _batches(frames, batch, mirror):
        with torch.inference_mode():
            tokens = network(torch.from_numpy(some).to(device).float().div_(255))  # (B, D, h, w)
            vectors = nn.functional.normalize(tokens.mean(dim=(2, 3)).float())
        found.append(vectors.cpu().numpy().astype(np.float16))
    return np.concatenate(found[1:]) if len(found) > 1 else found[0]


def _batches(frames: Iterable[NDArray[np.uint8]], batch: int, mirror: bool) -> Iterator[NDArray[np.uint8]]:
    """(B, 1, 224, 224) uint8."""
    waiting: list[NDArray[np.uint8]] = []
    for frame in frames:
        small = cv2.resize(frame, (INPUT_SIDE, INPUT_SIDE), interpolation=cv2.INTER_AREA)
        waiting.append(small[:, ::-1] if mirror else small)
        if len(waiting) == batch:
            yield np.stack(waiting)[:, None]
            waiting = []
    if waiting:
        yield np.stack(waiting)[:, None]
