"""The SQLite file of the queue: its schema, one connection a thread, short transactions."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sonodistill.dicom.errors import SpoolError

_VERSION = 1
_BUSY_SECONDS = 60.0
_WAL_BYTES = 16 << 20
_DAMAGED = "restore it, or move it away with its -wal and -shm: files that wait in the spool are then taken up anew"

# An index for each question that is asked often, and no other: the planner is not always right between two.
_SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sop_uid TEXT NOT NULL,
    study_uid TEXT NOT NULL,
    file_sha256 TEXT NOT NULL,
    config_sha256 TEXT NOT NULL,
    via TEXT NOT NULL,
    peer TEXT NOT NULL,
    size INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('received', 'running', 'done', 'refused', 'dead', 'duplicate')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL,
    lease_owner TEXT,
    lease_until REAL,
    reason TEXT NOT NULL DEFAULT '',
    route TEXT NOT NULL DEFAULT '',
    received_at REAL NOT NULL,
    finished_at REAL,
    arrivals INTEGER NOT NULL DEFAULT 1,
    settled INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_ready ON jobs (state, next_at, id);
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
CREATE UNIQUE INDEX jobs_active ON jobs (sop_uid) WHERE state IN ('received', 'running') AND sop_uid <> '';
CREATE INDEX jobs_unsettled ON jobs (id) WHERE settled = 0 AND state IN ('done', 'refused', 'dead', 'duplicate');
CREATE INDEX jobs_sop ON jobs (sop_uid);
CREATE INDEX jobs_file ON jobs (file_sha256);
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE state IN ('done', 'duplicate');
CREATE TABLE results (
    job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    uid TEXT NOT NULL,
    path TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (job, path)
);
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    destination TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'dead')),
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at REAL NOT NULL,
    lease_owner TEXT,
    lease_until REAL,
    reason TEXT NOT NULL DEFAULT '',
    received_at REAL NOT NULL,
    finished_at REAL,
    UNIQUE (job, destination)
);
CREATE INDEX deliveries_ready ON deliveries (state, destination, next_at, id);
CREATE INDEX deliveries_leased ON deliveries (lease_until) WHERE state = 'running';
PRAGMA user_version = 1;
"""


class Database:
    """A queue's file. Threads and processes may share it; each gets its own connection when it first asks.

    A connection does not survive a fork: start processes by spawn or forkserver, or open the database in the child.

    Args:
        path: made when it is missing, in an existing folder.

    Errors: SpoolError when it is damaged, or a newer version of the program wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._process: int | None = None

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for single SELECTs; each sees the last committed state."""
        yield self._connection()

    @contextmanager
    def write(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction that no other writer runs beside; an exception undoes it.

        Args:
            durable: on disk when it returns, with all that was committed before, so that a power cut cannot undo it.
                Other transactions survive a crash of the process, but not of the machine.
        """
        connection = self._connection()
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close this thread's connection; the next call opens one again."""
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._process == os.getpid():
            connection.close()
        self._local.connection = None

    def _connection(self) -> sqlite3.Connection:
        if self._process not in (None, os.getpid()):
            raise RuntimeError("this queue was opened before a fork; open it in the child")
        connection = getattr(self._local, "connection", None)
        if connection is None:
            self._process = os.getpid()
            connection = self._local.connection = self._opened()
        return connection

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            if self._version(connection) == 0 or self._mode(connection) != "wal":
                self._create(connection)
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            connection.execute("PRAGMA foreign_keys = ON")
            if self._version(connection) != _VERSION:
                raise SpoolError(
                    f"it was written by another version of the program (schema {self._version(connection)})",
                    path=self.path,
                    remedy="use that version, or drain it and start with a new spool",
                )
        except BaseException as error:
            connection.close()
            if type(error) is sqlite3.DatabaseError:  # and none of its subclasses, such as for a full disk
                raise SpoolError(f"the queue is damaged ({error})", path=self.path, remedy=_DAMAGED) from error
            raise
        return connection

    @staticmethod
    def _version(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])

    @staticmethod
    def _mode(connection: sqlite3.Connection) -> str:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables, unless another process has just done it."""
        handle = os.open(f"{self.path}.new", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # SQLite does not wait for its turn to change the journal's mode
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            if self._version(connection) == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
            connection.execute("COMMIT")
        finally:
            os.close(handle)
