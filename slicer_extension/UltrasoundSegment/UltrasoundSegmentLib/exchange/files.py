"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path

from UltrasoundSegmentLib.exchange.errors import ExchangeError


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, with its folder; another program sees the old one or the new one, never half of it.

    Errors: ExchangeError when the disk does not let it.
    """
    temporary = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ExchangeError(f"“{path}” cannot be written ({error.strerror or error}): choose another place.") from None


def read_bytes(path: Path, most: int) -> bytes:
    """All of a file of ``most`` bytes at most. Errors: ExchangeError."""
    try:
        size = path.stat().st_size
        if size > most:
            raise ExchangeError(f"“{path.name}” has {size >> 20} MB, more than the {most >> 20} that are read.")
        return path.read_bytes()
    except OSError as error:
        raise ExchangeError(f"“{path.name}” cannot be read ({error.strerror or error}).") from None
