"""What a training has of the machine: freed memory that is kept for the next step, and torch's threads."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_NO_MMAP, _TRIM_LATE = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, and M_TRIM_THRESHOLD in bytes, of malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep up to 2 GB of freed memory, for as long as this process lives; False without glibc.

    Otherwise every large tensor of every step is fresh memory, which the system has to clear and map in page by page.
    """
    if not sys.platform.startswith("linux"):
        return False
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)
    return allocator is not None and all(allocator(*option) for option in (_NO_MMAP, _TRIM_LATE))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, whatever becomes of them meanwhile; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
