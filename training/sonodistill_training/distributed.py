"""One process or many: reads what torchrun says and joins the process group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class World:
    """This process's place: ``rank`` of ``size`` processes, computing on ``device``."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Rank 0 writes files, logs and progress."""
        return self.rank == 0


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """``auto`` is CUDA when there is one (the local rank's), else the CPU."""
    if isinstance(name, torch.device) or name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


@contextmanager
def world(device: str | torch.device = "auto") -> Iterator[World]:
    """Join the process group that torchrun announces in the environment (gloo on CPU, NCCL on CUDA).

    A process started without torchrun is a world of one. A group that is there already is used and left alone.
    """
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    joins = "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized()
    if joins:
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        if dist.is_initialized():
            yield World(rank(), dist.get_world_size(), chosen)
        else:
            yield World(0, 1, chosen)
    finally:
        if joins:
            dist.destroy_process_group()


def rank() -> int:
    """This process's rank in the group that is joined, 0 without one. Rank 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """Number of processes in the group that is joined, 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def largest(value: int, place: World) -> int:
    """The largest value of any process; all must call it, so that they stop at the same step, say."""
    if place.size == 1:
        return value
    found = torch.tensor(value, device=place.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found.item())
