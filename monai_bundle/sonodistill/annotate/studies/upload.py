"""Files that a client sends: opened before they count, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sonodistill.annotate.errors import TooLargeError
from sonodistill.annotate.studies.probe import learn
from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.find import SUFFIXES

if TYPE_CHECKING:
    from sonodistill.annotate.studies.frame_source import FrameSource

UPLOADS = "uploads"
"""Folder of the studies that they are put into."""

_CHUNK = 1 << 20
_LONGEST = 80
_STAGING = ".incoming-"
_STALE = 3600.0
_SUFFIXES = sorted((suffix for suffixes in SUFFIXES.values() for suffix in suffixes), key=len, reverse=True)


def receive(path: Path, name: str, folder: Path, largest: int, source: FrameSource) -> Path:
    """Copy a file into ``folder`` under a name that is free there; where it lies then.

    Errors: TooLargeError above ``largest`` bytes; UnreadableFileError and UnsupportedFormatError when its first frame
        cannot be decoded.
    """
    if folder.is_symlink():
        raise UnsupportedFormatError("the folder of uploads is a link", path=folder, remedy="make it a folder")
    folder.mkdir(exist_ok=True)
    stem, suffix = safe_name(name)
    # Alone in a hidden folder: it is no item before it was opened, and a header that takes its values from another
    # file finds none.
    staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=folder))
    try:
        staged = staging / (stem + suffix)
        _copy(path, staged, largest)
        known = learn(staged, "", b"")
        if known.reason:
            raise UnreadableFileError(f"{name[:80]!r} is no image that can be annotated: {known.reason}")
        for _ in source.read(staged, known, [0]):
            pass
        return _publish(staged, folder, stem, suffix)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def safe_name(name: str) -> tuple[str, str]:
    """(stem, suffix) of a file name that is safe on every disk; the suffix is a known one, in lower case, or ""."""
    last = re.split(r"[/\\]", name)[-1]
    suffix = next((one for one in _SUFFIXES if last.lower().endswith(one)), "")
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", last[: len(last) - len(suffix)]).strip("-")[:_LONGEST].strip("-")
    return stem or "upload", suffix


def _copy(path: Path, target: Path, largest: int) -> None:
    copied = 0
    with path.open("rb") as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK):
            copied += len(chunk)
            if copied > largest:
                raise TooLargeError(f"the file is larger than {largest} bytes")
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def _publish(staged: Path, folder: Path, stem: str, suffix: str) -> Path:
    """Move the file to a name that nobody has; the name is taken first, and by one alone."""
    target = folder / (stem + suffix)
    while True:
        try:
            target.touch(exist_ok=False)
        except FileExistsError:
            target = folder / f"{stem}-{secrets.token_hex(3)}{suffix}"
        else:
            return staged.replace(target)


def sweep(folder: Path) -> None:
    """Delete what was on its way when a process was ended, an hour ago or more."""
    for staging in folder.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):
            if time.time() - staging.stat().st_mtime > _STALE:
                shutil.rmtree(staging, ignore_errors=True)
