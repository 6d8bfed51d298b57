"""The encoder that frames are embedded with: a model of its own, the segmenter's, or an untrained one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sonodistill.annotate.training.versions import Versions
    from sonodistill.inference.runtimes.base import Runtime

SIDE = 224
"""Pixels of the square that frames are brought to, but for an exported model, which says its own."""
UNTRAINED = "resnet18"
_CHECKPOINT = ".safetensors"
_CHOICES = (("embedding", "the embedding model"), ("segmentation", "the encoder of the segmentation model"))

Levels = Sequence[NDArray[np.floating]]
Network = Callable[[NDArray[np.float32]], Levels]
"""(B, 1, H, W) float32 in [0, 1] to the maps (B, C_i, h_i, w_i) of an encoder."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an encoder comes from.

    Attributes:
        key: of its weights; names the folder of what is computed with it.
        model: "embedding", "segmentation", or "untrained".
        name: for people.
        path: of the weights, None for untrained ones.
    """

    key: str
    model: str
    name: str
    path: Path | None = None

    def replaces(self, other: Source) -> bool:
        """Whether to embed anew. A newer segmenter is no reason: it would be one after each training."""
        return self.key != other.key and not self.model == other.model == "segmentation"


def source_of(versions: Mapping[str, Versions], seed: int) -> Source:
    """The promoted "embedding" model, else the encoder of the promoted segmenter, else random weights of the seed.

    Errors: WeightsError for weights that were changed or lost.
    """
    for model, what in _CHOICES:
        current = versions[model].current() if model in versions else None
        # Of an exported segmenter the encoder cannot be taken.
        if current is not None and (model == "embedding" or current.path.suffix.lower() == _CHECKPOINT):
            return Source(current.sha256[:32], model, f"{what}, version {current.number}", current.path)
    return Source(f"untrained-{UNTRAINED}-{seed}", "untrained", f"an untrained {UNTRAINED}")


def open_source(source: Source, seed: int) -> tuple[Network, tuple[int, int]]:
    """The encoder, and the (height, width) that it takes.

    Errors: WeightsError, BundleConfigError for weights that cannot be used.
    """
    if source.path is not None and source.path.suffix.lower() != _CHECKPOINT:
        from sonodistill.inference.runtimes import open_runtime

        runtime = open_runtime(source.path, threads=1)
        batch = runtime.batch or 1  # a graph of any batch is as fast with one
        return (lambda images: [_in_batches(runtime, images, batch)]), runtime.input_size
    import torch

    from sonodistill.networks.encoder import Encoder
    from sonodistill.networks.precision import use_bf16
    from sonodistill.weights import read_info

    if source.path is None:
        # Drawn from the CPU's generator alone, whose state is put back.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            encoder = Encoder(UNTRAINED)
    else:
        info = read_info(source.path)
        encoder = Encoder(info.architecture if info else UNTRAINED, source.path)
    encoder = encoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bf16 = use_bf16("auto", torch.device("cpu"))

    def compute(images: NDArray[np.float32]) -> Levels:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return [level.float().numpy() for level in encoder.pyramid(torch.from_numpy(images))[-2:]]

    return compute, (SIDE, SIDE)


def _in_batches(runtime: Runtime, images: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    from sonodistill.inference.runtimes.base import filled

    made = [runtime(filled(images[at : at + batch], batch))[: len(images) - at] for at in range(0, len(images), batch)]
    return np.concatenate(made)
