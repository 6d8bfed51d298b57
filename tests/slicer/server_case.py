"""The real annotation server for tests of its clients: started with the annotation environment's own Python.

with running(folder) as server:
    client = Client(server.url)
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

VARIABLE = "SONODISTILL_LABEL_PYTHON"
"""Names the Python of an environment with ``sonodistill[label]``; without it, tests of the server are skipped."""
OURS, STOCK = "server_main.py", "stock_main.py"
_START_S = 240.0


class Server:
    """Attributes: url; studies, their folder."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process, self._log = process, log
        self._lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        said = self._said()
        self.url, self.studies = said["url"], Path(said["studies"])

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-4000:]

    def _said(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=_START_S)
        except Empty:
            line = ""
        if not line:
            pytest.fail(f"the server did not start\n{self.tail()}")
        return json.loads(line)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")


@contextmanager
def running(folder: Path, main: str = OURS) -> Iterator[Server]:
    """A server on the loopback interface until the end of the block; skips where there is no environment for one.

    Args:
        folder: of its own, empty.
        main: ``OURS``, our app; ``STOCK``, MONAI Label as it is with an app that thresholds.
    """
    python = os.environ.get(VARIABLE, "")
    if not python:
        pytest.skip(f"{VARIABLE} names no Python with sonodistill[label]")
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    log = folder / "server_main.log"
    with log.open("w") as words:
        process = subprocess.Popen(
            [python, str(Path(__file__).with_name(main)), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            env=variables,
        )
    try:
        yield Server(process, log)
    finally:
        process.stdin.close()  # type: ignore[union-attr]
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Gate:
    """Between a client and a server: when it is shut, nobody answers, as when the server is ended or the cable pulled.

    Attributes: url, the same however often it is shut.
    """

    def __init__(self, server: Server) -> None:
        self._port = int(server.url.rpartition(":")[2])
        self._own = 0
        self._listening: socket.socket | None = None
        self._open: list[socket.socket] = []
        self.open()
        self.url = f"http://127.0.0.1:{self._own}"

    def open(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self._own))
        self._own = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def shut(self) -> None:
        for one in [self._listening, *self._open]:
            if one is not None:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._listening, self._open = None, []

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client = listening.accept()[0]
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                return
            self._open += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while part := source.recv(1 << 16):
                target.sendall(part)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def pump(jobs: Any, until: Callable[[], bool] | None = None, seconds: float = 30) -> None:
    """As the widget's timer does, until it holds, or nothing is left to do."""
    end = time.monotonic() + seconds
    while jobs.busy if until is None else not until():
        assert time.monotonic() < end, "it did not come to its end"
        jobs.pump()
        time.sleep(0.002)
