"""How large a frame may be: what claims to be larger is damaged or means harm, and is refused before it is decoded."""

from __future__ import annotations

from pathlib import Path

from sonodistill.errors import UnreadableFileError

MAX_SIDE = 16384
# Eight times a frame of 4K; each costs some twenty bytes of memory on its way.
MAX_PIXELS = 1 << 26


def check_size(rows: int, columns: int, path: Path) -> None:
    """Raise UnreadableFileError for a frame that no scanner makes, or that has no pixels."""
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE and rows * columns <= MAX_PIXELS):
        raise UnreadableFileError(f"the header states {rows} rows and {columns} columns", path=path)
