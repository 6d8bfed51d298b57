"""What a training goes on from: one file, replaced whole, that holds everything but the data."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path

logger = logging.getLogger(__name__)

CHECKPOINT = "last.pt"
_ROOM = 2  # checkpoints that must fit beside each other: the last one, and the one that is being written


class CheckpointError(SonoDistillError):
    """The state of a training cannot be saved. The checkpoint before it is kept."""


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Replace the checkpoint in ``folder``; at every moment there is a whole one.

    Raises:
        CheckpointError: it cannot be written, mostly because the disk is full.
    """
    path = folder / CHECKPOINT
    try:
        with atomic_path(path) as temporary:
            torch.save(dict(state), temporary)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
        free = shutil.disk_usage(folder).free / 2**20
        raise CheckpointError(
            f"step {state['step']} cannot be saved ({str(error).splitlines()[0]}); {free:,.0f} MB are free",
            path=path,
            remedy="make room and run the same command again: it goes on from the last checkpoint that was saved",
        ) from error


def load_checkpoint(folder: Path, identity: Mapping[str, Any], device: torch.device) -> dict[str, Any] | None:
    """The state in ``folder``, None where there is none.

    Raises:
        CheckpointError: it cannot be read.
        SonoDistillError: it is of a training with another ``identity``.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises what its unpickler and zip reader happen to raise
        raise CheckpointError(
            f"cannot be read ({str(error).splitlines()[0]})", path=path, remedy="delete it to start anew"
        ) from error
    if state["identity"] != identity:
        changed = {
            name: (value, identity.get(name))
            for name, value in state["identity"].items()
            if value != identity.get(name)
        }
        changed |= {name: (None, value) for name, value in identity.items() if name not in state["identity"]}
        raise SonoDistillError(
            f"this training was started with other settings (before, now): {changed}",
            path=path,
            remedy="use the same settings to go on, or another output folder to start anew",
        )
    return state


def require_room(folder: Path, state: Mapping[str, Any]) -> None:
    """Raise CheckpointError when the checkpoints of this training will not fit on the disk of ``folder``."""
    needed = _ROOM * _bytes(state)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{free / 2**20:,.0f} MB are free where the checkpoints go, which take {needed / 2**20:,.0f} MB",
            path=folder,
            remedy="make room, or choose another output folder",
        )


def _bytes(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, (list, tuple)) else 0
