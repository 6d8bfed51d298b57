"""The annotation server as a process of its own, and one client that keeps its connection."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from sonodistill.errors import SonoDistillError

_START_SECONDS = 300.0
_END_SECONDS = 30.0
_TAIL = 2000


class ServerError(SonoDistillError):
    """The server that is measured did not start, or did not do what it was asked for."""


@dataclass(slots=True)
class Served:
    """A server that answers.

    Attributes:
        start_seconds: from the start of its process to the first answer.
        start_cpu_seconds: of the processor, until then: what it would take on a machine that does nothing else.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    start_seconds: float = 0.0
    start_cpu_seconds: float = 0.0
    _connection: http.client.HTTPConnection | None = None

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> bytes:
        """The body of an answer.

        Args:
            query: of the URL.
            body: bytes, or JSON values.
            content_type: of the body.

        Errors: ServerError unless it answers with 2xx.
        """
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = {} if sent is None else {"Content-Type": content_type}
        try:
            self._connection.request(
                method, f"{path}?{urlencode(query)}" if query else path, body=sent, headers=headers
            )
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            raise
        if not 200 <= answer.status < 300:
            said = content.decode(errors="replace")[:_TAIL]
            raise ServerError(f"{method} {path}: {answer.status} {said}\n{self.tail()}")
        return content

    def json(self, method: str, path: str, **more: Any) -> Any:
        """The JSON of an answer."""
        return json.loads(self.ask(method, path, **more))

    def timed(self, method: str, path: str, **more: Any) -> tuple[float, bytes]:
        """(milliseconds, body) of an answer."""
        began = time.perf_counter()
        content = self.ask(method, path, **more)
        return 1000 * (time.perf_counter() - began), content

    def wait(self, condition: Callable[[], bool], seconds: float, pause: float = 0.2) -> None:
        """Until it holds. Errors: ServerError."""
        until = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise ServerError(f"the server ended with code {self.process.returncode}\n{self.tail()}")
            if time.monotonic() > until:
                raise ServerError(f"the server was not ready within {seconds:g} s\n{self.tail()}")
            time.sleep(pause)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-_TAIL:]


@contextmanager
def served(studies: Path, models: Mapping[str, Path], work: Path, *, threads: int) -> Iterator[Served]:
    """``sonodistill label`` on a free port of this machine, from its first answer until the end of the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "sonodistill", "label", "--studies", str(studies), "--work", str(work)]
    command += ["--port", str(port), "--threads", str(threads)]
    command += [text for name, path in models.items() for text in (f"--{name}", str(path))]
    log = work.parent / "server.log"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    server = Served(process, port, log)
    try:
        server.wait(lambda: _answers(server), _START_SECONDS, pause=0.02)
        server.start_seconds = time.monotonic() - began
        server.start_cpu_seconds = sum(psutil.Process(process.pid).cpu_times()[:2])
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_END_SECONDS)


def _answers(server: Served) -> bool:
    try:
        server.ask("GET", "/info/")
    except (OSError, http.client.HTTPException):
        return False
    return True
