"""What was learnt of each file of the studies, kept so that a file is opened once and not at every start."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonodistill import __version__

_LOGGER = logging.getLogger(__name__)
_COLUMNS = "key, stamp, kind, frames, sequential, identity, series, reason"
_TABLES = """
CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS file (
    key TEXT PRIMARY KEY, stamp TEXT NOT NULL, kind TEXT NOT NULL, frames INTEGER NOT NULL, sequential INTEGER NOT NULL,
    identity TEXT NOT NULL, series TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS upload (key TEXT PRIMARY KEY);
"""


@dataclass(frozen=True, slots=True)
class Known:
    """What a file is.

    Attributes:
        stamp: tells that the file is the one that was opened: its size and times.
        kind: "image", "dicom", "video" or "volume".
        frames: how many it holds.
        sequential: whether a frame costs as much as all those before it.
        identity: whose it is, as an opaque text, or "" where it does not say.
        series: Series Instance UID, or "".
        reason: why it cannot be used, or "".
    """

    stamp: str
    kind: str = ""
    frames: int = 0
    sequential: bool = False
    identity: str = ""
    series: str = ""
    reason: str = ""


class FileIndex:
    """Keeps ``Known`` by the path of a file relative to the studies, and which files were uploaded. In any thread.

    It can be lost: files are opened again then, and no upload is known as one.

    Args:
        work: folder it lies in, beside the secret that identities are hashed with.

    Attributes:
        known: what was kept, by key, when it was opened.
        secret: 32 bytes.
    """

    def __init__(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.secret = _secret(work / "group.key")
        self._path = work / "catalogue.sqlite"
        self._lock = threading.Lock()
        try:
            self._connection, self.known = self._open()
        except sqlite3.DatabaseError as error:
            _LOGGER.warning("the index of files is damaged and made anew (%s)", error)
            for end in ("", "-journal"):
                self._path.with_name(self._path.name + end).unlink(missing_ok=True)
            self._connection, self.known = self._open()

    def put(self, found: Iterable[tuple[str, Known]]) -> None:
        """Keep these; what cannot be kept is learnt again another time."""
        self._write(
            "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (key, one.stamp, one.kind, one.frames, one.sequential, one.identity, one.series, one.reason)
                for key, one in found
            ],
        )

    def drop(self, keys: Iterable[str]) -> None:
        """Forget these."""
        gone = [(key,) for key in keys]
        self._write("DELETE FROM file WHERE key = ?", gone)
        self._write("DELETE FROM upload WHERE key = ?", gone)

    def add_upload(self, key: str) -> None:
        """Note that this file was uploaded."""
        self._write("INSERT OR REPLACE INTO upload VALUES (?)", [(key,)])

    def is_upload(self, key: str) -> bool:
        with self._lock:
            return self._connection.execute("SELECT 1 FROM upload WHERE key = ?", (key,)).fetchone() is not None

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        try:
            with self._lock, self._connection:
                self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            _LOGGER.warning("the index of files cannot be written (%s)", error)

    def _open(self) -> tuple[sqlite3.Connection, dict[str, Known]]:
        connection = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
        try:
            connection.executescript(_TABLES)
            # Another version may read other files, and another secret gives other identities.
            state = hashlib.sha256(self.secret + __version__.encode()).hexdigest()
            with connection:
                if connection.execute("SELECT value FROM fact WHERE key = 'state'").fetchone() != (state,):
                    connection.execute("DELETE FROM file")
                    connection.execute("INSERT OR REPLACE INTO fact VALUES ('state', ?)", (state,))
            rows = connection.execute(f"SELECT {_COLUMNS} FROM file")  # noqa: S608
            known = {key: Known(stamp, kind, count, bool(seq), *rest) for key, stamp, kind, count, seq, *rest in rows}
        except BaseException:
            connection.close()
            raise
        return connection, known


def key_of(name: str) -> str:
    """The key of a file by its path relative to the studies, which may be of any bytes."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()


def stamp_of(path: Path) -> str:
    """Size and times of a file. Errors: OSError."""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def _secret(path: Path) -> bytes:
    """32 random bytes, made once."""
    with contextlib.suppress(FileNotFoundError):
        if len(secret := path.read_bytes()) == 32:
            return secret
        path.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:  # noqa: PTH123
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # of another process
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.read_bytes()
