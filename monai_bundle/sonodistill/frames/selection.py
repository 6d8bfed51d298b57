"""Which frames of a source are wanted, in its own order."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from sonodistill.errors import UnreadableFileError


def selected(only: Collection[int] | None, count: int, path: Path) -> Iterator[int]:
    """The indices of ``only`` that a source of ``count`` frames holds, in order and each once; all when it is None.

    Errors: UnreadableFileError after the last of them, when ``only`` has others.
    """
    if only is None:
        yield from range(count)
        return
    wanted = sorted({int(index) for index in only})
    yield from (index for index in wanted if 0 <= index < count)
    check_held(wanted, count, path)


def check_held(wanted: Collection[int], count: int, path: Path) -> None:
    """Raise UnreadableFileError when an index of ``wanted`` lies outside a source of ``count`` frames."""
    for index in sorted(wanted):
        if not 0 <= index < count:
            held = f", and the file holds {count}" if index >= count else ""
            raise UnreadableFileError(f"has no frame {index}", path=path, remedy=f"frames count from 0{held}")
