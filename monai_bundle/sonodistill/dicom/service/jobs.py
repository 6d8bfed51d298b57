"""The queue: every instance that arrived is one row, worked on by one worker at a time, delivered until confirmed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sonodistill.dicom.service.database import Database
from sonodistill.dicom.service.leases import Leases, Retries
from sonodistill.dicom.service.ledger import Ledger, delivery_of, job_of
from sonodistill.dicom.service.records import Delivery, Job, Result, State

_PEER = 200
_STRAY = "the configuration has no destination of that name any more"


class Jobs(Ledger):
    """The queue in an SQLite file; threads and processes may share it.

    The spool's files are the truth: what a power cut takes from the queue, Spool.recover puts back.

    Args:
        path: of the file.
        retries: of jobs.
        delivery_retries: of deliveries; by default as of jobs.
        clock: seconds since the epoch.

    Errors: SpoolError when the file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        retries: Retries | None = None,
        *,
        delivery_retries: Retries | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        retries = retries or Retries()
        super().__init__(
            Database(Path(path)),
            clock,
            Leases("jobs", State.RECEIVED, retries),
            Leases("deliveries", State.QUEUED, delivery_retries or retries),
        )

    def add(
        self,
        *,
        sop_uid: str,
        study_uid: str,
        file_sha256: str,
        config_sha256: str,
        via: str,
        peer: str,
        size: int,
        refused: str = "",
    ) -> tuple[Job, bool]:
        """(the job of a file that arrived, whether it is new).

        The same file is known while it waits or runs, and after it was done under the same configuration. Another file
        of an instance that waits, runs or is so done becomes a duplicate: it is processed only if that one ends refused
        or dead. After refused or dead, a file is a new job.

        Args:
            refused: why it is not to be processed; the same file refused again is known.
        """
        now = self._clock()
        with self._database.write() as connection:
            state, known = State.REFUSED if refused else State.RECEIVED, None
            reason = refused
            if refused:
                known = connection.execute(
                    "SELECT id FROM jobs WHERE file_sha256 = ? AND state = 'refused' AND reason = ?",
                    (file_sha256, refused),
                ).fetchone()
            elif first := self._in_the_way(connection, sop_uid, config_sha256):
                if any(row["file_sha256"] == file_sha256 for row in first):
                    known = next(row for row in first if row["file_sha256"] == file_sha256)
                else:
                    state, reason = State.DUPLICATE, f"another file of the instance of job {first[0]['id']}"
                    known = connection.execute(
                        "SELECT id FROM jobs WHERE sop_uid = ? AND state = 'duplicate' AND file_sha256 = ?",
                        (sop_uid, file_sha256),
                    ).fetchone()
            if known is not None:
                connection.execute(
                    "UPDATE jobs SET arrivals = arrivals + 1, settled = CASE state WHEN 'duplicate' THEN 0 "
                    "ELSE settled END WHERE id = ?",
                    (known["id"],),
                )
                return job_of(connection, known["id"]), False
            number = connection.execute(
                "INSERT INTO jobs (sop_uid, study_uid, file_sha256, config_sha256, via, peer, size, state, next_at, "
                "reason, received_at, finished_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(sop_uid, study_uid, file_sha256, config_sha256, via, peer[:_PEER], size, state.value, now),
                    *(reason, now, None if state is State.RECEIVED else now),
                ),
            ).lastrowid
            return job_of(connection, int(number or 0)), True

    def claim(self, owner: str, lease_seconds: float) -> Job | None:
        """The job that is due longest, the owner's for so long; None when none is due.

        A lease that ran out is given back first, or ends dead after its last attempt.
        """
        now = self._clock()
        with self._database.read() as connection:
            if not self._jobs.waiting(connection, now):
                return None
        with self._database.write() as connection:
            for number in self._jobs.reap(connection, now):
                self._promote_duplicate(connection, number, now)
            claimed = self._jobs.claim(connection, owner, now, lease_seconds)
            return None if claimed is None else job_of(connection, claimed)

    def reap(self) -> list[Job]:
        """Take back the jobs whose lease ran out; gives those that are dead by it, their last attempt being over."""
        now = self._clock()
        with self._database.read() as connection:
            if not self._jobs.expired(connection, now):
                return []
        with self._database.write() as connection:
            dead = self._jobs.reap(connection, now)
            for number in dead:
                self._promote_duplicate(connection, number, now)
            return [job_of(connection, number) for number in dead]

    def renew(self, job: int, owner: str, lease_seconds: float) -> bool:
        """Keep the job; False when it is another's by now."""
        with self._database.write() as connection:
            return self._jobs.renew(connection, job, owner, self._clock() + lease_seconds)

    def finish(
        self, job: int, owner: str, results: Sequence[Result], destinations: Sequence[str], *, route: str = ""
    ) -> None:
        """The job is done: its results and their deliveries are recorded, all or nothing.

        Errors: LeaseLostError.
        """
        now = self._clock()
        with self._database.write() as connection:
            self._jobs.held(connection, job, owner)
            connection.executemany(
                "INSERT INTO results (job, kind, uid, path, sha256) VALUES (?, ?, ?, ?, ?)",
                [(job, each.kind, each.uid, each.path, each.sha256) for each in results],
            )
            connection.executemany(
                "INSERT INTO deliveries (job, destination, state, next_at, received_at) VALUES (?, ?, 'queued', ?, ?)",
                [(job, name, now, now) for name in dict.fromkeys(destinations)],
            )
            self._jobs.end(connection, job, State.DONE, "", now)
            connection.execute("UPDATE jobs SET route = ? WHERE id = ?", (route, job))

    def fail(self, job: int, owner: str, reason: str, *, permanent: bool = False) -> State:
        """The attempt failed: the job is received again, later, or dead.

        Args:
            reason: without patient data; it is shown.

        Errors: LeaseLostError.
        """
        now = self._clock()
        with self._database.write() as connection:
            row = self._jobs.held(connection, job, owner)
            state = self._jobs.fail(connection, row, reason, permanent=permanent, now=now)
            if state is State.DEAD:
                self._promote_duplicate(connection, job, now)
            return state

    def refuse(self, job: int, owner: str, reason: str) -> None:
        """The instance is none of those that are processed.

        Errors: LeaseLostError.
        """
        now = self._clock()
        with self._database.write() as connection:
            self._jobs.held(connection, job, owner)
            self._jobs.end(connection, job, State.REFUSED, reason, now)
            self._promote_duplicate(connection, job, now)

    def release(self, owner: str) -> int:
        """Give back all jobs and deliveries of an owner that stops, without counting the attempt; says how many."""
        with self._database.write() as connection:
            return self._jobs.release(connection, owner) + self._deliveries.release(connection, owner)

    def claim_delivery(self, destination: str, owner: str, lease_seconds: float) -> Delivery | None:
        """The delivery to a destination that is due longest; as claim."""
        now = self._clock()
        with self._database.read() as connection:
            if not self._deliveries.waiting(connection, now, destination):
                return None
        with self._database.write() as connection:
            self._deliveries.reap(connection, now)
            number = self._deliveries.claim(connection, owner, now, lease_seconds, destination)
            return None if number is None else delivery_of(connection, number)

    def renew_delivery(self, delivery: int, owner: str, lease_seconds: float) -> bool:
        """Keep the delivery; False when it is another's by now."""
        with self._database.write() as connection:
            return self._deliveries.renew(connection, delivery, owner, self._clock() + lease_seconds)

    def finish_delivery(self, delivery: int, owner: str) -> None:
        """The destination has confirmed every result.

        Errors: LeaseLostError.
        """
        with self._database.write() as connection:
            self._deliveries.held(connection, delivery, owner)
            self._deliveries.end(connection, delivery, State.DONE, "", self._clock())

    def fail_delivery(self, delivery: int, owner: str, reason: str, *, permanent: bool = False) -> State:
        """The destination did not take it: the delivery is queued again, later, or dead.

        Errors: LeaseLostError.
        """
        with self._database.write() as connection:
            row = self._deliveries.held(connection, delivery, owner)
            return self._deliveries.fail(connection, row, reason, permanent=permanent, now=self._clock())

    def end_strays(self, destinations: Sequence[str]) -> list[Delivery]:
        """Deliveries to any other destination end dead: nobody would ever send them, or let go of their files."""
        now = self._clock()
        with self._database.write() as connection:
            rows = connection.execute(
                "SELECT id, destination FROM deliveries WHERE state IN ('queued', 'running')"
            ).fetchall()
            strays = [row["id"] for row in rows if row["destination"] not in destinations]
            for number in strays:
                self._deliveries.end(connection, number, State.DEAD, _STRAY, now)
            return [delivery_of(connection, number) for number in strays]

    def _in_the_way(self, connection: sqlite3.Connection, sop_uid: str, config_sha256: str) -> list[sqlite3.Row]:
        """The job of the instance that waits or runs, else those that are done under this configuration."""
        active = connection.execute(
            "SELECT id, file_sha256 FROM jobs WHERE sop_uid = ? AND state IN ('received', 'running')", (sop_uid,)
        ).fetchall()
        return (
            active
            or connection.execute(
                "SELECT id, file_sha256 FROM jobs WHERE sop_uid = ? AND state = 'done' AND config_sha256 = ? "
                "ORDER BY id",
                (sop_uid, config_sha256),
            ).fetchall()
        )
