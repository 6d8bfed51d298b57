"""What decoders and heads know of an encoder: its maps, their channels and their strides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch.nn import functional

from sonodistill.errors import BundleConfigError

HIERARCHICAL, PLAIN = "hierarchical", "plain"


class Features(Protocol):
    """Every encoder, a module on (B, 1, H, W) gray in [0, 1].

    One may also have an ``input_multiple``: what height and width have to be multiples of, 32 for one without.

    Attributes:
        name: for messages.
        channels: of each map of :meth:`pyramid`.
        reductions: stride of each map; of a plain vision transformer the patch size, repeated.
        num_features: channels of the last map.
    """

    name: str
    channels: tuple[int, ...]
    reductions: tuple[int, ...]
    num_features: int

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The maps (B, C_i, H / r_i, W / r_i)."""
        ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The last map."""
        ...


def family(encoder: Features) -> str:
    """Of which kind the pyramid is: "hierarchical", strides 2 or 4 to 32, or "plain", all maps at one stride.

    Raises:
        BundleConfigError: neither.
    """
    reductions = tuple(encoder.reductions)
    if reductions in ((2, 4, 8, 16, 32), (4, 8, 16, 32)):
        return HIERARCHICAL
    if len(set(reductions)) == 1:
        return PLAIN
    raise BundleConfigError(
        f"{encoder.name} has maps of strides {reductions}: neither 2 or 4 to 32 nor all the same",
        remedy="give an encoder whose pyramid is one of these",
    )


def input_multiple(encoder: Features) -> int:
    """What the height and width of an image have to be multiples of, pixels."""
    return int(getattr(encoder, "input_multiple", 32))


def resize(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """(B, C, h, w) to (B, C, *size), bilinear, corners not aligned."""
    return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def require_several(images: int, layer: str) -> None:
    """Raise BundleConfigError for a batch of one image, where batch normalisation would see one value a channel."""
    if images < 2:
        raise BundleConfigError(
            f"{layer} normalises over the batch and cannot be trained on one image at a time",
            remedy="give a batch size of 2 or more, and drop a last batch of one image",
        )
