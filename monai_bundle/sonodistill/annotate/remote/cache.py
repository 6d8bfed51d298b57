"""Copies of what lies on a server, in a folder of a bounded size: those read longest ago go first."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sonodistill.files import atomic_path

_ROOM = 0.9
_STALE_SECONDS = 86_400


class FileCache:
    """Files by name, each whole or not there. Safe for threads, and for several processes with one folder.

    Args:
        folder: made if need be, for this user alone.
        max_bytes: of all files together; one that is larger stays until the next one comes.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder, self.max_bytes = folder, max_bytes
        self._changed = threading.Condition()
        self._arriving: set[str] = set()
        self._pinned: Counter[str] = Counter()
        self._bytes = sum(size for _, size, _ in self._files())
        for left in folder.glob(".*.tmp"):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                left.unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Where a file lies, or would."""
        return self.folder / f"{name}.dcm"

    @contextmanager
    def held(self, name: str, fetch: Callable[[Path], None]) -> Iterator[Path]:
        """The file, which stays for the block; ``fetch`` writes it to a path where it is not there.

        Whoever wants a file that is being fetched waits for it. Errors: those of ``fetch``.
        """
        path = self.path(name)
        with self._changed:
            while name in self._arriving:
                self._changed.wait()
            here = path.is_file()
            if not here:
                self._arriving.add(name)
            self._pinned[name] += 1
        try:
            if here:
                os.utime(path)
            else:
                self._add(name, path, fetch)
            yield path
        finally:
            with self._changed:
                self._pinned[name] -= 1
                self._pinned += Counter()

    def _add(self, name: str, path: Path, fetch: Callable[[Path], None]) -> None:
        try:
            with atomic_path(path) as temporary:
                fetch(temporary)
                size = temporary.stat().st_size
        finally:
            with self._changed:
                self._arriving.discard(name)
                self._changed.notify_all()
        with self._changed:
            self._bytes += size
            if self._bytes > self.max_bytes:
                self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._files())
        self._bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._bytes <= _ROOM * self.max_bytes:
                return
            if path.stem not in self._pinned:
                path.unlink(missing_ok=True)
                self._bytes -= size

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """(time of the last reading, bytes, path) of each file."""
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(".dcm"):
                    try:
                        found = entry.stat()
                    except FileNotFoundError:  # another process made room
                        continue
                    yield found.st_mtime, found.st_size, Path(entry.path)
