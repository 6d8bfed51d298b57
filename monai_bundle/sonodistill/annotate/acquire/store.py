"""Embeddings on disk: rows that are only ever appended, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from sonodistill.annotate.errors import ConflictError, StorageError
from sonodistill.annotate.ids import FrameId
from sonodistill.files import write_text

Halfs = NDArray[np.float16]
Key = tuple[FrameId, str]
"""A frame, and the stamp of its file: it changes when the file is replaced."""

_META, _INDEX, _VECTORS, _MAPS = "meta.json", "index.jsonl", "vectors.f16", "maps.f16"
_VERSION = 1
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a row: a vector of ``dims`` numbers and a map of ``cells`` times ``channels``."""

    dims: int
    cells: int
    channels: int


def kept_shape(folder: Path) -> Shape | None:
    """The shape of the rows that a folder holds; None where it holds none."""
    meta = _read(folder / _META)
    try:
        return Shape(int(meta["dims"]), int(meta["cells"]), int(meta["channels"])) if meta else None
    except (KeyError, TypeError, ValueError):
        return None


class EmbeddingStore:
    """Embeddings of frames, float16, in a folder of one process.

    ``vectors.f16`` and ``maps.f16`` hold rows of one size, ``index.jsonl`` a line ``[item, frame, stamp]`` for each.
    The lines are written when the rows are on disk, so that what they name is whole; rows and half lines behind the
    last whole line, of a process that was killed, are cut off when the store is opened.

    Args:
        folder: made where it does not exist. One of rows of another shape is emptied: all of it can be computed again.
        shape: of a row.

    Attributes:
        keys: frame and stamp of each row, in order.
        rows: frame -> its row; of several rows of one frame the last counts.

    Errors: ConflictError when another process has it open; StorageError when the disk fails.
    """

    def __init__(self, folder: str | Path, shape: Shape) -> None:
        self.folder, self.shape = Path(folder), shape
        self._widths = (2 * shape.dims, 2 * shape.cells * shape.channels)
        self._lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire()
            self._prepare()
        except Timeout as error:
            raise ConflictError("another process keeps embeddings here", remedy="stop the other server") from error
        except OSError as error:
            self._lock.release()
            raise _failed(self.folder, error) from error

    def __len__(self) -> int:
        return len(self.keys)

    def close(self) -> None:
        """Close the files and let another process have them."""
        for file in self._files:
            file.close()
        self._lock.release()

    def append(self, keys: Sequence[Key], vectors: NDArray[np.floating], maps: NDArray[np.floating]) -> None:
        """Add rows: on disk when this returns.

        Args:
            keys: frame and stamp of each.
            vectors: (n, dims).
            maps: (n, cells, channels).

        Errors: StorageError; the store is then as it was before.
        """
        rows = [_halfs(vectors), _halfs(maps.reshape(len(keys), -1))]
        lines = "".join(json.dumps([key.item, key.index, stamp]) + "\n" for key, stamp in keys).encode()
        try:
            for file, part in zip(self._files, [*(part.tobytes() for part in rows), lines], strict=True):
                _write(file, part)
        except OSError as error:
            self._cut(len(self.keys))
            raise _failed(self.folder, error) from error
        self._grow(rows[0])
        self.rows.update((key, len(self.keys) + at) for at, (key, _) in enumerate(keys))
        self.keys.extend(keys)
        self._index_bytes += len(lines)

    def vectors(self) -> Halfs:
        """(N, dims) float16, of all rows, in memory."""
        return self._vectors[: len(self.keys)]

    def maps(self, rows: Sequence[int] | NDArray[np.int64]) -> Halfs:
        """(n, cells, channels) float16 of some rows, read from the file."""
        mapped = np.memmap(
            self.folder / _MAPS,
            np.float16,
            "r",
            shape=(len(self.keys), self.shape.cells, self.shape.channels),
        )
        return np.array(mapped[np.asarray(rows, np.int64)])

    def _prepare(self) -> None:
        """Open the files and cut off what was left half written."""
        meta: dict[str, Any] = {"version": _VERSION, **asdict(self.shape)}
        if _read(self.folder / _META) != meta:
            for name in (_INDEX, _MAPS, _VECTORS):
                (self.folder / name).unlink(missing_ok=True)
            write_text(self.folder / _META, json.dumps(meta))
        os.utime(self.folder)  # when it was last used
        self._files = [(self.folder / name).open("a+b", buffering=0) for name in (_VECTORS, _MAPS, _INDEX)]
        lines = self._whole_lines()
        sizes = [os.fstat(file.fileno()).st_size for file in self._files]
        whole = min(len(lines), *(size // width for size, width in zip(sizes, self._widths, strict=False)))
        self.keys: list[Key] = [key for key, _ in lines[:whole]]
        self.rows: dict[FrameId, int] = {key: row for row, (key, _) in enumerate(self.keys)}
        self._index_bytes = lines[whole - 1][1] if whole else 0
        self._cut(whole)
        self._files[0].seek(0)
        read = np.frombuffer(self._files[0].read(whole * self._widths[0]), np.float16)
        self._vectors = read.reshape(whole, self.shape.dims).copy()

    def _whole_lines(self) -> list[tuple[Key, int]]:
        """Key of each line up to the first that is none, and where the line ends."""
        self._files[2].seek(0)
        found, end = [], 0
        for line in self._files[2].read().splitlines(keepends=True):
            end += len(line)
            try:
                item, frame, stamp = json.loads(line)
                key = FrameId(str(item), int(frame)), str(stamp)
            except (ValueError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            found.append((key, end))
        return found

    def _cut(self, rows: int) -> None:
        lengths = [*(rows * width for width in self._widths), self._index_bytes]
        for file, length in zip(self._files, lengths, strict=True):
            file.truncate(length)

    def _grow(self, rows: Halfs) -> None:
        """Room is doubled when it is needed, in a new array: views that were handed out stay as they are."""
        used, needed = len(self.keys), len(self.keys) + len(rows)
        if needed > len(self._vectors):
            larger = np.empty((max(needed, 2 * used, 256), self.shape.dims), np.float16)
            larger[:used] = self._vectors[:used]
            self._vectors = larger
        self._vectors[used:needed] = rows


def _write(file: FileIO, content: bytes) -> None:
    """Without a buffer, which would try again what has failed."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    os.fsync(file.fileno())


def _halfs(values: NDArray[np.floating]) -> Halfs:
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _failed(folder: Path, error: OSError) -> StorageError:
    said = error.strerror or str(error)
    return StorageError(
        f"embeddings cannot be kept ({said})", path=folder, remedy="look at the disk's space and rights"
    )
