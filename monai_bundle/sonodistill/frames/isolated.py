"""DICOM files decoded in a process of their own, which a hostile one may crash, hang or fill with no harm to this."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from sonodistill.errors import SonoDistillError, UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.dicom import check_dicom, description
from sonodistill.frames.frame import Frame
from sonodistill.frames.isolated_process import Child, Exchange
from sonodistill.frames.selection import check_held, selected

_SMALLEST_MB = 512


class DecoderUnavailableError(SonoDistillError):
    """The process that decodes cannot be started: no fault of the file, which may be read another time."""


class IsolatedReader:
    """Reads DICOM files like ``frames.read``, but decodes in a child process with limits.

    The child is started ahead and serves one file after the other. One that crashes, is killed, hangs or answers with
    what it should not is an error of the file in hand; the next file gets a fresh child. The header is parsed and
    checked here (``check_dicom``), and size, time, scale and provenance of a frame come from it: the child only sends
    gray values, as many as this header says. There is no pickle between them.

    The child's limits: address space, processor time for each file, 64 open files, no writing to files, no core dump,
    no new privileges, an empty environment; it ends with its parent. Linux has all of them, macOS those it knows;
    Windows has none of it and is refused.

    Not safe against a file that takes the child over and waits there for the next one, but for ``files=1``.

    Args:
        memory_mb: address space of the child in MiB, its libraries (about 250) included; 512 or more.
        seconds: processor time a file may take, and time the caller may wait for it in all. The time that the caller
            lets the child wait does not count.
        files: files that a child serves before a fresh one takes its place, which is then already started.

    Attributes:
        pid: of the child that read last, or None.
        peak_mb: the most memory in MiB that any child has reported after a file.

    Errors: UnsupportedFormatError on Windows; ValueError for limits that nothing could be decoded in.
    """

    def __init__(self, *, memory_mb: int = 2048, seconds: float = 300, files: int = 200) -> None:
        if os.name != "posix":
            raise UnsupportedFormatError("reading in a limited process needs Linux or macOS")
        if memory_mb < _SMALLEST_MB or seconds <= 0 or files < 1:
            raise ValueError(f"memory_mb={memory_mb} (at least {_SMALLEST_MB}), seconds={seconds}, files={files}")
        self.memory_mb, self.seconds, self.files = memory_mb, seconds, files
        self.pid: int | None = None
        self.peak_mb = 0.0
        self._busy = self._closed = False
        self._child: Child | None = None
        # A child ends with the thread that started it (PR_SET_PDEATHSIG), so that thread lives as long as this reader.
        self._starter = ThreadPoolExecutor(1, "sonodistill-decoder")
        self._next: Future[Child] | None = None
        self._start_ahead()

    def __enter__(self) -> IsolatedReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child and the thread that starts it; a read in progress fails."""
        self._closed = True
        child, self._child = self._child, None
        if child is not None:
            # A thread that waits for it sees its end, and closes its pipes.
            child.process.kill() if self._busy else child.end()
        ahead, self._next = self._next, None
        if ahead is not None and not ahead.cancel():
            with contextlib.suppress(Exception):
                ahead.result().end()
        self._starter.shutdown()

    def read(self, path: str | Path, *, only: Collection[int] | None = None) -> Iterator[Frame]:
        """The frames that ``frames.read`` gives, in any thread, but one file at a time; ``colour`` is always None.

        The child is at most a few frames ahead. Leaving the iterator early ends the child, and a fresh one starts in
        the background: name the frames wanted in ``only`` where they are known.

        Errors: UnreadableFileError and UnsupportedFormatError as ``frames.read`` has them, the former also for a child
            that crashed, was killed, took too long or answered with what it should not; DecoderUnavailableError when no
            child can be started; RuntimeError when the reader is closed, or at another file.
        """
        path = Path(path)
        if self._closed or self._busy:
            raise RuntimeError("the reader is closed" if self._closed else "the reader is reading another file")
        self._busy = True
        try:
            if not path.is_file():
                raise UnreadableFileError("there is no such file", path=path)
            header = check_dicom(path)
            calibration, times, provenance = description(header, path)
            wanted = range(header.frames) if only is None else [*_held(only, header.frames)]
            child = self._take(path)
            exchange = Exchange(child, path, self.seconds, (header.rows, header.columns))
            try:
                exchange.ask(None if only is None else list(wanted))
                for index in wanted:
                    image = exchange.frame(index)
                    yield Frame(image, index, None if times is None else times[index], calibration, provenance)
                exchange.end()
            finally:
                self.peak_mb = max(self.peak_mb, exchange.peak_mb)
                self._give_back(child, sound=exchange.sound)
            check_held(only or (), header.frames, path)
        finally:
            self._busy = False

    def _start_ahead(self) -> None:
        if self._next is None and not self._closed:
            self._next = self._starter.submit(Child, self.memory_mb)

    def _take(self, path: Path) -> Child:
        """The child for the next file; the one after it is started ahead where this one is at its last."""
        if self._child is not None and not self._child.alive():
            self._child.end()
            self._child = None
        if self._child is None:
            self._start_ahead()
            ahead, self._next = self._next, None
            if ahead is None:
                raise RuntimeError("the reader is closed")
            try:
                self._child = ahead.result()
            except OSError as error:
                raise DecoderUnavailableError(
                    f"the process that decodes does not start ({error})",
                    path=path,
                    remedy="look at the memory that is free, and at the limits that are set",
                ) from error
        self.pid = self._child.process.pid
        self._child.served += 1
        if self._child.served >= self.files:
            self._start_ahead()
        return self._child

    def _give_back(self, child: Child, *, sound: bool) -> None:
        if sound and child.served < self.files and not self._closed:
            return
        child.end()
        self._child = None
        self._start_ahead()


def read_isolated(
    path: str | Path, *, memory_mb: int = 2048, seconds: float = 300, only: Collection[int] | None = None
) -> Iterator[Frame]:
    """The frames of one DICOM file, decoded in a limited process started for it; see :class:`IsolatedReader`."""
    with IsolatedReader(memory_mb=memory_mb, seconds=seconds) as reader:
        yield from reader.read(path, only=only)


def _held(only: Collection[int], frames: int) -> Iterator[int]:
    with contextlib.suppress(UnreadableFileError):
        yield from selected(only, frames, Path())
