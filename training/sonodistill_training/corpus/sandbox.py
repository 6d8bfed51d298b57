"""Run a task in a child process with limits, and survive whatever a damaged file does to it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

from sonodistill.errors import SonoDistillError
from sonodistill_training.corpus.child import Answer

_MAX_PAYLOAD = 256 << 20
_START_SECONDS = 120.0
_WAITING = 64  # answers that may lie ready: a child that floods its parent waits
_END_SECONDS = 5.0  # to end, for a process that closed its answers
# What ``python -m`` and ``python -c`` do first is to look for modules in the working folder, which may hold anything.
_CHILD = "import sys; sys.path[:] = filter(None, sys.path); from sonodistill_training.corpus.child import main; main()"
_LEAST_MEMORY = 1 << 29  # address space: the libraries alone take most of that
# One core a child; and thread pools reserve address space for each of their threads.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
)


class ChildDiedError(SonoDistillError):
    """The child crashed, ran out of its memory, was silent for too long, or raised what no task should raise."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use.

    Attributes:
        memory_bytes: of address space.
        silence_seconds: longest time between two answers; a task that works tells so by answering.
        total_seconds: longest time of a task.
    """

    memory_bytes: int = 4 << 30
    silence_seconds: float = 60.0
    total_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if self.memory_bytes < _LEAST_MEMORY:
            raise SonoDistillError(
                f"{self.memory_bytes / 2**30:g} GiB of memory for a decoding process",
                remedy=f"give {_LEAST_MEMORY / 2**30:g} or more",
            )
        if not self.silence_seconds > 0:
            raise SonoDistillError(f"a patience of {self.silence_seconds:g} seconds", remedy="give more than 0")


class Sandbox:
    """A child process that runs ``module.function(**arguments)``, a generator of answers, again and again.

    The child starts at the first task and is started anew after it died. Not for use by several threads at once.
    """

    def __init__(self, module: str, function: str, limits: Limits | None = None) -> None:
        self.module, self.function = module, function
        self.limits = limits or Limits()
        self._child: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[Answer | None] = queue.Queue()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._child.pid if self._child else None

    def run(self, arguments: dict[str, Any]) -> Iterator[Answer]:
        """The answers of one task, as they come.

        Raises:
            ChildDiedError: the child did not come to the end of the task; the answers so far are not to be trusted
                as whole.
        """
        try:
            child = self._started()
            child.stdin.write(json.dumps(arguments).encode() + b"\n")  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            deadline = time.monotonic() + self.limits.total_seconds
            while True:
                header, payload = self._next(self.limits.silence_seconds)
                if time.monotonic() > deadline:
                    raise ChildDiedError(f"its decoding took more than {self.limits.total_seconds:g} seconds")
                if header["kind"] == "done":
                    return
                if header["kind"] == "failed":
                    raise ChildDiedError(f"its decoder raised {header['error']}")
                yield header, payload
        except (ChildDiedError, BrokenPipeError, GeneratorExit) as error:
            self.close()
            if isinstance(error, BrokenPipeError):
                raise ChildDiedError("the decoding process ended") from error
            raise

    def close(self) -> None:
        """End the child, if there is one."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._child.poll() is None:
            return self._child
        self.close()
        command = [sys.executable, "-c", _CHILD]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        self._child, self._answers = child, queue.Queue(_WAITING)
        threading.Thread(target=_receive, args=(child, self._answers), daemon=True).start()
        setup = {"module": self.module, "function": self.function, "memory_bytes": self.limits.memory_bytes}
        child.stdin.write(json.dumps(setup).encode() + b"\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        self._next(_START_SECONDS)
        return child

    def _next(self, seconds: float) -> Answer:
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise ChildDiedError(f"its decoding stood still for {seconds:g} seconds") from None
        if answer is None:
            try:
                code = self._child.wait(_END_SECONDS) if self._child else None
            except subprocess.TimeoutExpired:
                raise ChildDiedError("its decoder answered nonsense") from None
            raise ChildDiedError(f"its decoder crashed ({_how(code)})")
        return answer


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit code {code}"


def _receive(child: subprocess.Popen[bytes], answers: queue.Queue[Answer | None]) -> None:
    """Pass the child's answers on, a few ahead of who takes them; None when it is gone, or talks nonsense."""
    stream: BinaryIO = child.stdout  # type: ignore[assignment]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        while line := stream.readline(_MAX_PAYLOAD):
            header = json.loads(line)
            size = int(header.pop("payload_bytes"))
            if not (isinstance(header.get("kind"), str) and 0 <= size <= _MAX_PAYLOAD):
                break
            payload = stream.read(size)
            if len(payload) != size:
                break
            _put(answers, (header, payload), child)
    _put(answers, None, child)


def _put(answers: queue.Queue[Answer | None], answer: Answer | None, child: subprocess.Popen[bytes]) -> None:
    """Wait for room, unless the child has been ended and nobody takes its answers any more."""
    while child.returncode is None or answer is None:
        try:
            return answers.put(answer, timeout=0.5)
        except queue.Full:
            if child.returncode is not None:
                return None
    return None
