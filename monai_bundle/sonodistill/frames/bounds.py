"""How large a frame and a header may be: what is larger is damaged or means harm, and is refused before decoding."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from sonodistill.errors import UnreadableFileError

MAX_SIDE = 16384
# Eight times a frame of 4K; each costs some twenty bytes of memory on its way.
MAX_PIXELS = 1 << 26
# Elements of a header, or fragments beyond one a frame; scanners write some thousands at most.
MAX_READS = 1 << 17
# Attributes that are read: the longest are offset tables and colour tables.
_LONGEST = 16 << 20


def check_size(rows: int, columns: int, path: Path) -> None:
    """Raise UnreadableFileError for a frame that no scanner makes, or that has no pixels."""
    if not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE and rows * columns <= MAX_PIXELS):
        raise UnreadableFileError(f"the header states {rows} rows and {columns} columns", path=path)


class BoundedFile:
    """What a parser may read of a file: so many pieces, each of 16 MiB at most; then OSError, and ``exceeded`` is set.

    A header of a million elements, or one element that claims four gigabytes, would keep or kill the process.
    """

    def __init__(self, file: BinaryIO, reads: int) -> None:
        self._file, self._left, self.exceeded = file, reads, False
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        self._left -= 1
        if self._left < 0 or not 0 <= size <= _LONGEST:
            self.exceeded = True
            raise OSError("more than a header holds")
        return self._file.read(size)
