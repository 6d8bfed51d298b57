"""Files that were made for clients to download, kept for the next who asks, within bounds."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

_RECENT = 120.0


class Shelf:
    """A folder of files that can be made again.

    Args:
        folder: theirs alone.
        most_bytes, most_files: kept; what was used least recently goes first, what was used just now stays.
    """

    def __init__(self, folder: Path, *, most_bytes: int = 2 << 30, most_files: int = 4000) -> None:
        self.folder, self.most_bytes, self.most_files = folder, most_bytes, most_files
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock, self._making = threading.Lock(), tuple(threading.Lock() for _ in range(16))
        self._kept: OrderedDict[str, tuple[int, float]] = OrderedDict()
        for home in sorted((one for one in folder.iterdir() if one.is_dir()), key=lambda one: one.stat().st_mtime):
            self._kept[home.name] = (sum(file.stat().st_size for file in home.iterdir() if file.is_file()), 0.0)

    def file(self, key: str, name: str, make: Callable[[Path], None]) -> Path:
        """The file of that key, made unless it is there.

        Args:
            key: of its content: it changes when the content does.
            name: of the file; an id and a suffix.
            make: writes it, at a path of that name.
        """
        place = hashlib.sha256(f"{key}\0{name}".encode()).hexdigest()[:32]
        path = self.folder / place / name
        with self._making[int(place[0], 16)]:
            if not path.is_file():
                path.parent.mkdir(exist_ok=True, mode=0o700)
                with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as folder:
                    make(Path(folder) / name)
                    (Path(folder) / name).replace(path)
            self._note(place, path.stat().st_size)
        return path

    def _note(self, place: str, size: int) -> None:
        now = time.monotonic()
        with self._lock:
            self._kept[place] = (size, now)
            self._kept.move_to_end(place)
            held = sum(size for size, _ in self._kept.values())
            while held > self.most_bytes or len(self._kept) > self.most_files:
                oldest, (size, used) = next(iter(self._kept.items()))
                if used and now - used < _RECENT:  # may be on its way to a client
                    break
                del self._kept[oldest]
                held -= size
                shutil.rmtree(self.folder / oldest, ignore_errors=True)
