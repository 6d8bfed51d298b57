"""Cuts views out of a batch of frames on its device: two products with small matrices, for all views at once."""

from __future__ import annotations

import torch
from torch import Tensor


def crop(images: Tensor, boxes: Tensor, flip: Tensor, size: int) -> Tensor:
    """Cut boxes out, resize each to (size, size), bilinear and antialiased, and mirror some of them left to right.

    Args:
        images: (B, H, W) float.
        boxes: (B, n, 4) top, left, height, width in pixels.
        flip: (B, n) bool.

    Returns:
        (B, n, 1, size, size), as torchvision's ``resized_crop(antialias=True)`` and ``horizontal_flip`` give it.
    """
    batch, count = boxes.shape[:2]
    top, left, height, width = boxes.flatten(0, 1).float().unbind(1)
    down = _weights(top, height, images.shape[1], size)  # (B * n, size, H)
    across = _weights(left, width, images.shape[2], size, flip.flatten())  # never the rows: a probe has a side
    rows = torch.bmm(down.view(batch, count * size, -1), images)  # (B, n * size, W)
    return torch.bmm(rows.view(batch * count, size, -1), across.transpose(1, 2)).view(batch, count, 1, size, size)


def _weights(start: Tensor, length: Tensor, pixels: int, size: int, flip: Tensor | None = None) -> Tensor:
    """(N, size, pixels): what each pixel counts in each place of a view, a triangle that is as wide as it shrinks.

    Of views in ``flip`` (N,) the first place is the last one.
    """
    start, scale = start[:, None, None], (length / size)[:, None, None]
    places = torch.arange(size, device=start.device, dtype=torch.float32)[None, :, None]
    if flip is not None:
        places = torch.where(flip[:, None, None], size - 1 - places, places)
    inside = torch.arange(pixels, device=start.device, dtype=torch.float32)[None, None] - start  # (N, 1, pixels)
    weights = (inside + 0.5) - (places + 0.5) * scale
    weights.abs_().div_(scale.clamp(min=1)).neg_().add_(1).clamp_(min=0)
    weights.mul_((inside >= 0) & (inside < length[:, None, None]))
    return weights.div_(weights.sum(-1, keepdim=True))
