"""Files by their digest: at hand for the jobs that need them, in quarantine for those that ended badly, or gone."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sonodistill.dicom.service.ledger import Ledger
from sonodistill.dicom.service.records import State

_NAME = re.compile(r"([0-9a-f]{64})\.dcm")
_PLACES = {State.RECEIVED: "instances", State.DEAD: "quarantine"}


class Store:
    """Two folders of files FF/SHA256.dcm, FF being the first digits.

    A file may be in both, for two jobs. Which jobs there are decides where it is: :meth:`arrange` makes it so, in any
    state it finds, and any number of times. Places are named by a state: RECEIVED is at hand, DEAD (or REFUSED) is
    quarantine.
    """

    def __init__(self, folder: Path, jobs: Ledger) -> None:
        self._jobs = jobs
        self._folders = {place: folder / name for place, name in _PLACES.items()}
        for each in self._folders.values():
            each.mkdir(mode=0o700, exist_ok=True)

    def path(self, place: State, digest: str) -> Path:
        """Where a file is, or would be."""
        return self._folders[State.DEAD if place is State.REFUSED else place] / digest[:2] / f"{digest}.dcm"

    def is_in(self, place: State, digest: str) -> bool:
        """Whether the file is there, and no link."""
        path = self.path(place, digest)
        return path.is_file() and not path.is_symlink()

    def find(self, digest: str) -> Path | None:
        """The file, wherever it is."""
        return next((self.path(place, digest) for place in _PLACES if self.is_in(place, digest)), None)

    def digests(self, place: State) -> Iterator[str]:
        """Of all files that are there; whatever else lies about is passed over."""
        for shard in sorted(self._folders[place].iterdir()):
            if len(shard.name) != 2 or shard.is_symlink() or not shard.is_dir():
                continue
            with os.scandir(shard) as entries:
                names = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
            for name in names:
                found = _NAME.fullmatch(name)
                if found and found[1].startswith(shard.name):
                    yield found[1]

    @contextmanager
    def shard(self, digest: str) -> Iterator[None]:
        """Nobody else, thread or process, moves a file of these first digits inside the block."""
        for folder in self._folders.values():
            shard = folder / digest[:2]
            if not shard.is_dir():
                shard.mkdir(mode=0o700, exist_ok=True)
                _flush(folder)
        handle = os.open(self._folders[State.RECEIVED] / digest[:2], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def put(self, path: Path, digest: str, place: State) -> None:
        """Move a file that is flushed to its place, durably. Inside ``shard``."""
        target = self.path(place, digest)
        path.replace(target)
        _flush(target.parent)

    def settle(self, digest: str) -> None:
        """:meth:`arrange`, for whoever is not inside ``shard``."""
        with self.shard(digest):
            self.arrange(digest)

    def arrange(self, digest: str) -> None:
        """Have the file where its jobs need it, and nowhere else. Inside ``shard``."""
        wanted = self._jobs.wanted(digest)
        here = {place for place in _PLACES if self.is_in(place, digest)}
        for place in wanted - here if here else ():
            source = next(iter(here))
            if source in wanted:
                self._copy(self.path(source, digest), self.path(place, digest))
            else:
                self.put(self.path(source, digest), digest, place)
                here.remove(source)
        for place in here - wanted:
            self.path(place, digest).unlink(missing_ok=True)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        temporary = target.with_suffix(".tmp")
        try:
            shutil.copyfile(source, temporary, follow_symlinks=False)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        _flush(target.parent)


def _flush(folder: Path) -> None:
    """Have the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
