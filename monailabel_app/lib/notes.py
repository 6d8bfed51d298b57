"""What clients want kept with an image, and under which names they uploaded: nothing that a label depends on."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from pathlib import Path
from typing import Any

from sonodistill.annotate.errors import InvalidIdError
from sonodistill.annotate.labels.checks import checked_info

_MOST = 100_000
_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,128}")
_TABLES = """
CREATE TABLE IF NOT EXISTS note (id TEXT PRIMARY KEY, info TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS upload (name TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
"""


class Notes:
    """A SQLite file; several processes may have it open.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")  # a crash of the machine may cost the latest notes
        self._file.executescript(_TABLES)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def of(self, id: str) -> dict[str, Any]:
        """What is kept with an image, frame ids included."""
        with self._lock:
            row = self._file.execute("SELECT info FROM note WHERE id = ?", (id,)).fetchone()
        return json.loads(row[0]) if row else {}

    def all(self) -> dict[str, dict[str, Any]]:
        with self._lock:
            rows = self._file.execute("SELECT id, info FROM note").fetchall()
        return {id: json.loads(info) for id, info in rows}

    def add(self, id: str, info: dict[str, Any]) -> None:
        """Keep more with an image. Errors: InvalidLabelError for what is no JSON, or above 16 KB of it."""
        text = checked_info({**self.of(id), **info})
        with self._lock:
            (count,) = self._file.execute("SELECT count(*) FROM note").fetchone()
            if count >= _MOST:
                self._file.execute("DELETE FROM note WHERE id IN (SELECT id FROM note LIMIT ?)", (_MOST // 10,))
            self._file.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (id, text))

    def upload(self, name: str) -> str | None:
        """The id of what was uploaded last under that name."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            return None
        with self._lock:
            row = self._file.execute("SELECT id FROM upload WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def uploaded(self, name: str, id: str) -> None:
        """Clients go on with their own name of what they uploaded. Errors: see ``check_upload``."""
        with self._lock:
            self._file.execute("INSERT OR REPLACE INTO upload VALUES (?, ?)", (check_upload(name), id))


def check_upload(name: str) -> str:
    """A client's name of an image: itself. Errors: InvalidIdError for a path, and for control characters."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("."):
        raise InvalidIdError(f"{str(name)[:60]!r} is no name of an image", remedy="letters and digits, 128 at most")
    return name
