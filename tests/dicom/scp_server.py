"""A Storage SCP for the tests: in a thread, or as a process of its own with a bound on its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sonodistill.dicom.service.intake import Intake, Outcome, Receipt
from sonodistill.dicom.service.scp import Timeouts, limit_memory, serve_scp
from sonodistill.dicom.settings import Scp, Tls

CALLER, CALLED = "TESTER", "SONODISTILL"
TIMEOUTS = Timeouts(greeting=1.5, silence=2.0)


class _Arriving:
    """Unlike a generator's, its end is not run by the garbage collector where somebody has forgotten it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *error: object) -> None:
        self._path.unlink(missing_ok=True)


class FolderIntake:
    """Keeps what arrives in a folder.

    Attributes:
        room: what ``has_room`` says.
        outcome: of every file; an exception is raised instead.
        seconds: that it takes.
    """

    def __init__(self, folder: Path) -> None:
        self.arriving, self.kept = folder / "arriving", folder / "kept"
        self.arriving.mkdir(parents=True)
        self.kept.mkdir()
        self.room = True
        self.outcome: Outcome | Exception = Outcome.ACCEPTED
        self.seconds = 0.0
        self.peers: list[tuple[str, str]] = []
        self.turned_away: list[tuple[str, str, str]] = []

    def has_room(self) -> bool:
        return self.room

    def incoming(self) -> AbstractContextManager[Path]:
        return _Arriving(self.arriving / uuid.uuid4().hex)

    def turn_away(self, reason: str, *, via: str, peer: str) -> None:
        self.turned_away.append((reason, via, peer))

    def accept(self, path: Path, *, via: str, peer: str) -> Receipt:
        time.sleep(self.seconds)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        self.peers.append((via, peer))
        if self.outcome is Outcome.ACCEPTED:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
            path.rename(self.kept / path.name)
        return Receipt(self.outcome, len(self.peers), "" if self.outcome is not Outcome.REFUSED else "a secret reason")

    def files(self) -> list[Path]:
        return sorted(self.kept.iterdir())


class Running:
    """A server that runs: its port, and what has arrived."""

    def __init__(self, port: int, intake: FolderIntake) -> None:
        self.port = port
        self.intake = intake


@contextmanager
def scp_thread(
    folder: Path,
    *,
    intake: Intake | None = None,
    max_file_bytes: int = 1 << 28,
    tls: Tls | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """A server in a thread of this process, ended with the block; it keeps files in ``folder`` or gives them away."""
    kept, stop, port, up = FolderIntake(folder), threading.Event(), [], threading.Event()
    scp = Scp(**{"allow": (CALLER,), "ae_title": CALLED, "port": 0, "tls": tls, **settings})

    def ready(number: int) -> None:
        port.append(number)
        up.set()

    def run() -> None:
        serve_scp(scp, intake or kept, stop, max_file_bytes=max_file_bytes, ready=ready, timeouts=TIMEOUTS)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert up.wait(10), "the server did not start"
        yield Running(port[0], kept)
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive(), "the server did not end"


@contextmanager
def scp_process(folder: Path, *, memory_mb: int) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """(process, port) of a server under a bound on its memory; what arrives is in ``folder``/kept."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(folder), str(memory_mb)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def main() -> None:
    limit_memory(int(sys.argv[2]))
    stop = threading.Event()

    def until_closed() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=until_closed, daemon=True).start()
    serve_scp(
        Scp(allow=(CALLER,), ae_title=CALLED, port=0),
        FolderIntake(Path(sys.argv[1])),
        stop,
        max_file_bytes=1 << 28,
        ready=lambda port: print(port, flush=True),  # noqa: T201 - the parent reads it
        timeouts=TIMEOUTS,
    )


if __name__ == "__main__":
    main()
