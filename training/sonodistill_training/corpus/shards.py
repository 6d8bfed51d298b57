"""A corpus on disk: gray frames in Arrow IPC files ("shards") beside a Parquet manifest; its one writer and reader.

A frame of a mapped shard is a view of the page cache, and `pyarrow.fs` streams the same file from S3, Google Cloud
Storage, Azure or HDFS. Frames are not compressed: they are read far more often than written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sonodistill.errors import EmptyInputError, UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill_training.corpus.blocks import BLOCK_ROWS, MappedBlocks, open_store, pack_mask
from sonodistill_training.corpus.manifest import KEPT, MANIFEST, SCHEMA_VERSION

SHARDS = "shards"
FIRST_VERSION = ("frames.parquet", "frames.bin")
"""What a frame pack of version 1 consisted of."""

SHARD_SCHEMA = pa.schema(
    [
        pa.field("pixels", pa.large_binary(), nullable=False),  # height x width gray values, row after row
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("overlay", pa.binary()),  # zlib of the packed bits of the overlay's mask; null = nothing drawn over
    ],
    metadata={"format": "sonodistill frames", "schema_version": str(SCHEMA_VERSION)},
)
_Row = tuple[bytes, int, int, bytes | None]


class ShardWriter:
    """Writes a shard, frame by frame. The file appears, whole, when the ``with`` block ends well.

    ``mark()`` settles what was appended so far and ``rollback()`` drops what came after the last mark: nothing of a
    source that fails midway is written. Frames that are not settled wait in memory.

    >>> with ShardWriter(path) as writer:
    ...     row = writer.append(gray)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._waiting: list[_Row] = []
        self._written = self._settled = 0
        self._stack = ExitStack()

    def __enter__(self) -> ShardWriter:
        temporary = self._stack.enter_context(atomic_path(self.path))
        self._file = self._stack.enter_context(pa.ipc.new_file(str(temporary), SHARD_SCHEMA))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.mark()
            self._write(self._waiting)
        self._stack.__exit__(kind, error, trace)

    def __len__(self) -> int:
        return self._written + len(self._waiting)

    def append(self, gray: NDArray[np.uint8], overlay: NDArray[np.bool_] | None = None) -> int:
        """Add an (H, W) uint8 frame and, if it was drawn over, the (H, W) mask of where. Returns its row."""
        if gray.ndim != 2 or gray.dtype != np.uint8:
            raise ValueError(f"a frame is (H, W) uint8, not {gray.shape} {gray.dtype}")
        if overlay is not None and overlay.shape != gray.shape:
            raise ValueError(f"a mask of {overlay.shape} for a frame of {gray.shape}")
        packed = None if overlay is None or not overlay.any() else pack_mask(overlay)
        self._waiting.append((gray.tobytes(), *gray.shape, packed))
        return len(self) - 1

    def mark(self) -> None:
        """Settle every frame so far."""
        self._settled = len(self)
        while len(self._waiting) >= BLOCK_ROWS:
            self._write(self._waiting[:BLOCK_ROWS])
            del self._waiting[:BLOCK_ROWS]

    def rollback(self) -> None:
        """Drop the frames that were appended since the last mark."""
        del self._waiting[self._settled - self._written :]

    def _write(self, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        values = zip(*rows, strict=True)
        columns = [pa.array(column, field.type) for column, field in zip(values, SHARD_SCHEMA, strict=True)]
        self._file.write_batch(pa.record_batch(columns, schema=SHARD_SCHEMA))
        self._written += len(rows)


class Corpus:
    """The kept frames of a corpus, in the order of its manifest. ``corpus[i]`` is a read-only (H, W) uint8 view.

    A path is memory-mapped: nothing is decoded or copied. A URI (``s3://bucket/corpus``, ``gs://``, ``abfs://``,
    ``hdfs://``, and ``file://`` for network disks that map badly) is streamed in blocks of 64 frames, one range request
    each. Shards are opened when they are first needed, in each process anew; a streamed corpus does not survive a
    fork (it says so), a pickled one reads on.

    Args:
        folder: where manifest.parquet lies.
        dataset: only the frames of this data set, or of these.
        split: only the frames of this split.
        cached_blocks: how many blocks of a streamed corpus stay in memory, 4 to 6 MB each.

    Attributes:
        sha256: of the frames' content; that of a part is derived from it and what was asked for.
        short_side: pixels, of frames that were larger.
        header: what else the manifest's metadata say.
        datasets: ((N,) codes, names): ``names[codes[i]]`` is the data set of frame i.
        blocks: (N,) the block that each frame lies in; frames of a block come with one request.

    Raises:
        EmptyInputError: it is no corpus, or holds no such frame.
        UnreadableFileError: it is of another version, or a shard is missing or shortened.
    """

    def __init__(
        self,
        folder: str | Path,
        dataset: str | Collection[str] | None = None,
        split: str | None = None,
        cached_blocks: int = 64,
    ) -> None:
        self.location = str(folder)
        self._part: dict[str, list[str]] = {}
        if dataset is not None:
            self._part["dataset"] = sorted([dataset] if isinstance(dataset, str) else dataset)
        if split is not None:
            self._part["split"] = [split]
        self._store = open_store(self.location, cached_blocks)
        table, self.header = self._read(["dataset", "shard", "row"])
        if not len(table):
            asked = "; ".join(f"{name} {', '.join(values)}" for name, values in self._part.items())
            raise EmptyInputError("holds no kept frame", path=self.location, remedy=f"asked for: {asked or 'any'}")
        self.short_side = int(self.header["short_side"])
        self.sha256 = self.header["sha256"]
        if self._part:
            self.sha256 = hashlib.sha256(f"{self.sha256} {self._part}".encode()).hexdigest()
        self.datasets = _codes(table["dataset"])
        codes, shards = _codes(table["shard"])
        rows = table["row"].to_numpy()
        numbers, blocks = np.unique(codes.astype(np.int64) << 32 | rows // BLOCK_ROWS, return_inverse=True)
        self._keys = [(shards[number >> 32], number & 0xFFFFFFFF) for number in numbers.tolist()]
        self.blocks: NDArray[np.int32] = blocks.astype(np.int32)
        self._rows = (rows % BLOCK_ROWS).astype(np.uint8)
        if isinstance(self._store, MappedBlocks):
            self._store.check(shards)

    @property
    def streamed(self) -> bool:
        """Whether frames come over a network, in blocks."""
        return not isinstance(self._store, MappedBlocks)

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self._store[self._keys[self.blocks.item(index)]].frame(self._rows.item(index))

    def take(self, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """The frames of these indices; blocks of a stream that are not in memory yet are fetched side by side.

        Raises:
            UnreadableFileError: a shard vanished or was cut short since the corpus was opened.
        """
        self._store.fetch([self._keys[self.blocks.item(index)] for index in indices])
        return [self[index] for index in indices]

    def overlay(self, index: int) -> NDArray[np.bool_] | None:
        """(H, W) where the source was drawn over and has been filled in; None = nowhere."""
        return self._store[self._keys[self.blocks.item(index)]].overlay(self._rows.item(index))

    def column(self, name: str) -> list[Any]:
        """A column of the manifest, a value a frame."""
        return self._read([name])[0][name].to_pylist()

    def _read(self, columns: list[str]) -> tuple[pa.Table, dict[str, str]]:
        """The kept rows of some columns of the manifest, null where it has no such column, and its header."""
        manifest = self._open_manifest()
        header = {key.decode(): value.decode() for key, value in (manifest.schema_arrow.metadata or {}).items()}
        version = header.get("schema_version", "?")
        if version != str(SCHEMA_VERSION):
            raise _another_version(self.location, version)
        wanted = ["status", *self._part, *columns]
        table = manifest.read([name for name in dict.fromkeys(wanted) if name in manifest.schema_arrow.names])
        for name in set(columns) - set(table.column_names):
            table = table.append_column(name, pa.nulls(len(table), pa.string()))
        chosen = pc.equal(table["status"], KEPT)
        for name, values in self._part.items():
            chosen = pc.and_(chosen, pc.is_in(table[name], pa.array(values)))
        return table.filter(chosen).select(columns), header

    def _open_manifest(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self._store.open(MANIFEST))
        except FileNotFoundError:
            if "://" not in self.location and (Path(self.location) / FIRST_VERSION[0]).is_file():
                raise _another_version(self.location, "1") from None
            raise EmptyInputError(
                f"not a corpus: no {MANIFEST} in it", path=self.location, remedy="build one with `sonodistill pack`"
            ) from None
        except (OSError, pa.ArrowException) as error:
            raise UnreadableFileError(
                f"the {MANIFEST} cannot be read ({error})", path=self.location, remedy="build the corpus anew"
            ) from error


def _codes(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """A string column as numbers, and the names that they stand for in the order of their first use."""
    encoded = pc.fill_null(column, "").combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _another_version(location: str, version: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"a frame pack or corpus of version {version}; this release reads {SCHEMA_VERSION}",
        path=location,
        remedy="make it anew from its sources with `sonodistill pack` or `sonodistill corpus build`",
    )
