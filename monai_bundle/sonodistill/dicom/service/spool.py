"""The spool: a file that arrives is on disk whole before it is acknowledged, and leaves when nobody needs it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sonodistill.dicom.errors import NoRoomError, QueueError, SpoolError
from sonodistill.dicom.service.audit import Audit, audit_key
from sonodistill.dicom.service.header import HEAD_BYTES, Identity, check_class, identify
from sonodistill.dicom.service.intake import Outcome, Receipt
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.leases import Retries
from sonodistill.dicom.service.letters import Letters
from sonodistill.dicom.service.records import Job, State
from sonodistill.dicom.service.recovery import adopt, bury
from sonodistill.dicom.service.store import Store
from sonodistill.dicom.settings import Service
from sonodistill.errors import UnreadableFileError, UnsupportedFormatError

logger = logging.getLogger(__name__)

_OURS = {"incoming", "instances", "quarantine", "results", "run", "lock", "jobs", "audit", "", "lost+found"}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Spool(Letters):
    """The files of the service and their queue; the Intake of every way in.

    Below ``settings.spool``, which only its owner may enter: ``incoming/`` (arriving), ``instances/`` (waiting,
    running, or done and not delivered), ``quarantine/`` (refused or dead), both by digest, ``results/JOB/``,
    ``jobs.sqlite``, ``audit.jsonl`` and its key, ``lock``. No text of a file is ever part of a path.

    Several processes of one service may each have one; see :func:`open_spool`.

    Args:
        settings: folder and bounds.
        jobs: the queue, in ``settings.spool / "jobs.sqlite"``.
        audit: the log.
        config_sha256: of what decides on results; a file that was done under another is processed again.
    """

    def __init__(self, settings: Service, jobs: Jobs, audit: Audit, config_sha256: str) -> None:
        folder = private_folder(Path(settings.spool))
        super().__init__(jobs, audit, Store(folder, jobs), private_folder(folder / "results"))
        self._settings = settings
        self._config = config_sha256
        self._folder = folder
        self._incoming = private_folder(folder / "incoming")
        self._lock: int | None = None
        self._born = time.time()

    def acquire(self) -> None:
        """Be the one service that uses this spool, until ``close`` or the end of the process.

        Errors: SpoolError when another is.
        """
        if self._lock is not None:
            return
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise SpoolError(
                "another service uses this spool", path=self._folder, remedy="stop it, or give this one its own spool"
            ) from None
        self._lock = handle

    def close(self) -> None:
        """Let another service use the spool, and close this thread's connection to the queue."""
        self.jobs.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def has_room(self) -> bool:
        """Whether the disk has the reserve, and is not fuller than allowed."""
        disk = shutil.disk_usage(self._folder)
        used = 100.0 * disk.used / max(disk.used + disk.free, 1)  # as df; what is reserved for root is neither
        return disk.free >= self._settings.reserve_gb * 1e9 and used <= self._settings.max_used_percent

    def knows(self, sop_uid: str) -> bool:
        """Whether there is a job of an instance, however it ended; one done under another configuration is none."""
        return self.jobs.knows(sop_uid, self._config)

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A new path to write a file to; what is still there at the end of the block is removed."""
        path = self._incoming / f"{uuid.uuid4().hex}.part"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def turn_away(self, reason: str, *, via: str, peer: str) -> None:
        """Note in the audit log what was refused before there was a whole file."""
        self.audit.record("turned away", state=reason, via=via, peer=peer)

    def accept(self, path: Path, *, via: str, peer: str) -> Receipt:
        """Take a file of ``incoming``: flush it, look at its identifiers, and put it in the queue; then answer.

        Killed at any point, the file is a job once, or was not acknowledged. A file that is too large is refused and
        not kept; others that are refused are kept in quarantine.

        Errors: NoRoomError when the disk is full: the file is to be sent again, though it may have been taken.
            ValueError when the path is none of ``incoming``.
        """
        if path.parent != self._incoming:
            raise ValueError("only files of incoming are accepted")
        try:
            return self._accepted(path, via, peer)
        except (OSError, sqlite3.OperationalError) as error:
            if not _is_full(error):
                raise
            raise NoRoomError("the disk of the spool is full", path=self._folder, remedy="make room") from error

    def source(self, job: Job) -> Path:
        """The file of a job.

        Errors: QueueError when it is gone.
        """
        if self.store.find(job.file_sha256) is None:
            self.store.settle(job.file_sha256)
        found = self.store.find(job.file_sha256)
        if found is None:
            raise QueueError(f"the file of job {job.id} is not in the spool", remedy="send it again")
        return found

    def results_folder(self, job: Job) -> Path:
        """An empty folder for the results of this attempt."""
        folder = self.results / str(job.id) / str(job.attempts)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def recover(self) -> dict[str, int]:
        """Make queue and files agree after any end of the service before; call it before anything else runs.

        Every file in ``instances`` is a job afterwards, leases are over, jobs without a file are dead, and what was
        arriving is removed.

        Returns: how many files were found arriving ("leftovers"), got a job ("recovered"), and are missing ("lost").

        Errors: SpoolError when another service uses the spool.
        """
        self.acquire()
        self.jobs.restart(self._config)
        leftovers = [each for each in self._incoming.iterdir() if each.lstat().st_mtime < self._born]
        for each in leftovers:
            each.unlink()

        def register(digest: str, size: int, head: bytes, refused: str) -> tuple[Job, bool]:
            who, why = _look(head)
            return self._add(digest, size, who, refused or why, via="recovered", peer="")

        recovered, lost = adopt(self.store, self.jobs, register), bury(self.store, self.jobs)
        for event, jobs in {"recovered": recovered, "dead": lost}.items():
            for job in jobs:
                self.note(event, job)
        self.tidy()
        for folder in self.results.iterdir():
            if not (folder.name.isdecimal() and self.jobs.keeps_results(int(folder.name))):
                shutil.rmtree(folder, ignore_errors=True)
        report = {"leftovers": len(leftovers), "recovered": len(recovered), "lost": len(lost)}
        logger.info("spool recovered: %s", report)
        return report

    def _accepted(self, path: Path, via: str, peer: str) -> Receipt:
        digest, size, head = _flushed(path)
        who, refused = _look(head)
        if too_large := size > self._settings.max_file_mb << 20:
            refused = f"it has more than {self._settings.max_file_mb} MB"
            path.unlink()
        with self.store.shard(digest):
            try:
                if not too_large:
                    self.store.put(path, digest, State.REFUSED if refused else State.RECEIVED)
                job, new = self._add(digest, size, who, refused, via=via, peer=peer)
            except BaseException:
                with suppress(sqlite3.Error, OSError):
                    self.store.arrange(digest)
                raise
            if not new:
                self.store.arrange(digest)
        if job.state is State.DUPLICATE:
            self.forget(job.id)  # unless the instance's job may still end badly
        outcome = Outcome.REFUSED if refused else Outcome.KNOWN
        if new and job.state is State.RECEIVED:
            outcome = Outcome.ACCEPTED
        self.note(outcome.value, job, via=via, peer=peer)
        return Receipt(outcome, job.id, refused)

    def _add(self, digest: str, size: int, who: Identity, refused: str, *, via: str, peer: str) -> tuple[Job, bool]:
        return self.jobs.add(
            sop_uid=who.sop_uid,
            study_uid=who.study_uid,
            file_sha256=digest,
            config_sha256=self._config,
            via=via,
            peer=peer,
            size=size,
            refused=refused,
        )


def open_spool(settings: Service, config_sha256: str = "", *, create: bool = True) -> Spool:
    """The spool of a service, with its queue and its log; for each process anew.

    Args:
        create: whether it is made where there is none.

    Errors: SpoolError.
    """
    folder = Path(settings.spool)
    if not create and not (folder / "jobs.sqlite").is_file():
        raise SpoolError("this is no spool", path=folder, remedy="give the folder service.spool of the configuration")
    _check_ours(folder)
    private_folder(folder)
    retries = Retries(settings.max_attempts, settings.retry_seconds)
    audit = Audit(folder / "audit.jsonl", audit_key(folder / "audit.key"))
    deliveries = Retries(settings.delivery_attempts, settings.retry_seconds)
    jobs = Jobs(folder / "jobs.sqlite", retries, delivery_retries=deliveries)
    return Spool(settings, jobs, audit, config_sha256)


def _check_ours(folder: Path) -> None:
    """That a folder is a spool or may become one: others may need what else lies there, and could not enter it then.

    Errors: SpoolError.
    """
    with suppress(FileNotFoundError):
        foreign = [each.name for each in folder.iterdir() if each.name.split(".")[0] not in _OURS]
        if foreign and not (folder / "jobs.sqlite").is_file():
            raise SpoolError("this folder holds other files", path=folder, remedy="give service.spool its own folder")


def private_folder(folder: Path) -> Path:
    """The folder, made where it is missing, for its owner alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if stat.S_IMODE(folder.stat().st_mode) != 0o700:
        folder.chmod(0o700)
    return folder


def _look(head: bytes) -> tuple[Identity, str]:
    """(what a file says it is, why it is refused; empty if it is not)."""
    who = Identity("", "", "")
    try:
        who = identify(head)
        check_class(who)
    except (UnreadableFileError, UnsupportedFormatError) as error:
        return who, error.message
    return who, ""


def _flushed(path: Path) -> tuple[str, int, bytes]:
    """(SHA-256, size, first bytes) of a regular file that is on disk now."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("only regular files are accepted")
        os.fchmod(handle, 0o600)
        head = file.read(HEAD_BYTES)
        digest, size = hashlib.sha256(head), len(head)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            size += len(chunk)
        os.fsync(handle)
    return digest.hexdigest(), size, head


def _is_full(error: OSError | sqlite3.OperationalError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    return "is full" in str(error) or "disk I/O error" in str(error)
