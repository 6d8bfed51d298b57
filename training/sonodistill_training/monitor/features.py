"""Images that are loaded and shrunk once, and what an encoder makes of them while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError, DatasetError, SonoDistillError, UnreadableFileError
from sonodistill.frames import read
from sonodistill.networks.precision import use_bf16
from sonodistill.transforms.geometry import to_input

BATCH = 64

Image = str | Path | NDArray[np.uint8]
"""A file whose first frame is meant, or (H, W) uint8."""

Result = TypeVar("Result")


class NotFiniteError(SonoDistillError):
    """An encoder's features are not finite numbers."""


@dataclass(frozen=True, slots=True)
class Item:
    """An image, what is to be told from it (a class, a mask) and the group that is never divided between folds."""

    image: Image
    target: Any
    group: str


def items_of(pairs: Sequence[tuple[Any, ...]]) -> list[Item]:
    """``(image, target)`` and ``(image, target, group)`` as items; without a group, each stands alone."""
    return [
        Item(pair[0], pair[1], str(pair[2]) if len(pair) > 2 else f"item {number}") for number, pair in enumerate(pairs)
    ]


def require_at_least(least: int, **settings: int) -> None:
    """Raise BundleConfigError when one of the settings is below ``least``."""
    for name, value in settings.items():
        if value < least:
            raise BundleConfigError(f"{name} is {value}", remedy=f"give {least} or more")


def read_gray(image: Image) -> NDArray[np.uint8]:
    """(H, W) uint8.

    Raises:
        UnreadableFileError, UnsupportedFormatError: the file cannot be read.
        DatasetError: an array of another shape or type.
    """
    if isinstance(image, (str, Path)):
        frame = next(iter(read(image, only=[0])), None)
        if frame is None:
            raise UnreadableFileError("holds no frame", path=image, remedy="drop it from the data set")
        return frame.image
    array = np.asarray(image)
    if array.ndim != 2 or array.dtype != np.uint8 or not array.size:
        raise DatasetError(
            f"an image of shape {array.shape} and type {array.dtype}", remedy="give gray images: (H, W) uint8"
        )
    return array


def shrink(images: Iterable[Image], size: int) -> Tensor:
    """(N, 1, size, size) uint8: exactly what inference makes of each image, before it is divided by 255.

    Raises:
        UnreadableFileError, UnsupportedFormatError, DatasetError: as :func:`read_gray` raises them.
    """
    shrunk = [np.rint(to_input(read_gray(image), (size, size)) * 255).astype(np.uint8) for image in images]
    return torch.from_numpy(np.stack(shrunk))


def through(
    function: Callable[[Tensor], Result], images: Tensor, device: torch.device, precision: str, batch: int = BATCH
) -> Iterator[Result]:
    """``function`` of (B, 1, H, W) float32 in [0, 1] for each ``batch`` of the uint8 images, on the device.

    Under ``no_grad`` and not ``inference_mode``: what a network may cache of an inference tensor could not be trained
    with afterwards.
    """
    bf16 = use_bf16(precision, device)
    for some in images.split(batch):
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            result = function(some.to(device).float() / 255)
        yield result


def embeddings(encoder: nn.Module, images: Tensor, device: torch.device, precision: str) -> NDArray[np.float64]:
    """(N, C): the mean of each image's last map.

    Args:
        encoder: in eval mode, (B, 1, H, W) in [0, 1] to (B, C, h, w).
        images: (N, 1, H, W) uint8.

    Raises:
        NotFiniteError: a feature is infinite or not a number.
    """
    pooled = through(lambda batch: encoder(batch).float().mean(dim=(2, 3)), images, device, precision)
    return require_finite(torch.cat([some.cpu() for some in pooled]).double().numpy())


def require_finite(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features, if all are finite.

    Raises:
        NotFiniteError: one is not.
    """
    if not np.isfinite(features).all():
        share = 1 - np.isfinite(features).mean()
        raise NotFiniteError(
            f"{share:.1%} of the encoder's features are not finite",
            remedy="the training has diverged: go back to an earlier checkpoint with a lower learning rate",
        )
    return features
