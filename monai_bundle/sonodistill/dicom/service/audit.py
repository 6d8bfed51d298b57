"""The audit log: who sent what when, and what became of it, in lines that are chained and hold no patient data."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from sonodistill.dicom.errors import SpoolError

_NONE = "0" * 64
_KEY_BYTES = 32
_MAX_BYTES = 64 << 20
_TAIL = 4096
_WORD = re.compile(r"[\w.:@ -]{0,64}", re.ASCII)
_HASH = re.compile(rb',"hash":"([0-9a-f]{64})"\}')
_HASHED = 75  # bytes of the part that _HASH matches


class Audit:
    """An append-only log of JSON lines; threads and processes may share it.

    A line holds time (UTC), event, prev and hash, and what else is known. ``prev`` is the hash of the line before;
    ``hash`` is the SHA-256 of the line up to it. A full file is renamed to NAME.000001, NAME.000002, ..., and the next
    goes on with the chain. The chain shows damage and changes; not that its last lines were cut off, or that somebody
    wrote all of it anew: for that, keep the last hash elsewhere from time to time.

    Args:
        path: the file.
        key: of the HMAC that stands for UIDs and peers; see :func:`audit_key`.
        max_bytes: of a file.
        fsync: whether a line is on disk before its call returns.
    """

    def __init__(self, path: Path, key: bytes, *, max_bytes: int = _MAX_BYTES, fsync: bool = False) -> None:
        self.path = Path(path)
        self._key = key
        self._max_bytes = max_bytes
        self._fsync = fsync

    def record(
        self,
        event: str,
        *,
        job: int | None = None,
        delivery: int | None = None,
        via: str = "",
        state: str = "",
        destination: str = "",
        sop_uid: str = "",
        study_uid: str = "",
        peer: str = "",
    ) -> None:
        """Append a line; what is empty is left out.

        Args:
            event: "accepted", "known", "refused", "done", "sent", "dead", "retried", "purged", "started", ...
            job, delivery: numbers of the queue.
            via, state, destination: words of the program and of its configuration; anything else is left out.
            sop_uid, study_uid, peer: written as their keyed HMAC-SHA256.
        """
        facts: dict[str, object] = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "event": event,
        }
        facts.update({name: value for name, value in (("job", job), ("delivery", delivery)) if value is not None})
        words = {"via": via, "state": state, "destination": destination}
        facts.update({name: text for name, text in words.items() if text and _WORD.fullmatch(text)})
        hidden = {"sop": sop_uid, "study": study_uid, "peer": peer}
        facts.update({name: self.hidden(text) for name, text in hidden.items() if text})
        with self._locked():
            self._append(facts)

    def hidden(self, text: str) -> str:
        """What stands for a UID or peer in the log, to look it up by: its HMAC-SHA256, hex."""
        return hmac.new(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()

    def _append(self, facts: dict[str, object]) -> None:
        handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            previous, torn = _end(handle)
            if previous is None:
                previous = self._end_of_old()
            lines = b"\n" if torn else b""
            if whole := _hash(torn):
                previous = whole  # but for its end
            elif torn:  # a power cut left part of a line: it stays as it is, and a line says so
                note, previous = _line({"time": facts["time"], "event": "torn", "bytes": len(torn)}, previous)
                lines += note
            line, _ = _line(facts, previous)
            lines += line
            if os.write(handle, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            if self._fsync:
                os.fsync(handle)
            size = os.fstat(handle).st_size
        finally:
            os.close(handle)
        if size >= self._max_bytes:
            number = max(map(_number, _rotated(self.path)), default=0) + 1
            self.path.rename(self.path.with_name(f"{self.path.name}.{number:06d}"))

    def _end_of_old(self) -> str:
        """The last hash of the file that was renamed last, which the first line of a new one names."""
        for old in reversed(_rotated(self.path)):
            handle = os.open(old, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return _end(handle)[0] or _NONE
            finally:
                os.close(handle)
        return _NONE

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, over all processes; the log itself may be renamed meanwhile."""
        handle = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def audit_key(path: Path) -> bytes:
    """The key of a spool's audit log, made at random when there is none.

    Errors: SpoolError when the file is none, or others may read it.
    """
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was faster: its key is the key
                path.hardlink_to(temporary)
        finally:
            temporary.unlink(missing_ok=True)
    if path.stat().st_mode & 0o077:
        raise SpoolError("others may read this key", path=path, remedy="chmod 600 it, and see who could read the log")
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise SpoolError(f"this key has {len(key)} bytes, not {_KEY_BYTES}", path=path, remedy="restore it")
    return key


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a log.

    Attributes:
        files, lines: that were read, as far as the first broken line.
        torn: lines that a power cut cut off; each is followed by one that says so, or is the last.
        complete: whether it starts at the first line that ever was.
        last: hash of the last whole line, to be compared with one that was kept elsewhere.
        broken: "FILE line N: why" of the first that is; empty when none is.
    """

    files: int
    lines: int
    torn: int
    complete: bool
    last: str
    broken: str


def verify(path: Path) -> Verdict:
    """Follow the chain of a log through its files, the renamed ones first.

    Errors: SpoolError when there is no such log.
    """
    files = [*_rotated(path), *([path] if path.is_file() else [])]
    if not files:
        raise SpoolError("there is no audit log", path=path)
    chain = _Chain()
    for count, each in enumerate(files, 1):
        with each.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if broken := chain.follow(raw, f"{each.name} line {number}"):
                    return Verdict(count, chain.lines, chain.torn, chain.complete, chain.last or _NONE, broken)
    torn = chain.torn + bool(chain.cut and chain.cut_at_end)
    broken = "" if chain.cut_at_end or not chain.cut else f"{chain.cut}: it was changed or damaged"
    return Verdict(len(files), chain.lines, torn, chain.complete, chain.last or _NONE, broken)


@dataclass(slots=True)
class _Chain:
    """How far a chain holds; ``cut`` names a line that is not whole until the next one explains it."""

    last: str | None = None
    lines: int = 0
    torn: int = 0
    complete: bool = True
    cut: str = ""
    cut_bytes: int = 0
    cut_at_end: bool = False

    def follow(self, raw: bytes, where: str) -> str:
        """Read the next line; says what is broken."""
        body = raw.removesuffix(b"\n")
        digest = _hash(body)
        if not digest:
            if self.cut:
                return f"{self.cut}: it was changed or damaged"
            self.cut, self.cut_bytes, self.cut_at_end = where, len(body), not raw.endswith(b"\n")
            return ""
        facts = json.loads(body)
        if self.cut and not (facts["event"] == "torn" and facts.get("bytes") == self.cut_bytes):
            return f"{self.cut}: it was changed or damaged"
        if facts["event"] == "torn" and not self.cut:
            return f"{where}: the torn line before it is gone"
        if self.last is None:
            self.complete = facts["prev"] == _NONE
        elif facts["prev"] != self.last:
            return f"{where}: it does not follow the line before"
        self.torn += bool(self.cut)
        self.cut, self.cut_at_end = "", False
        self.last, self.lines = digest, self.lines + 1
        return ""


def _line(facts: dict[str, object], previous: str) -> tuple[bytes, str]:
    """(the line, its hash)."""
    body = json.dumps({**facts, "prev": previous}, separators=(",", ":"))[:-1].encode("ascii")
    digest = hashlib.sha256(body).hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode("ascii"), digest


def _hash(line: bytes) -> str:
    """The hash of a line, without its end; empty when the line is not what was written."""
    found = _HASH.fullmatch(line[-_HASHED:])
    digest = hashlib.sha256(line[:-_HASHED]).hexdigest()
    return digest if found and found[1].decode() == digest else ""


def _end(handle: int) -> tuple[str | None, bytes]:
    """(hash that the next line has to name, None before the first; what follows the last whole line)."""
    size, window = os.fstat(handle).st_size, _TAIL
    while True:
        start = max(0, size - window)
        tail = os.pread(handle, size - start, start)
        whole, newline, torn = tail.rpartition(b"\n")
        if start == 0 or b"\n" in whole:
            break
        window *= 4
    if not newline:
        return None, torn
    line = whole.rpartition(b"\n")[2]
    found = _HASH.fullmatch(line[-_HASHED:])
    # A last line that was spoiled is no reason to stop; verify finds it.
    return (found[1].decode() if found else hashlib.sha256(line).hexdigest()), torn


def _rotated(path: Path) -> list[Path]:
    """The renamed files of a log, oldest first."""
    named = re.compile(re.escape(path.name) + r"\.\d{6,}")
    return sorted((each for each in path.parent.iterdir() if named.fullmatch(each.name)), key=_number)


def _number(path: Path) -> int:
    return int(path.suffix[1:])
