"""Freeze an encoder, its batch normalisation statistics included."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def frozen_encoder(network: Network, freeze: bool) -> Network:
    """Return ``network`` with its ``encoder`` frozen (no gradient, always in evaluation mode) when ``freeze``."""
    if freeze:
        network.encoder.requires_grad_(False)  # type: ignore[union-attr]
        network.encoder.eval()  # type: ignore[union-attr]
        network.encoder.train = lambda _=True: network.encoder  # type: ignore[method-assign, assignment, union-attr]
    return network
