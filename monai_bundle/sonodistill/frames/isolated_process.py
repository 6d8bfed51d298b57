"""The parent's side of the process that decodes for ``isolated``: start it, ask it for a file, tell how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.isolated_child import END, ERROR, FRAME, HEAD, MAX_TEXT, READY

_BOOT = (
    "import sys; sys.path += [p for p in sys.argv[3:] if p not in sys.path]; "
    "from sonodistill.frames.isolated_child import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
# What an interpreter may need to find its own libraries, and nothing else.
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_START_SECONDS = 120.0
_PIPE_BYTES = 1 << 20
_REMEDY = "fetch the file again; one that fails again is damaged, or larger than the limits allow"


class DecoderKilledError(UnreadableFileError):
    """The process that decodes was killed, by the system for want of memory or by somebody: not surely by the file."""


class Child:
    """A started child process that said it is ready. Raises OSError when it does not."""

    def __init__(self, memory_mb: int) -> None:
        self.memory_mb, self.served = memory_mb, 0
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        # Threads of numerical libraries only cost address space here.
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
        paths = [entry for entry in sys.path if Path(entry).is_absolute()]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", _BOOT, str(memory_mb), str(os.getpid()), *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        assert self.process.stdin and self.process.stdout  # noqa: S101 - for the type checker
        self.requests, self.replies = self.process.stdin, self.process.stdout
        with contextlib.suppress(ImportError, AttributeError, OSError):
            import fcntl

            # Linux: three frames of 480 x 640.
            fcntl.fcntl(self.replies, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[attr-defined]
        self._ready = select.poll()
        self._ready.register(self.replies, select.POLLIN)
        try:
            kind, _, _, length = HEAD.unpack(self.receive(HEAD.size, _START_SECONDS)[0])
            if kind != READY or length > MAX_TEXT:
                raise OSError("it answers with something else")
            self.receive(length, _START_SECONDS)
        except (EOFError, TimeoutError):
            self.end()
            raise OSError(f"it ended at once, with {self.process.returncode}") from None
        except BaseException:
            self.end()
            raise

    def alive(self) -> bool:
        return self.process.poll() is None

    def receive(self, size: int, seconds: float) -> tuple[bytearray, float]:
        """(``size`` bytes, the seconds they took). Raises EOFError and TimeoutError."""
        data, waited = bytearray(size), 0.0
        view = memoryview(data)
        while view:
            start = time.monotonic()
            ready = self._ready.poll(1000 * max(0.0, seconds - waited))
            waited += time.monotonic() - start
            if not ready:
                raise TimeoutError
            got = os.readv(self.replies.fileno(), [view])
            if not got:
                raise EOFError
            view = view[got:]
        return data, waited

    def end(self) -> None:
        """Kill it, wait for it and close its pipes; harmless a second time."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.requests, self.replies):
            with contextlib.suppress(OSError):
                pipe.close()


class Exchange:
    """One file's talk with a child; ``sound`` once the child can serve another file."""

    def __init__(self, child: Child, path: Path, seconds: float, size: tuple[int, int]) -> None:
        self.child, self.path, self.size, self.sound, self.peak_mb = child, path, size, False, 0.0
        self.seconds = self.left = seconds
        self.number = child.served
        self.doing = "the file"

    def ask(self, only: list[int] | None) -> None:
        name = os.fsencode(self.path.absolute()).hex()
        request = {"number": self.number, "path": name, "only": only, "seconds": self.seconds}
        try:
            view = memoryview(json.dumps(request).encode() + b"\n")
            while view:
                view = view[os.write(self.child.requests.fileno(), view) :]
        except OSError:
            raise self._ended() from None

    def frame(self, index: int) -> np.ndarray:
        """(H, W) uint8 of the frame that has to come next."""
        self.doing = f"frame {index + 1}"
        self._head(FRAME, index, self.size[0] * self.size[1])
        return np.frombuffer(self._receive(self.size[0] * self.size[1]), np.uint8).reshape(self.size)

    def end(self) -> None:
        """Wait for the child to be done with the file."""
        self.doing = "the end of the file"
        self._finished(self._head(END, 0, None))

    def _head(self, expected: bytes, index: int, length: int | None) -> int:
        kind, number, at, size = HEAD.unpack(self._receive(HEAD.size))
        if kind == ERROR and number == self.number and size <= MAX_TEXT:
            said = self._finished(size)
            error = UnsupportedFormatError if said.get("unsupported") is True else UnreadableFileError
            raise error(_plain(said.get("message")) or "unreadable", path=self.path, remedy=_plain(said.get("remedy")))
        if (kind, number, at) != (expected, self.number, index) or (size != length if length else size > MAX_TEXT):
            raise self._garbage()
        return size

    def _finished(self, length: int) -> dict[str, Any]:
        try:
            said = json.loads(self._receive(length))
            self.peak_mb = float(said["peak_mb"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise self._garbage() from None
        # One that has met its limit, or come near it, would start the next file with memory in pieces.
        self.sound = "MemoryError" not in str(said.get("message")) and self.peak_mb < self.child.memory_mb / 2
        return said

    def _receive(self, size: int) -> bytearray:
        try:
            data, waited = self.child.receive(size, self.left)
        except TimeoutError:
            raise UnreadableFileError(
                f"{self.doing} took the process that decodes more than {self.seconds:g} s",
                path=self.path,
                remedy=_REMEDY,
            ) from None
        except EOFError:
            raise self._ended() from None
        self.left -= waited
        return data

    def _ended(self) -> UnreadableFileError:
        self.child.end()
        code = self.child.process.returncode
        reasons = {
            -signal.SIGXCPU: f"took more than {self.seconds:g} s of processor time",
            -signal.SIGKILL: "was killed (SIGKILL), most likely for want of memory",
        }
        crashed = f"crashed ({_signal_name(-code)})" if code < 0 else f"ended by itself (exit code {code})"
        kind = DecoderKilledError if code == -signal.SIGKILL else UnreadableFileError
        return kind(
            f"the process that decodes {reasons.get(code, crashed)} at {self.doing}", path=self.path, remedy=_REMEDY
        )

    def _garbage(self) -> UnreadableFileError:
        return UnreadableFileError(
            f"the process that decodes answered with something else at {self.doing}", path=self.path, remedy=_REMEDY
        )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _plain(text: object) -> str | None:
    """What the child says, on one line of printable characters."""
    return "".join(c if c.isprintable() else " " for c in text[:500]) if isinstance(text, str) and text else None
