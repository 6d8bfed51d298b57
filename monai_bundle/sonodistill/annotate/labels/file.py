"""The SQLite file that labels are kept in: opened, made, checked to be the one that is meant, and its rows."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from sonodistill.annotate.errors import StorageError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import LabelRow, Status

_COLUMNS = (
    "revision, item, frame, annotator, status, classification, time, model, confidence, height, width, pixels, info"
)
_FORMAT = "1"
_WAIT = 30.0
# The pixels are apart, so that what reads the rows alone reads little.
_TABLES = (
    "CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS label (
        revision INTEGER PRIMARY KEY, item TEXT NOT NULL, frame INTEGER NOT NULL, annotator TEXT NOT NULL,
        status TEXT NOT NULL, classification TEXT NOT NULL, time REAL NOT NULL, model TEXT NOT NULL, confidence REAL,
        height INTEGER, width INTEGER, pixels INTEGER NOT NULL, info TEXT NOT NULL, current INTEGER NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS mask (revision INTEGER PRIMARY KEY, png BLOB NOT NULL)",
    "CREATE UNIQUE INDEX IF NOT EXISTS one_current ON label (item, frame, annotator) WHERE current",
    "CREATE INDEX IF NOT EXISTS by_frame ON label (item, frame)",
    "INSERT OR IGNORE INTO fact VALUES ('revision', '0')",
)


class LabelFile:
    """A file of labels, made where there is none, with one connection that writes and one that reads.

    Errors: StorageError when it is no such file, one with other names of labels, or on a disk that does not do; also
        of every method, when the disk fails.
    """

    def __init__(self, path: Path, labels: Sequence[str], classes: Sequence[str]) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # SQLite before 3.51.3 may damage a file in which two processes write and tidy up at the same instant
        # (sqlite.org/wal.html#walresetbug): one at a time does.
        self._alone = FileLock(f"{path}.lock", timeout=_WAIT, poll_interval=0.002, thread_local=False)
        self._writing, self._reading = threading.Lock(), threading.Lock()
        try:
            with self._alone:
                self._writer = _opened(path, labels, classes)
                # Readers do not wait for a write on its way to the disk.
                self._reader = _connect(path)
        except (sqlite3.Error, OSError) as error:
            raise StorageError(
                f"the labels cannot be opened ({error})", path=path, remedy="see that it is a file of labels, and yours"
            ) from error

    def close(self) -> None:
        """Close it when the writes under way are finished."""
        with self._writing, self._reading, self._alone:
            self._writer.close()
            self._reader.close()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """The connection that reads, for this thread alone."""
        with self._reading, self._named_errors():
            yield self._reader

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """What is written in here is on disk afterwards, all of it, or nothing of it when an error leaves."""
        with self._writing, self._named_errors(), self._alone:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:  # a lock that is not to be had is an OSError
            raise StorageError(
                f"the labels cannot be read or written ({error})", path=self.path, remedy="look at the disk"
            ) from error


def _opened(path: Path, labels: Sequence[str], classes: Sequence[str]) -> sqlite3.Connection:
    connection = _connect(path)
    try:
        _use_wal(connection, path)
        connection.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            connection.execute(statement)
        _check(connection, path, labels, classes)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path) -> sqlite3.Connection:
    """A connection whose commits are on disk, for use by any one thread at a time."""
    connection = sqlite3.connect(path, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous=FULL")
    return connection


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    # Two processes that open a new file at once are told that it is locked, without the wait of other statements.
    until = time.monotonic() + _WAIT
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
            continue
        if mode != "wal":
            raise StorageError(
                "the disk cannot hold labels (it has no shared memory)", path=path, remedy="keep them on a local disk"
            )
        return


def _check(connection: sqlite3.Connection, path: Path, labels: Sequence[str], classes: Sequence[str]) -> None:
    facts = dict(connection.execute("SELECT key, value FROM fact"))
    if facts.get("format", _FORMAT) != _FORMAT:
        raise StorageError(f"the labels are of format {facts['format'][:20]!r}", path=path, remedy="update SonoDistill")
    kept = json.loads(facts.get("labels", "[]"))
    if kept != list(labels)[: len(kept)]:
        raise StorageError(
            f"the labels here are of {', '.join(kept)}, not of {', '.join(labels)}",
            path=path,
            remedy="name the same labels in the same order (new ones at the end), or use another folder of work",
        )
    used = {row[0] for row in connection.execute("SELECT DISTINCT classification FROM label WHERE current")} - {""}
    if not used <= set(classes):
        raise StorageError(
            f"frames are classified as {', '.join(sorted(used - set(classes)))}, which is no class now",
            path=path,
            remedy="name the classes of before as well",
        )
    for key, value in (("format", _FORMAT), ("labels", json.dumps(list(labels)))):
        connection.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (key, value))


def select(connection: sqlite3.Connection, where: str, values: Sequence[Any]) -> list[LabelRow]:
    """The rows of ``SELECT ... FROM label WHERE {where}``, which holds no value but as a parameter."""
    return [_row(found) for found in connection.execute(f"SELECT {_COLUMNS} FROM label WHERE {where}", values)]  # noqa: S608


def png_of(connection: sqlite3.Connection, revision: int) -> bytes | None:
    """The mask that was saved as this revision."""
    found = connection.execute("SELECT png FROM mask WHERE revision = ?", (revision,)).fetchone()
    return None if found is None else bytes(found[0])


def revision_of(connection: sqlite3.Connection) -> int:
    """How many writes there were."""
    return int(connection.execute("SELECT value FROM fact WHERE key = 'revision'").fetchone()[0])


def retire(connection: sqlite3.Connection, frame: FrameId, annotator: str) -> int:
    """Count a write, which makes the current row of this frame and annotator history; the number of the write."""
    connection.execute("UPDATE fact SET value = value + 1 WHERE key = 'revision'")
    connection.execute(
        "UPDATE label SET current = 0 WHERE current AND item = ? AND frame = ? AND annotator = ?",
        (frame.item, frame.index, annotator),
    )
    return revision_of(connection)


def insert(connection: sqlite3.Connection, row: LabelRow, png: bytes | None) -> None:
    """Write a row, and its mask."""
    height, width = row.shape or (None, None)
    connection.execute(
        f"INSERT INTO label ({_COLUMNS}, current) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",  # noqa: S608
        (
            *(row.revision, row.frame.item, row.frame.index, row.annotator, row.status.value, row.classification),
            *(row.time, row.model, row.confidence, height, width, row.pixels, json.dumps(row.info)),
        ),
    )
    if png is not None:
        connection.execute("INSERT INTO mask VALUES (?, ?)", (row.revision, png))


def _row(found: tuple[Any, ...]) -> LabelRow:
    revision, item, frame, annotator, status, classification, when, model, confidence, height, width, pixels, info = (
        found
    )
    return LabelRow(
        FrameId(item, frame),
        annotator,
        Status(status),
        classification,
        when,
        model,
        confidence,
        revision,
        None if height is None else (height, width),
        pixels,
        json.loads(info),
    )
