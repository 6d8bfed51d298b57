"""A watched folder: files that have come to rest are copied to the spool."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sonodistill.dicom.service.intake import Intake, Outcome
from sonodistill.dicom.settings import Watch

logger = logging.getLogger(__name__)

_UNFINISHED = (".tmp", ".part")
_CHUNK = 1 << 20
_LONGEST_WAIT = 300.0


@dataclass(slots=True)
class _Seen:
    """A file as it was when it last changed; ``taken`` once nothing more is to be done about it."""

    print: tuple[int, int]
    since: float
    taken: bool = False
    failures: int = 0


def watch(settings: Watch, intake: Intake, stop: threading.Event, *, max_bytes: int | None = None) -> None:
    """Take files of a folder until told to stop.

    A file is taken once its size and time have not changed for ``quiet_seconds``; again only when they change. It is
    copied, never moved: whoever wrote it may still hold it open. Links, hidden files and folders, *.tmp and *.part are
    passed over. What cannot be read is tried again; nothing ends the loop. No name is logged: it may be a patient's.

    Args:
        max_bytes: of a larger file no more is copied than shows that it is; the intake then refuses it.
    """
    watcher = Watcher(settings, intake, max_bytes=max_bytes)
    while not stop.is_set():
        try:
            watcher.look(stop)
        except Exception as error:  # noqa: BLE001 - a look that fails is no reason to stop looking
            logger.error("watched folder: %s", type(error).__name__)
        stop.wait(settings.poll_seconds)


class Watcher:
    """What is known of a folder from one look to the next."""

    def __init__(self, settings: Watch, intake: Intake, *, max_bytes: int | None = None) -> None:
        self._settings = settings
        self._intake = intake
        self._limit = float("inf") if max_bytes is None else max_bytes + 1
        self._seen: dict[str, _Seen] = {}

    def look(self, stop: threading.Event | None = None, *, now: float | None = None) -> int:
        """Look at the folder once, and take what is due; says how many files that were.

        Args:
            stop: ends the look between two files.
            now: seconds of a clock that never goes back.
        """
        taken, present = 0, {}
        now = time.monotonic() if now is None else now
        for entry in _files(self._settings.folder):
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            known = self._seen.get(entry.path)
            if known is None or known.print != (found.st_size, found.st_mtime_ns):
                known = _Seen((found.st_size, found.st_mtime_ns), now)
            present[entry.path] = known
        self._seen = present
        for path, known in present.items():
            if known.taken or now - known.since < self._settings.quiet_seconds:
                continue
            if (stop is not None and stop.is_set()) or not self._intake.has_room():
                break
            known.taken = self._take(path, known)
            taken += known.taken
            if not known.taken:  # later, and less and less often
                known.since = now + min(2.0**known.failures, _LONGEST_WAIT)
                known.failures = min(known.failures + 1, 30)
        return taken

    def _take(self, path: str, known: _Seen) -> bool:
        try:
            with self._intake.incoming() as copy:
                if not self._copied(path, copy, known):
                    return False
                receipt = self._intake.accept(copy, via="watch", peer=str(self._settings.folder))
            if self._settings.remove and receipt.outcome is not Outcome.REFUSED and _print(path) == known.print:
                Path(path).unlink(missing_ok=True)  # and nothing that came under its name meanwhile
        except Exception as error:  # noqa: BLE001 - one file does not stand in the way of the others
            logger.warning("watched folder: a file could not be taken yet (%s)", type(error).__name__)
            return False
        return True

    def _copied(self, path: str, copy: Path, known: _Seen) -> bool:
        """Whether the file was copied as it was seen; False when it changed under the copying."""
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as source, copy.open("xb") as target:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return False
            while target.tell() < self._limit and (chunk := source.read(_CHUNK)):
                target.write(chunk)
            after = os.fstat(handle)
        return (after.st_size, after.st_mtime_ns) == known.print


def _print(path: str) -> tuple[int, int] | None:
    """Size and time of a file, by which a change shows; None when it is gone."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Regular files of a folder and its subfolders; what cannot be listed is passed over."""
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                listed = list(entries)
        except OSError as error:
            logger.warning("watched folder: it cannot be listed (%s)", type(error).__name__)
            continue
        for entry in listed:
            try:
                if entry.name.startswith(".") or entry.name.lower().endswith(_UNFINISHED):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry
            except OSError:
                continue
