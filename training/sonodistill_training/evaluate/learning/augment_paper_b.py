"""The augmentation of paper B's fine-tuning (its public code), for a whole batch at once and never upside down.

Each with a chance of one half: an affine map (30 degrees, zoom 0.8 to 1.2, a fifth of the image, shear of 15 degrees),
a mirror image, brightness and contrast (0.3), gamma (0.8 to 1.2), noise (variance 10 to 50 of 255 squared), and a grid
of 5 x 5 cells stretched by up to 0.3. The code's shift is by a fifth always; here it is up to a fifth.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_DEGREES, _SHEAR, _ZOOM, _SHIFT = 30.0, 15.0, 0.2, 0.2
_LIGHT, _GAMMA, _CELLS, _STRETCH = 0.3, 0.2, 5, 0.3
_NOISE = (10 / 255**2, 50 / 255**2)


def strong(x: Tensor, generator: torch.Generator, masks: bool) -> Tensor:
    """(B, C, S, S): the first channel, a frame in [0, 1], is augmented; ``masks`` in the others move along as codes."""
    count = len(x)
    mirrored = _chance(count, generator).to(x.device)
    x = torch.where(mirrored, x.flip(-1), x)
    grid = _grid(count, x.shape[-1], generator).to(x.device)
    frame = functional.grid_sample(x[:, :1], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    frame = _light(frame, generator)
    if not masks:
        return frame
    moved = functional.grid_sample(x[:, 1:], grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return torch.cat([frame, moved], dim=1)


def _grid(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(B, S, S, 2) places to read from: the affine map of what the stretched cells give."""
    draw = _symmetric(6, count, generator=generator)
    turn, shear = torch.deg2rad(draw[0] * _DEGREES), torch.deg2rad(draw[1] * _SHEAR).tan()
    zoom, shift = 1 / (1 + draw[2] * _ZOOM), 2 * _SHIFT * draw[3:5]
    affine = torch.stack(
        [
            torch.stack([zoom * turn.cos(), zoom * (shear * turn.cos() - turn.sin()), shift[0]], dim=1),
            torch.stack([zoom * turn.sin(), zoom * (shear * turn.sin() + turn.cos()), shift[1]], dim=1),
        ],
        dim=1,
    )
    still = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]).expand(count, -1, -1)
    affine = torch.where(_chance(count, generator)[:, :, 0], affine, still)
    across, down = (_stretched(count, side, generator) for _ in range(2))
    stretched = _chance(count, generator)[:, :, 0]
    plain = ((torch.arange(side) + 0.5) * 2 / side - 1).expand(count, -1)
    across, down = torch.where(stretched[:, 0], across, plain), torch.where(stretched[:, 0], down, plain)
    places = torch.stack([across[:, None].expand(-1, side, -1), down[:, :, None].expand(-1, -1, side)], dim=-1)
    return places @ affine[:, None, :, :2].transpose(2, 3) + affine[:, None, None, :, 2]


def _stretched(count: int, side: int, generator: torch.Generator) -> Tensor:
    """(B, S): along one side, each of the cells read from a stretch of another length; in the middle nothing moves."""
    lengths = 1 + _STRETCH * _symmetric(count, _CELLS, generator=generator)
    edges = torch.cat([torch.zeros(count, 1), lengths.cumsum(1)], dim=1) * 2 / _CELLS
    place = (torch.arange(side) + 0.5) / side * _CELLS
    cell = place.long().clamp(max=_CELLS - 1)
    read = edges[:, cell] + (place - cell) * (edges[:, cell + 1] - edges[:, cell])
    return read - edges[:, -1:] / 2


def _light(frame: Tensor, generator: torch.Generator) -> Tensor:
    count, device = len(frame), frame.device
    draw = _symmetric(3, count, 1, 1, 1, generator=generator).to(device)
    chances = [_chance(count, generator).to(device) for _ in range(3)]
    contrast = (frame * (1 + _LIGHT * draw[0]) + _LIGHT * draw[1]).clamp(0, 1)
    frame = torch.where(chances[0], contrast, frame)
    frame = torch.where(chances[1], frame.clamp(min=1e-6) ** (1 + _GAMMA * draw[2]), frame)
    low, high = _NOISE
    spread = (low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)).sqrt()
    noise = (torch.randn(frame.shape, generator=generator) * spread).to(device)
    return torch.where(chances[2], (frame + noise).clamp(0, 1), frame)


def _chance(count: int, generator: torch.Generator) -> Tensor:
    """(B, 1, 1, 1) bool: one half of them on average."""
    return torch.rand(count, 1, 1, 1, generator=generator) < 0.5


def _symmetric(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator) * 2 - 1
