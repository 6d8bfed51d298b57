"""A labelled set as the simulation uses it: features of every frame, computed once, and the truth."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from sonodistill.annotate.acquire.features import GRID, summarise
from sonodistill.annotate.acquire.pool import projection
from sonodistill.annotate.acquire.uncertainty import cell_targets
from sonodistill.errors import DatasetError
from sonodistill.files import atomic_path
from sonodistill.networks.precision import use_bf16
from sonodistill.networks.pyramid import PLAIN, Features, family, resize
from sonodistill_training.bench.active_learning.setup import Setup
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.evaluate.data import LabelledSet, read_set
from sonodistill_training.evaluate.encoders.load import load_encoder

_VERSION = 1  # another one where the same frames would give other features
_BATCH = 8
_WIDTH = 256
_STRIDED = 3  # levels of a pyramid that the head reads, on the grid of the one before the last

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Frames:
    """The annotated frames of a set, N of them.

    Attributes:
        data: the set.
        rows: of it, that are annotated.
        groups: patient or case of each.
        vectors, cells: (N, D) and (N, 49, C), what the server keeps of a frame: see ``annotate.acquire.features``.
        shares: (N, 49, 1), the structure's share of each cell.
        pixels: (N, g * g, 256) float16, what the segmentation head reads.
        truths: (N, g * g) float32, the structure's share of each of its cells.
        structured: (N,) bool, whether there is any structure.
    """

    data: LabelledSet
    rows: NDArray[np.int64]
    groups: NDArray[np.str_]
    vectors: Floats
    cells: Floats
    shares: Floats
    pixels: NDArray[np.float16]
    truths: Floats
    structured: NDArray[np.bool_]


def load_frames(name: str, folder: Path | None, setup: Setup, cache: Path) -> Frames:
    """The annotated frames of a set and their features, which are kept in ``cache``.

    Raises:
        DatasetError: nothing is annotated, or too little for the rounds.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as scratch:
            made = write_simulated(Path(scratch) / name, setup.simulated, 0)
            return _load(read_set(name, made, setup.input_size), setup, cache)
    return _load(read_set(name, folder, setup.input_size, cache), setup, cache)


def _load(data: LabelledSet, setup: Setup, cache: Path) -> Frames:
    rows = np.array([row for row in range(len(data)) if data.truths[row] is not None], np.int64)
    if not len(rows):
        raise DatasetError(f"{data.name} has no frame with a mask", remedy="give a set for segmentation")
    key = f"{_VERSION} {data.sha256} {setup.encoder.key()} {setup.input_size}"
    path = cache / f"features-{data.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npz"
    if not path.is_file():
        vectors, cells, pixels = _features(data, rows, setup)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, vectors=vectors, cells=cells, pixels=pixels)
    with np.load(path, allow_pickle=False) as kept:
        vectors, cells, pixels = kept["vectors"], kept["cells"], kept["pixels"]
    side = round(pixels.shape[1] ** 0.5)
    masks = [data.truth(row) for row in rows.tolist()]
    return Frames(
        data,
        rows,
        np.array([data.groups[row] for row in rows.tolist()]),
        vectors,
        cells.astype(np.float32),
        np.stack([cell_targets(mask.astype(np.uint8), 1, (GRID, GRID)) for mask in masks]),
        pixels,
        np.stack([cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA) for mask in masks])
        .reshape(len(masks), -1)
        .astype(np.float32),
        np.array([mask.any() for mask in masks]),
    )


def _features(data: LabelledSet, rows: NDArray[np.int64], setup: Setup) -> tuple[Floats, Floats, NDArray[np.float16]]:
    encoder = load_encoder(setup.encoder, input_size=setup.input_size, seed=0)
    network = encoder.eval().requires_grad_(False)  # type: ignore[attr-defined]
    bf16 = use_bf16("auto", torch.device("cpu"))
    vectors, cells, pixels = [], [], []
    batches = torch.from_numpy(data.images[rows]).split(_BATCH)
    for images in track(batches, description=f"features of {data.name}", transient=True):
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            levels = [level.float() for level in network.pyramid(images.float().div(255))]
        vector, cell = summarise([level.numpy() for level in levels])
        vectors.append(vector)
        cells.append(cell.astype(np.float16))
        pixels.append(_for_head(levels, network).astype(np.float16))
    return np.concatenate(vectors), np.concatenate(cells), np.concatenate(pixels)


def _for_head(levels: Sequence[torch.Tensor], encoder: Features) -> Floats:
    """(B, g * g, 256): levels of equal weight on one grid, projected at random to so many features."""
    used = levels if family(encoder) == PLAIN else levels[-_STRIDED:]
    grid = used[-2].shape[-2:]
    parts = []
    for level in used:
        scaled = level / level.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
        finer = level.shape[-1] > grid[-1]
        parts.append(torch.nn.functional.adaptive_avg_pool2d(scaled, grid) if finer else resize(scaled, grid))
    gathered = torch.cat(parts, dim=1).flatten(2).transpose(1, 2).numpy()
    width = gathered.shape[2]
    return gathered @ projection(width, _WIDTH) if width > _WIDTH else gathered
