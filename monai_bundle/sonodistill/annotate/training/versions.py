"""Versions of a model: numbered copies of weights, which of them is promoted, and the way back.

A folder has one folder a version, written whole or not at all::

    00001/model.safetensors  the weights
    00001/version.json       number, file, sha256, kind, labels, created, metrics, note
    current.json             number and sha256 of the promoted version, and those promoted before it

Any number of processes may read and write; one that is killed leaves the versions and the promotion as they were.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock

from sonodistill.annotate.errors import ConflictError, UnknownIdError
from sonodistill.annotate.training.version_files import (
    BACK,
    CHECKPOINT,
    KINDS,
    RECORD,
    STEM,
    Version,
    copy_encoder,
    copy_weights,
    digest_of,
    files_of,
    is_parted,
    kind_of,
    plain,
    read_record,
    read_version,
    stamp_of,
    sync,
    write_version,
)
from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill.files import write_text

__all__ = ["CURRENT", "KINDS", "RECORD", "Version", "Versions"]

logger = logging.getLogger(__name__)

CURRENT = "current.json"
_NUMBER = re.compile(r"[0-9]{5,}")
_LOCK_SECONDS = 120.0


Listed: TypeAlias = list[Version]
Numbers: TypeAlias = list[int]


class Versions:
    """The versions of one model.

    Args:
        folder: theirs; made when the first is added.
        kinds: of weights that are taken; by default those of ``KINDS`` for the folder's name.
    """

    def __init__(self, folder: str | Path, kinds: tuple[str, ...] | None = None) -> None:
        self.folder = Path(folder)
        self.kinds = kinds or KINDS.get(self.folder.name, ("segmenter", "classifier", "interactive", "encoder"))
        self._held: tuple[object, Version] | None = None
        self._sound: dict[Path, tuple[object, str]] = {}
        self._guard = threading.Lock()

    def current(self) -> Version | None:
        """The promoted version, None where there is none yet; cheap enough to be asked for each request.

        Errors: WeightsError for weights or a record that were changed or lost since they were written.
        """
        stamp = stamp_of(self.folder / CURRENT)
        if stamp is None:
            return None
        with self._guard:
            held = self._held
        if held is None or held[0] != stamp:
            said = self._current()
            held = (stamp, self._version(int(said["number"]), str(said["sha256"])))
        self._require_sound(held[1])
        with self._guard:
            self._held = held
        return held[1]

    def list(self) -> Listed:
        """All versions by number; one whose record cannot be read is left out and logged."""
        found = []
        for number in self._numbers():
            try:
                found.append(self._version(number))
            except SonoDistillError as error:
                logger.warning("version %d is left out: %s", number, error.message)
        return found

    def get(self, number: int) -> Version:
        """Errors: UnknownIdError; WeightsError for a record that cannot be read."""
        if number not in self._numbers():
            raise UnknownIdError(f"{self.folder.name} has no version {number}", remedy="see the list of versions")
        return self._version(number)

    def begin_with(self, path: str | Path) -> Version:
        """The version of a weights file, added unless it is there; promoted only where nothing is.

        Args:
            path: a checkpoint of ours; for segmentation and classification also an exported model.

        Errors: WeightsError for a file that is not of the model's kind.
        """
        path = Path(path)
        digest = digest_of(path)
        with self._locked():
            version = next((one for one in self.list() if digest in (one.sha256, one.metrics.get("source"))), None)
            version = version or self._add(path, {}, f"given as {path.name}")
            promoted = self._current()["number"]
            if promoted is None:
                self._point_at(version, [])
            elif promoted != version.number:
                logger.info("%s goes on with version %d, not %s", self.folder.name, promoted, path.name)
        return version

    def add(self, path: str | Path, metrics: Mapping[str, Any] | None = None, note: str = "") -> Version:
        """Copy a weights file in as the next version, without promoting it.

        Errors: WeightsError for a file that is not of the model's kind.
        """
        with self._locked():
            return self._add(Path(path), dict(metrics or {}), note)

    def promote(self, number: int) -> Version:
        """Make a version the current one, whatever was measured on it.

        Errors: UnknownIdError; WeightsError when its weights were changed or lost.
        """
        with self._locked():
            version = self.get(number)
            self._require_sound(version)
            said = self._current()
            if said["number"] != number:
                before = [] if said["number"] is None else [*said["before"], said["number"]]
                self._point_at(version, before)
            return version

    def rollback(self) -> Version:
        """Go back to the version that was promoted before this one; one that is lost or changed is passed over.

        Errors: ConflictError when there is none.
        """
        with self._locked():
            before = [int(number) for number in self._current()["before"]]
            while before:
                number = before.pop()
                try:
                    version = self.get(number)
                    self._require_sound(version)
                except SonoDistillError as error:
                    logger.warning("version %d is passed over: %s", number, error.message)
                    continue
                self._point_at(version, before)
                return version
        raise ConflictError(
            f"{self.folder.name} has no earlier version to go back to", remedy="promote one of the list of versions"
        )

    def prune(self, keep: int) -> Numbers:
        """Remove all but the latest ``keep`` versions and those that are or were promoted; the numbers removed."""
        with self._locked():
            said = self._current()
            numbers = self._numbers()
            spare = set(numbers[-keep:] if keep else []) | {said["number"], *said["before"]}
            gone = [number for number in numbers if number not in spare]
            for number in gone:
                away = self.folder / f".new-{secrets.token_hex(4)}"
                self._home(number).rename(away)
                shutil.rmtree(away, ignore_errors=True)
        return gone

    def _locked(self) -> FileLock:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS)

    def _numbers(self) -> Numbers:
        try:
            names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if _NUMBER.fullmatch(name))

    def _home(self, number: int) -> Path:
        return self.folder / f"{number:05d}"

    def _add(self, path: Path, metrics: dict[str, Any], note: str) -> Version:
        """Under the lock."""
        for left in self.folder.glob(".new-*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        number = max(self._numbers(), default=0) + 1
        new = self.folder / f".new-{secrets.token_hex(4)}"
        new.mkdir(mode=0o700)
        try:
            kind, labels = kind_of(path)
            if self.kinds == KINDS["embedding"] and kind != "encoder" and path.suffix.lower() == CHECKPOINT:
                metrics = {**metrics, "source": digest_of(path)}
                weights = copy_encoder(path, new / f"{STEM}{CHECKPOINT}")
                kind, labels = "encoder", ()
            else:
                metrics = {**metrics, "source": digest_of(path)} if is_parted(path) else metrics
                weights = copy_weights(path, new)
            if kind not in self.kinds:
                raise WeightsError(f"holds a {kind}, not a {' or '.join(self.kinds)}", path=path)
            version = Version(number, weights, digest_of(weights), kind, labels, time.time(), plain(metrics), note)
            write_version(new, version)
            sync(new)
            new.rename(self._home(number))
            sync(self.folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        return replace(version, path=self._home(number) / weights.name)

    def _point_at(self, version: Version, before: Numbers) -> None:
        """Under the lock."""
        said = {"number": version.number, "sha256": version.sha256, "before": before[-1000:]}
        write_text(self.folder / CURRENT, json.dumps(said))

    def _current(self) -> dict[str, Any]:
        path = self.folder / CURRENT
        if not path.is_file():
            return {"number": None, "sha256": "", "before": []}
        said = read_record(path)
        if not isinstance(said.get("number"), int) or not isinstance(said.get("before"), list):
            raise WeightsError("names no version", path=path, remedy="promote a version again after removing it")
        return said

    def _version(self, number: int, digest: str | None = None) -> Version:
        version = read_version(self._home(number), number)
        if digest is not None and version.sha256 != digest:
            raise WeightsError("is not the version that was promoted", path=self._home(number), remedy=BACK)
        return version

    def _require_sound(self, version: Version) -> None:
        """The weights are read again only when their file changed."""
        stamp = tuple(map(stamp_of, files_of(version.path)))
        with self._guard:
            known = self._sound.get(version.path)
        if known == (stamp, version.sha256):
            return
        if None in stamp or digest_of(version.path) != version.sha256:
            raise WeightsError(f"version {version.number} was changed or lost", path=version.path, remedy=BACK)
        with self._guard:
            self._sound[version.path] = (stamp, version.sha256)
