"""Decoded frames of files: DICOM by a process that a hostile file may crash; the latest ones from memory."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sonodistill.annotate.errors import ConflictError
from sonodistill.annotate.studies.file_index import Known
from sonodistill.errors import SonoDistillError
from sonodistill.frames import Frame, read
from sonodistill.frames.isolated import IsolatedReader
from sonodistill.frames.selection import check_held

_SECONDS = 60.0
# Frames of DICOM that are decoded while nobody else's are; many where each run decodes those before it again.
_BATCH, _LONG_BATCH = 16, 128
# What is kept around a frame of a video, whose decoding passes by the frames before it.
_BEFORE, _AFTER = 8, 24
_LOCKS = 16


class FrameSource:
    """Reads frames in any thread.

    Args:
        cache_bytes: of decoded frames that are kept, the ones used least recently dropped first.
    """

    def __init__(self, cache_bytes: int) -> None:
        self._cache = FrameCache(cache_bytes)
        # Single frames, which people wait for, do not queue behind files that are read as a whole.
        self._single, self._whole = _Serial(), _Serial()
        self._locks = [threading.Lock() for _ in range(_LOCKS)]

    def close(self) -> None:
        """End the processes that decode; a read in progress fails."""
        self._single.close()
        self._whole.close()

    def read(self, path: Path, known: Known, only: Collection[int] | None = None) -> Iterator[Frame]:
        """The frames of a file, as ``frames.read`` gives them; nothing is held between one ``next`` and another."""
        if known.kind != "dicom":
            yield from read(path, only=only)
            return
        wanted = range(known.frames) if only is None else sorted({int(index) for index in only})
        held = iter([index for index in wanted if 0 <= index < known.frames])
        while batch := list(itertools.islice(held, _LONG_BATCH if known.sequential else _BATCH)):
            yield from self._whole.read(path, batch)
        check_held(wanted, known.frames, path)

    def frame(self, id: str, path: Path, known: Known, index: int) -> Frame:
        """One frame, from memory where it was read lately; its array cannot be written to, and it has no colours.

        Args:
            id: of the item.
            path, known: its file, and what is known of it.
            index: of a frame that it has.
        """
        key = (id, known.stamp, index)
        # Two that want the same frame, or two of one video, do not decode it twice.
        with self._locks[hash(id) % _LOCKS]:
            if (found := self._cache.get(key)) is not None:
                return found
            around = range(max(0, index - _BEFORE), min(known.frames, index + _AFTER))
            for frame in self._decoded(path, known, index, around if known.sequential else (index,)):
                kept = replace(frame, colour=None)
                self._cache.put((id, known.stamp, frame.index), kept)
                found = kept if frame.index == index else found
            if found is None:
                raise SonoDistillError(f"frame {index} was not decoded", path=path)
            self._cache.put(key, found)
            return found

    def forget(self, id: str) -> None:
        """Drop what is kept of an item."""
        self._cache.forget(id)

    def _decoded(self, path: Path, known: Known, index: int, wanted: Sequence[int]) -> Iterator[Frame]:
        """Those wanted; an error of those after ``index`` is not raised."""
        frames = self._single.read(path, wanted) if known.kind == "dicom" else read(path, only=wanted)
        last = -1
        try:
            for frame in frames:
                last = frame.index
                yield frame
        except SonoDistillError:
            if last < index:
                raise


class FrameCache:
    """Frames by (item, stamp, index), of so many bytes in all."""

    def __init__(self, limit: int) -> None:
        self._limit, self.held = limit, 0
        self._frames: OrderedDict[tuple[str, str, int], Frame] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str, int]) -> Frame | None:
        """The frame, which becomes the last one to be dropped."""
        with self._lock:
            if key in self._frames:
                self._frames.move_to_end(key)
            return self._frames.get(key)

    def put(self, key: tuple[str, str, int], frame: Frame) -> None:
        """Keep a frame, and drop others until all fit."""
        frame.image.setflags(write=False)  # every thread is handed the same array
        with self._lock:
            self._drop(key)
            self._frames[key] = frame
            self.held += frame.image.nbytes
            while self.held > self._limit:
                self._drop(next(iter(self._frames)))

    def forget(self, id: str) -> None:
        """Drop the frames of an item."""
        with self._lock:
            for key in [key for key in self._frames if key[0] == id]:
                self._drop(key)

    def _drop(self, key: tuple[str, str, int]) -> None:
        if (frame := self._frames.pop(key, None)) is not None:
            self.held -= frame.image.nbytes


class _Serial:
    """An ``IsolatedReader``, started when it is needed, that threads take turns with."""

    def __init__(self) -> None:
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._reader: IsolatedReader | None = None
        self._closed = False

    def read(self, path: Path, only: Sequence[int]) -> Iterator[Frame]:
        """The frames, all decoded before the first is given; an error comes after the frames before it."""
        frames: list[Frame] = []
        failed = None
        with self._turn:
            try:
                for frame in self._started().read(path, only=only):
                    frames.append(frame)
            except SonoDistillError as error:
                failed = error
            except RuntimeError as error:  # the reader is closed
                raise ConflictError("the catalogue is closed") from error
        yield from frames
        if failed is not None:
            raise failed

    def close(self) -> None:
        with self._lock:
            self._closed, reader = True, self._reader
        if reader is not None:
            reader.close()

    def _started(self) -> IsolatedReader:
        with self._lock:
            if self._closed:
                raise ConflictError("the catalogue is closed")
            if self._reader is None:
                self._reader = IsolatedReader(seconds=_SECONDS)
            return self._reader
