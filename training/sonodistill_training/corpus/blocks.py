"""Where the blocks of a corpus come from: files mapped into memory, or range requests to object storage."""

from __future__ import annotations

import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.fs
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError, UnreadableFileError

BLOCK_ROWS = 64
"""Frames of a block (an Arrow record batch): 4 to 6 MB, so that a range request is worth its latency."""
Key = tuple[str, int]
"""(shard, number of the block in it)."""

_MAGIC = b"ARROW1"
_READS_AT_ONCE = 16


class Block:
    """The frames of one record batch, as views of its buffers."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        _, starts, pixels = batch.column(0).buffers()
        self._pixels = np.frombuffer(pixels, np.uint8)
        self._starts = np.frombuffer(starts, np.int64)
        self._heights, self._widths = batch.column(1).to_numpy(), batch.column(2).to_numpy()
        self._overlay = batch.column(3)

    def frame(self, row: int) -> NDArray[np.uint8]:
        """(H, W), read-only."""
        pixels = self._pixels[self._starts.item(row) : self._starts.item(row + 1)]
        return pixels.reshape(self._heights.item(row), self._widths.item(row))

    def overlay(self, row: int) -> NDArray[np.bool_] | None:
        """(H, W), or None where nothing was drawn over."""
        packed = self._overlay[row].as_py()
        return None if packed is None else unpack_mask(packed, self.frame(row).shape)


class BlockStore(Protocol):
    """Blocks by key. Pickling and forking leave open files behind; they are opened again when needed."""

    def __getitem__(self, key: Key) -> Block:
        """The block, from memory if it is there."""

    def fetch(self, keys: Iterable[Key]) -> None:
        """Have these blocks at hand, whole."""

    def open(self, name: str) -> pa.NativeFile:
        """A file of the corpus for reading."""


def open_store(location: str, cached_blocks: int) -> BlockStore:
    """Mapped for a path, streamed for a URI."""
    return StreamedBlocks(location, cached_blocks) if "://" in location else MappedBlocks(location)


class MappedBlocks:
    """Blocks of local files: descriptors of pages that the operating system keeps or drops as it sees fit."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self._shards: dict[str, pa.ipc.RecordBatchFileReader] = {}
        self._files: dict[str, pa.MemoryMappedFile] = {}
        self._blocks: dict[Key, Block] = {}

    def __getitem__(self, key: Key) -> Block:
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = self._load(*key)
        return block

    def fetch(self, keys: Iterable[Key]) -> None:
        """Look whether the shards of these blocks still are what was mapped; pages come when they are touched.

        The system kills a process (SIGBUS) that touches a page past the end of a file which was cut since it was
        mapped. Only a cut in the moment between this look and the touch still does that.

        Raises:
            UnreadableFileError: a shard was cut short, or is gone.
        """
        for shard in {shard for shard, _ in keys} & self._files.keys():
            mapped = self._files[shard]
            try:
                status = os.fstat(mapped.fileno())
            except OSError as error:  # a network disk that is gone
                raise _broken(self.folder / shard, f"it can no longer be reached: {error.strerror}") from error
            if status.st_size < mapped.size():
                why = f"it was cut from {mapped.size():,} to {status.st_size:,} bytes while it was read"
                raise _broken(self.folder / shard, why)
            if not status.st_nlink and not (self.folder / shard).exists():  # some network disks count no links
                raise _broken(self.folder / shard, "it was removed while it was read")

    def open(self, name: str) -> pa.NativeFile:
        return pa.memory_map(str(self.folder / name))

    def check(self, shards: Collection[str]) -> None:
        """Every shard is there and ends as it should.

        Raises:
            UnreadableFileError: one is missing or shortened.
        """
        for name in shards:
            try:
                with (self.folder / name).open("rb") as file:
                    file.seek(-len(_MAGIC), os.SEEK_END)
                    whole = file.read() == _MAGIC
            except OSError:
                whole = False
            if not whole:
                raise _broken(self.folder / name, "missing, or not whole")

    def _load(self, shard: str, number: int) -> Block:
        try:
            if shard not in self._shards:
                file = self.open(shard)
                self._shards[shard] = pa.ipc.open_file(file)
                self._files[shard] = file
            return Block(self._shards[shard].get_batch(number))
        except FileNotFoundError as error:
            raise _broken(self.folder / shard, "it is missing") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _broken(self.folder / shard, str(error)) from error

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedBlocks, (str(self.folder),)


class StreamedBlocks:
    """Blocks of a URI that `pyarrow.fs` understands, fetched whole; the last ones used stay in memory.

    A shard costs two requests to open and each of its blocks one.
    """

    def __init__(self, uri: str, capacity: int) -> None:
        self.uri, self.capacity = uri, capacity
        self._process = os.getpid()
        self._filesystem, self._root = _filesystem(self.uri)
        self._blocks: OrderedDict[Key, Block] = OrderedDict()
        self._shards: dict[str, pa.ipc.RecordBatchFileReader] = {}
        self._lock, self._locks = threading.Lock(), dict[str, threading.Lock]()

    def __getitem__(self, key: Key) -> Block:
        self.fetch([key])
        return self._blocks[key]

    def fetch(self, keys: Iterable[Key]) -> None:
        if os.getpid() != self._process:
            self._refuse_fork()
        wanted = list(dict.fromkeys(keys))
        with self._lock:
            missing = [key for key in wanted if key not in self._blocks]
            if len(missing) > 1:
                with ThreadPoolExecutor(min(_READS_AT_ONCE, len(missing))) as pool:
                    loaded = list(pool.map(self._load, missing))
            else:
                loaded = [self._load(key) for key in missing]
            self._blocks.update(zip(missing, loaded, strict=True))
            for key in wanted:
                self._blocks.move_to_end(key)
            # What is asked for at once stays, however small the capacity.
            while len(self._blocks) > max(self.capacity, len(wanted)):
                self._blocks.popitem(last=False)

    def open(self, name: str) -> pa.NativeFile:
        return self._filesystem.open_input_file(f"{self._root}/{name}")

    def _load(self, key: Key) -> Block:
        shard, number = key
        try:
            # A reader is not made for several threads: only different shards are read side by side.
            with self._locks.setdefault(shard, threading.Lock()):
                if shard not in self._shards:
                    self._shards[shard] = pa.ipc.open_file(self.open(shard))
                return Block(self._shards[shard].get_batch(number))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _broken(f"{self._root}/{shard}", str(error)) from error

    def _refuse_fork(self) -> None:
        # The clients of object stores hold threads and locks that a forked process has no part in: it would hang.
        raise SonoDistillError(
            "a streamed corpus was opened in one process and read in its fork",
            path=self._root,
            remedy='start workers with multiprocessing_context="spawn"',
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamedBlocks, (self.uri, self.capacity)


def pack_mask(mask: NDArray[np.bool_]) -> bytes:
    """An (H, W) mask as zlib of its packed bits."""
    return zlib.compress(np.packbits(mask).tobytes())


def unpack_mask(packed: bytes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask that ``pack_mask`` packed."""
    bits = np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8), count=shape[0] * shape[1])
    return bits.reshape(shape).view(np.bool_)


def _filesystem(uri: str) -> tuple[pa.fs.FileSystem, str]:
    try:
        filesystem, root = pa.fs.FileSystem.from_uri(uri)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise SonoDistillError(f"{uri} cannot be opened ({error})", remedy="see pyarrow.fs for its URIs") from error
    return filesystem, root.rstrip("/")


def _broken(path: str | Path, why: str) -> UnreadableFileError:
    return UnreadableFileError(
        f"is no whole shard ({why})",
        path=path,
        remedy="fetch it again, or build the corpus anew; a training that is run again goes on from its checkpoint",
    )
