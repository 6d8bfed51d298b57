"""MONAI Label's sessions: images that are kept for some inferences, under ids that lead nowhere else."""

from __future__ import annotations

import shutil
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel.utils.sessions import Sessions

from sonodistill.annotate.errors import AnnotationError, InvalidIdError, TooLargeError

_MOST = 64
_BEGUN = 60.0
"""Seconds in which one that begins is whole."""


class FolderSessions(Sessions):
    """Sessions in a folder of their own.

    Args:
        folder: theirs alone.
        expiry: seconds that one lasts after it was used.
    """

    def __init__(self, folder: Path, expiry: int) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().__init__(str(folder), expiry)

    def get_session(self, session_id: str, update_ts: bool = True, fetch_cache: bool = True) -> Any:
        return super().get_session(_checked(session_id), update_ts, fetch_cache)

    def remove_session(self, session_id: str) -> None:
        super().remove_session(_checked(session_id))

    def remove_expired(self) -> int:
        """Remove those that are over, and what a process that was killed left of one; how many."""
        gone = [path for path in Path(self.store_path).iterdir() if path.is_dir() and self._is_over(path)]
        for path in gone:
            self.pop(path.name, None)
            shutil.rmtree(path, ignore_errors=True)
        return len(gone)

    def _is_over(self, folder: Path) -> bool:
        try:
            info = self.get_session(folder.name, update_ts=False)
            if info is not None:
                return bool(info.last_access_ts + info.expiry < time.time())
        except (InvalidIdError, OSError, ValueError, TypeError):
            pass  # half written
        with suppress(OSError):
            return time.time() - folder.stat().st_mtime > _BEGUN
        return False

    def add_session(
        self, data_file: str, expiry: int = 0, uncompress: bool = False, session_id: str | None = None
    ) -> tuple[str, Any]:
        """Errors: AnnotationError for an archive or several files; TooLargeError when there are as many as may be."""
        if uncompress or Path(data_file).is_dir():
            raise AnnotationError("a session is of one image", remedy="send one file, which is no archive")
        self.remove_expired()
        if sum(1 for one in Path(self.store_path).iterdir() if one.is_dir()) >= _MOST:
            raise TooLargeError(f"there are {_MOST} sessions", remedy="end one, or wait until one expires")
        return super().add_session(data_file, expiry, False, None if session_id is None else _checked(session_id))


def _checked(id: str) -> str:
    try:
        if len(id) == 36 and str(uuid.UUID(id)) == id.lower():
            return id.lower()
    except (ValueError, AttributeError, TypeError):
        pass
    raise InvalidIdError("that is no id of a session", remedy="take the one that PUT /session/ answered")
