"""The video inside a DICOM file (PS3.5 A.4.5 on) as one seekable binary stream."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from pydicom.encaps import parse_basic_offsets, parse_fragments


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
