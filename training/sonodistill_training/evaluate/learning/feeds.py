"""What a training is fed from: uint8 frames, or an encoder's features of them, both held in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sonodistill_training.evaluate.learning.augment_paper_b import strong
from sonodistill_training.evaluate.learning.recipes import Augmentation

Inputs = Tensor | list[Tensor]
_DEGREES, _ZOOM = 15.0, 0.2


class Feed(Protocol):
    """Batches of a data set by row number."""

    def batch(self, rows: NDArray[np.int64], generator: torch.Generator | None = None) -> tuple[Inputs, Tensor]:
        """What the network takes, and its targets. With a generator the batch is augmented."""
        ...


class ImageFeed:
    """Frames at the network's size.

    Args:
        images: (N, 1, S, S) uint8.
        targets: (N, 1, S, S) uint8 masks, or (N,) class numbers; of any value where a row is never asked for.
        device: where both are kept and the batches are made.
        augment: as for :class:`Recipe`.
        coded: the masks hold the numbers of structures, of which there are no fractions.
    """

    def __init__(
        self,
        images: Tensor,
        targets: Tensor,
        device: torch.device,
        augment: Augmentation = "flip",
        coded: bool = False,
    ) -> None:
        self.images, self.targets, self.augment = images.to(device), targets.to(device), augment
        self.coded = coded

    def batch(self, rows: NDArray[np.int64], generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(B, 1, S, S) float32 in [0, 1] and (B, 1, S, S) float32 masks or (B,) int64 classes."""
        chosen = torch.from_numpy(rows).to(self.images.device)
        images, targets = self.images[chosen].float() / 255, self.targets[chosen]
        dense = targets.ndim == 4
        if dense:
            targets = targets.float()
        if generator is None or self.augment == "none":
            return images, targets
        both = torch.cat([images, targets], dim=1) if dense else images
        both = _flip(both, generator)
        if self.augment == "paper_b":
            both = strong(both, generator, masks=dense)
            return both[:, :1], both[:, 1:] if dense else targets
        if self.coded:
            if self.augment == "affine":
                both = _affine(both, generator, coded=True)
            return both[:, :1], both[:, 1:]
        if self.augment == "affine":
            both = _affine(both, generator)
        return both[:, :1], (both[:, 1:] >= 0.5).float() if dense else targets


def _flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image is mirrored left to right or not, with equal chance."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(mirrored.to(x.device)[:, None, None, None], x.flip(-1), x)


def _affine(x: Tensor, generator: torch.Generator, coded: bool = False) -> Tensor:
    """Rotation up to 15 degrees and zoom of 0.8 to 1.2 about the centre; what comes in from outside is black.

    With ``coded`` the channels after the first are moved by nearest neighbour.
    """
    angle, zoom = torch.rand(2, len(x), generator=generator) * 2 - 1
    angle, scale = torch.deg2rad(angle * _DEGREES), 1 / (1 + zoom * _ZOOM)
    rows = [scale * angle.cos(), -scale * angle.sin(), 0 * scale, scale * angle.sin(), scale * angle.cos(), 0 * scale]
    grid = functional.affine_grid(torch.stack(rows, dim=1).view(-1, 2, 3).to(x.device), list(x.shape), False)
    moved = functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if coded:
        moved[:, 1:] = functional.grid_sample(x[:, 1:], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved


class FeatureFeed:
    """Features that a frozen encoder has computed once for each frame.

    Args:
        features: of each kind (the maps of a pyramid, or one pooled vector), (N, ...).
        targets: as for :class:`ImageFeed`.
        device: where the batches are made; the features stay on the CPU.
    """

    def __init__(self, features: Sequence[Tensor], targets: Tensor, device: torch.device) -> None:
        self.features, self.targets, self.device = list(features), targets, device

    def batch(self, rows: NDArray[np.int64], generator: torch.Generator | None = None) -> tuple[list[Tensor], Tensor]:
        """The features of the rows, and their targets. There is nothing to augment."""
        del generator
        chosen = torch.from_numpy(rows)
        targets = self.targets[chosen]
        targets = targets.float() if targets.ndim == 4 else targets
        return [part[chosen].to(self.device) for part in self.features], targets.to(self.device)


def collect(
    batches: Iterable[Sequence[Tensor]],
    count: int,
    folder: str | Path,
    memory: float,
    on_batch: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Batches of one or several kinds of features put together, kept as they come (bfloat16 under autocast).

    Args:
        batches: tensors (B, ...) for successive frames.
        count: frames in all.
        folder: where the features go if they take more than ``memory``; the file is gone when they are.
        memory: bytes.
        on_batch: called with how many frames were done.
    """
    kept: list[Tensor] = []
    start = 0
    for parts in batches:
        if not kept:
            whole = sum(_bytes(part, count) for part in parts)
            kept = [_room(part, count, folder, in_memory=whole <= memory) for part in parts]
        for room, part in zip(kept, parts, strict=True):
            room[start : start + len(part)] = part.cpu()
        start += len(parts[0])
        if on_batch:
            on_batch(len(parts[0]))
    return kept


def _bytes(part: Tensor, count: int) -> int:
    return count * part[0].numel() * part.element_size()


def _room(part: Tensor, count: int, folder: str | Path, in_memory: bool) -> Tensor:
    """An empty tensor for ``count`` frames: in memory, or in a file without a name."""
    shape, dtype = (count, *part.shape[1:]), part.dtype
    if in_memory:
        return torch.empty(shape, dtype=dtype)
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"features-{id(part):x}.tmp"
    size = _bytes(part, count) // part.element_size()
    room = torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)
    path.unlink()  # the mapping keeps the bytes until the tensor goes
    return room
