"""Any encoder with any decoder or head that works on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sonodistill.errors import BundleConfigError
from sonodistill.networks.classifier import PooledClassifier
from sonodistill.networks.click import ClickNetwork
from sonodistill.networks.dpt import DPTHead
from sonodistill.networks.heads import LightHead, LinearHead
from sonodistill.networks.pyramid import HIERARCHICAL, PLAIN, Features, family, input_multiple
from sonodistill.networks.unet import UnetHead
from sonodistill.networks.upernet import UPerNetHead


@dataclass(frozen=True)
class Head:
    """A decoder or head for segmentation.

    Attributes:
        make: ``make(channels, reductions, classes, **options)`` is a module with ``forward(maps, size)``.
        families: of encoders (see :func:`family`) that it works on.
    """

    make: Callable[..., nn.Module]
    families: tuple[str, ...]


HEADS: dict[str, Head] = {
    "unet": Head(UnetHead, (HIERARCHICAL,)),
    "upernet": Head(UPerNetHead, (HIERARCHICAL, PLAIN)),
    "light": Head(LightHead, (HIERARCHICAL, PLAIN)),
    "dpt": Head(DPTHead, (PLAIN,)),
    "linear": Head(LinearHead, (HIERARCHICAL, PLAIN)),
}


class SegmentationNetwork(nn.Module):
    """(B, 1, H, W) gray in [0, 1] to logits (B, classes, H, W).

    For a frozen encoder ``head(maps, size)`` can be trained alone, on kept maps of ``encoder.pyramid``.

    Args:
        encoder: the encoder.
        head: module with ``forward(maps, size)``.
    """

    def __init__(self, encoder: Features, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits at the input's size.

        Raises:
            BundleConfigError: height or width is no multiple of what the encoder needs.
        """
        size, multiple = x.shape[-2:], input_multiple(self.encoder)
        if not torch.jit.is_tracing() and (size[0] % multiple or size[1] % multiple):
            raise BundleConfigError(
                f"height and width have to be multiples of {multiple} for {self.encoder.name}, not {tuple(size)}",
                remedy="pad or resize the images",
            )
        return self.head(self.encoder.pyramid(x), size)


def heads_for(encoder: Features) -> list[str]:
    """The names in :data:`HEADS` that work on an encoder.

    Raises:
        BundleConfigError: its pyramid is of no family.
    """
    return [name for name, head in HEADS.items() if family(encoder) in head.families]


def build_segmenter(encoder: Features, head: str = "unet", classes: int = 1, **options: Any) -> SegmentationNetwork:
    """An encoder with a new decoder or head.

    Args:
        encoder: any; it is not copied.
        head: name in :data:`HEADS`.
        classes: channels of the output.
        options: of the head: ``width`` of upernet, light and dpt, ``maps`` ("all" or "last") of linear.

    Raises:
        BundleConfigError: no such head, one that does not work on this encoder, or no class.
    """
    _require_classes(classes)
    if head not in HEADS:
        raise BundleConfigError(f"unknown head {head}", remedy=f"choose one of {', '.join(HEADS)}")
    working = heads_for(encoder)
    if head not in working:
        raise BundleConfigError(
            f"{head} does not work on {encoder.name}, whose maps have strides {tuple(encoder.reductions)}",
            remedy=f"take {', '.join(working[:-1])} or {working[-1]}",
        )
    return SegmentationNetwork(encoder, HEADS[head].make(encoder.channels, encoder.reductions, classes, **options))


def build_classifier(encoder: Features, classes: int, dropout: float = 0.0) -> PooledClassifier:
    """An encoder with global average pooling and a new linear layer; ``head(pooled)`` for a frozen encoder.

    Raises:
        BundleConfigError: no class.
    """
    _require_classes(classes)
    return PooledClassifier(encoder, classes, dropout)


def build_interactive(encoder: Features, width: int = 64) -> ClickNetwork:
    """An encoder with a new decoder that reads clicks, a box and the mask so far.

    Raises:
        BundleConfigError: a width that is no multiple of 8.
    """
    return ClickNetwork(encoder, width)


def _require_classes(classes: int) -> None:
    if classes < 1:
        raise BundleConfigError(f"{classes} classes", remedy="ask for 1 or more")
