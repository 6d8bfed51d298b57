"""Which files of a folder can be annotated: each opened once, by whom looks first or by a thread."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from sonodistill.annotate.ids import item_id
from sonodistill.annotate.model import Item
from sonodistill.annotate.studies.file_index import FileIndex, Known, key_of, stamp_of
from sonodistill.annotate.studies.probe import learn
from sonodistill.errors import EmptyInputError, SonoDistillError, UnreadableFileError
from sonodistill.frames import find_files

_LOGGER = logging.getLogger(__name__)
_BATCH = 100
_SLICE = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, what is known of it, and the key it is known by."""

    item: Item
    known: Known
    key: str


class Listing:
    """The files of a folder, in any thread.

    Args:
        studies: the folder, absolute.
        work: where what was learnt is kept; what lies in it is not listed.
        patience: seconds that ``refresh`` opens new files for; a thread opens the rest.

    Attributes:
        home: the folder without links.
        pending: files that have not been opened yet.
    """

    def __init__(self, studies: Path, work: Path, patience: float) -> None:
        self._studies, self._work, self._patience = studies, work.resolve(), patience
        self.home = studies.resolve()
        self._index = FileIndex(work)
        self._known = self._index.known
        self._looking, self._lock = threading.RLock(), threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._skipped: list[tuple[str, str]] = []
        self._by_key: dict[str, Entry] = {}
        self.pending = self._changes = self._told = 0
        self._closed = threading.Event()
        self._learner: threading.Thread | None = None

    def close(self) -> None:
        """End the thread, and close the index."""
        self._closed.set()
        if self._learner is not None:
            self._learner.join()
        with self._looking:
            self._index.close()

    def entries(self) -> list[Entry]:
        """The items, by name."""
        with self._lock:
            return list(self._entries.values())

    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of what is no item."""
        with self._lock:
            return list(self._skipped)

    def get(self, id: str) -> Entry | None:
        """The item of that id."""
        with self._lock:
            return self._entries.get(id)

    def refresh(self) -> bool:
        """Look for new, changed and vanished files; whether anything changed since this was called last."""
        busy = self._learner is not None and self._learner.is_alive()
        if not busy and self._look(time.monotonic() + self._patience) and not self._closed.is_set():
            self._learner = threading.Thread(target=self._learn_rest, name="sonodistill-catalogue", daemon=True)
            self._learner.start()
        with self._lock:
            changed, self._told = self._changes != self._told, self._changes
        return changed

    def add(self, path: Path) -> Entry:
        """List one more file, which was uploaded. Errors: UnreadableFileError when it is no item."""
        name = self._name(path)
        key = key_of(name)
        with self._looking:
            known = learn(path, stamp_of(path), self._index.secret)
            entry = _entry(path, name, key, known)
            if known.reason or self._entries.get(entry.item.id, entry).key != key:
                raise UnreadableFileError("the file cannot be used", path=path.name, remedy="give it another name")
            self._index.add_upload(key)
            self._learnt({key: known})
            self._by_key[key] = entry
            entries = sorted([*self._entries.values(), entry], key=lambda one: one.item.path)
            self._publish({one.item.id: one for one in entries}, self._skipped)
        return entry

    def is_upload(self, entry: Entry) -> bool:
        """Whether it was added."""
        return self._index.is_upload(entry.key)

    def drop(self, entry: Entry) -> None:
        """List it no longer."""
        with self._looking:
            self._publish({id: one for id, one in self._entries.items() if one is not entry}, self._skipped)

    def skip(self, entry: Entry, reason: str) -> None:
        """List it as one that cannot be used, until it changes or the listing is made anew."""
        with self._looking:
            if self._known.get(entry.key) is entry.known:
                self._known[entry.key] = replace(entry.known, reason=reason)
                entries = {id: one for id, one in self._entries.items() if one is not entry}
                self._publish(entries, [*self._skipped, (entry.item.name, reason)])

    def _name(self, path: Path) -> str:
        return os.fspath(path)[len(os.fspath(self._studies).rstrip(os.sep)) + 1 :].replace(os.sep, "/")

    def _files(self) -> list[Path]:
        try:
            files = find_files(self._studies)
        except EmptyInputError:
            return []
        if self._work == self.home or not self._work.is_relative_to(self.home):
            return files
        inner = os.path.join(self._studies, self._work.relative_to(self.home), "")  # noqa: PTH118
        return [file for file in files if not os.fspath(file).startswith(inner)]

    def _look(self, until: float) -> int:
        """List the folder, and open new files until that time (``time.monotonic``); how many are left."""
        with self._looking:
            entries: dict[str, Entry] = {}
            by_key: dict[str, Entry] = {}
            skipped: list[tuple[str, str]] = []
            fresh: dict[str, Known] = {}
            pending = 0
            for path in self._files():
                name = self._name(path)
                key = key_of(name)
                try:
                    stamp = stamp_of(path)
                except OSError:  # gone since it was listed
                    continue
                known = self._known.get(key)
                if known is None or known.stamp != stamp:
                    if time.monotonic() >= until or self._closed.is_set():
                        pending += 1
                        continue
                    known = fresh[key] = learn(path, stamp, self._index.secret)
                    if len(fresh) >= _BATCH:
                        self._learnt(fresh)
                old = self._by_key.get(key)
                entry = old if old is not None and old.known is known else _entry(path, name, key, known)
                by_key[key] = entry
                if known.reason:
                    skipped.append((entry.item.name, known.reason))
                elif (other := entries.setdefault(entry.item.id, entry)) is not entry:
                    skipped.append((entry.item.name, f"its id would be that of {other.item.name}: rename it"))
            self._learnt(fresh)
            if not pending:
                self._forget(self._known.keys() - by_key.keys())
            self._by_key, self.pending = by_key, pending
            self._publish(entries, skipped)
            return pending

    def _publish(self, entries: dict[str, Entry], skipped: list[tuple[str, str]]) -> None:
        with self._lock:
            self._changes += (entries, skipped) != (self._entries, self._skipped)
            self._entries, self._skipped = entries, skipped

    def _learnt(self, fresh: dict[str, Known]) -> None:
        self._known.update(fresh)
        self._index.put(fresh.items())
        fresh.clear()

    def _forget(self, gone: Collection[str]) -> None:
        for key in gone:
            del self._known[key]
        self._index.drop(gone)

    def _learn_rest(self) -> None:
        try:
            while not self._closed.is_set() and self._look(time.monotonic() + _SLICE):
                pass
        except SonoDistillError as error:
            _LOGGER.warning("the studies cannot be listed: %s", error.message)


def _entry(path: Path, name: str, key: str, known: Known) -> Entry:
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    group = known.identity or shown.rpartition("/")[0]
    return Entry(Item(item_id(name), shown, known.kind, known.frames, path, group, known.series), known, key)
