"""Encapsulated pixel data (PS3.5 A.4): its frames one at a time, or the one video in it as a seekable stream."""

from __future__ import annotations

import io
import itertools
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, parse_basic_offsets, parse_fragments

Table = tuple[list[int], list[int]]


class _Fragments(io.RawIOBase):
    """The fragments of an encapsulated stream as one seekable file, without copying them into memory."""

    def __init__(self, file: BinaryIO, spans: list[tuple[int, int]]) -> None:
        self._file, self._spans, self._at = file, spans, 0
        self._size = sum(length for _, length in spans)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view, base = memoryview(buffer), 0
        for start, length in self._spans:
            if self._at < base + length:
                self._file.seek(start + self._at - base)
                data = self._file.read(min(len(view), base + length - self._at))
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
            base += length
        return 0


def encapsulated_stream(file: BinaryIO) -> BinaryIO:
    """The stream that ``file``, positioned at its pixel data's value, holds cut into fragments; nothing is copied."""
    parse_basic_offsets(file)
    _, starts = parse_fragments(file)
    spans = []
    for start in starts:
        # parse_fragments gives where each item starts; its value follows a tag and a length of 4 bytes each.
        file.seek(start + 4)
        spans.append((start + 8, int.from_bytes(file.read(4), "little")))
    return io.BufferedReader(_Fragments(file, spans))  # type: ignore[return-value]


def frame_table(file: BinaryIO, frames: int, ds: Dataset) -> Table | tuple[bytes, bytes] | None:
    """Where each frame lies: (offsets from the first item, lengths), the form of an Extended Offset Table.

    As many fragments as frames are one fragment a frame, whatever the file's own tables say. Else it is the file's
    Extended Offset Table, or None where there is none and the frames are to be searched for.

    Args:
        file: positioned at its pixel data's value; left anywhere.
        frames: as the header states them.
        ds: the header.
    """
    parse_basic_offsets(file)
    count, starts = parse_fragments(file)
    if count == frames:
        first = file.tell()
        file.seek(starts[-1] + 4)
        last = int.from_bytes(file.read(4), "little")
        lengths = [after - start - 8 for start, after in itertools.pairwise(starts)]
        return [start - first for start in starts], [*lengths, last]
    offsets = ds.get("ExtendedOffsetTable"), ds.get("ExtendedOffsetTableLengths")
    return offsets if offsets[0] and offsets[1] else None


def encoded_frames(
    file: BinaryIO, frames: int, table: Table | tuple[bytes, bytes] | None, indices: Collection[int] | None
) -> Iterator[bytes]:
    """The encoded frames of ``indices``, which are in order; all when it is None. Others are not read, given a table.

    Args:
        file: positioned at its pixel data's value.
        frames: as the header states them.
        table: what ``frame_table`` says.
        indices: frames wanted, each less than ``frames``.
    """
    encoded = generate_frames(file, number_of_frames=frames, extended_offsets=table)
    if indices is None:
        yield from encoded
    elif table is not None and isinstance(table[0], list):
        yield from generate_frames(
            file, extended_offsets=([table[0][i] for i in indices], [int(table[1][i]) for i in indices])
        )
    else:
        wanted, last = set(indices), max(indices, default=-1)
        yield from (data for index, data in enumerate(itertools.islice(encoded, last + 1)) if index in wanted)
