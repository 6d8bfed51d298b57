"""Keep the memory that a training step frees for the next one."""

from __future__ import annotations

import ctypes
import sys

_NO_MMAP, _TRIM_LATE = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, and M_TRIM_THRESHOLD in bytes, of malloc.h


def keep_freed_memory() -> bool:
    """Let glibc keep up to 2 GB of freed memory, for as long as this process lives; False without glibc.

    Otherwise every large tensor of every step is fresh memory, which the system has to clear and map in page by page.
    """
    if not sys.platform.startswith("linux"):
        return False
    allocator = getattr(ctypes.CDLL(None), "mallopt", None)
    return allocator is not None and all(allocator(*option) for option in (_NO_MMAP, _TRIM_LATE))
