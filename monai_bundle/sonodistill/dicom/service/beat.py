"""Signs of life: each process of the service writes what it has counted every few seconds, for health and metrics."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sonodistill.dicom.service.intake import Intake, Receipt

logger = logging.getLogger(__name__)

SECONDS = 2.0
STALE_SECONDS = 15.0
_FOLDER = "run"
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Sign:
    """What a process wrote last.

    Attributes:
        role: its name.
        age: seconds since.
        ready: whether it does its work, its models being loaded or its port open.
        counts: by name, since the process began.
    """

    role: str
    age: float
    ready: bool
    counts: dict[str, float]

    @property
    def alive(self) -> bool:
        return self.age < STALE_SECONDS


class Beat:
    """Counts, and writes them from a thread of its own to ``<spool>/run/<role>.json``.

    Args:
        spool: its folder.
        role: of this process.
    """

    def __init__(self, spool: Path, role: str) -> None:
        self._path = spool / _FOLDER / f"{role}.json"
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="beat", daemon=True)
        self.ready = False

    def __enter__(self) -> Beat:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += amount  # type: ignore[assignment]

    def is_ready(self, *_: object) -> None:
        """The process does its work from now on."""
        self.ready = True
        self._write()

    def _write_on(self) -> None:
        while not self._over.wait(SECONDS):
            self._write()

    def _write(self) -> None:
        with self._lock:
            text = json.dumps({"time": time.time(), "ready": self.ready, "counts": dict(self._counts)})
        beside = self._path.with_suffix(".tmp")
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(self._path)
        except OSError:  # a full disk: the sign grows old, and health says so
            pass


def signs(spool: Path) -> Iterator[Sign]:
    """Those of all processes that have begun."""
    for path in sorted((spool / _FOLDER).glob("*.json")):
        try:
            with path.open("rb") as file:
                found = json.loads(file.read(_MAX_BYTES))
            counts = {str(name): float(value) for name, value in found["counts"].items()}
            yield Sign(path.stem, max(0.0, time.time() - float(found["time"])), bool(found["ready"]), counts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


class CountedIntake:
    """An intake that counts what became of the files, by the way they came."""

    def __init__(self, intake: Intake, beat: Beat) -> None:
        self._intake, self._beat = intake, beat

    def has_room(self) -> bool:
        """See Intake."""
        return self._intake.has_room()

    def incoming(self) -> AbstractContextManager[Path]:
        """See Intake."""
        return self._intake.incoming()

    def turn_away(self, reason: str, *, via: str, peer: str) -> None:
        """See Intake."""
        self._intake.turn_away(reason, via=via, peer=peer)
        self._beat.count(f"received/{via}/turned away")

    def accept(self, path: Path, *, via: str, peer: str) -> Receipt:
        """See Intake."""
        receipt = self._intake.accept(path, via=via, peer=peer)
        self._beat.count(f"received/{via}/{receipt.outcome.value}")
        return receipt


@contextmanager
def renewed(renew, seconds: float) -> Iterator[threading.Event]:  # type: ignore[no-untyped-def]
    """Call ``renew()`` every so many seconds from another thread while the block runs.

    Yields:
        an event that is set once it has said False: whoever works has lost what it works on.
    """
    over, lost = threading.Event(), threading.Event()

    def work() -> None:
        while not over.wait(seconds):
            try:
                if not renew():
                    lost.set()
                    return
            except Exception:
                logger.exception("renewing a lease")  # a busy database: the next time

    thread = threading.Thread(target=work, name="lease", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join()
