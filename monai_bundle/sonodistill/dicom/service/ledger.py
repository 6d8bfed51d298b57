"""What the queue knows of its jobs: looking them up, counting, dead letters, and which files are still needed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from sonodistill.dicom.errors import QueueError
from sonodistill.dicom.service.database import Database
from sonodistill.dicom.service.leases import Leases
from sonodistill.dicom.service.records import Counts, Delivery, Job, Result, State

_DAY = 86400.0
_CHUNK = 500
# Ended jobs whose files the disk still has to follow: nothing is left to send, or nobody may need the other file.
_UNSETTLED = """
    settled = 0 AND state IN ('done', 'refused', 'dead', 'duplicate') AND (
        state IN ('refused', 'dead')
        OR (state = 'done' AND NOT EXISTS (SELECT 1 FROM deliveries WHERE job = jobs.id AND state <> 'done'))
        OR (state = 'duplicate' AND NOT EXISTS (
            SELECT 1 FROM jobs AS active WHERE active.sop_uid = jobs.sop_uid AND active.state IN ('received', 'running')
        )))
"""


class Ledger:
    """The part of :class:`Jobs` that reads, and that ends what nobody works on."""

    def __init__(self, database: Database, clock: Callable[[], float], jobs: Leases, deliveries: Leases) -> None:
        self._database = database
        self._clock = clock
        self._jobs = jobs
        self._deliveries = deliveries

    def close(self) -> None:
        """Close this thread's connection."""
        self._database.close()

    def job(self, number: int) -> Job:
        """Errors: QueueError when there is none."""
        with self._database.read() as connection:
            return job_of(connection, number)

    def delivery(self, number: int) -> Delivery:
        """Errors: QueueError when there is none."""
        with self._database.read() as connection:
            return delivery_of(connection, number)

    def results(self, job: int) -> list[Result]:
        """What was made of a job."""
        rows = self._rows("SELECT kind, uid, path, sha256 FROM results WHERE job = ? ORDER BY rowid", (job,))
        return [Result(**dict(row)) for row in rows]

    def deliveries(self, job: int) -> list[Delivery]:
        """Where the results of a job go."""
        return [_delivery(row) for row in self._rows("SELECT * FROM deliveries WHERE job = ? ORDER BY id", (job,))]

    def counts(self) -> Counts:
        """How many there are in each state, and how old the oldest is that is not finished."""
        now = self._clock()

        def counted(table: str) -> dict[str, int]:
            rows = self._rows(f"SELECT state, count(*) FROM {table} GROUP BY state")  # noqa: S608
            return {row[0]: row[1] for row in rows}

        def age(leases: Leases) -> float:
            oldest = self._rows(
                f"SELECT min(received_at) FROM {leases.table} "  # noqa: S608
                f"WHERE state = '{leases.ready.value}' OR state = 'running'"
            )[0][0]
            return 0.0 if oldest is None else max(0.0, now - oldest)

        return Counts(counted("jobs"), counted("deliveries"), age(self._jobs), age(self._deliveries))

    def dead_list(self) -> list[Job | Delivery]:
        """Jobs that are dead or refused, then dead deliveries, each oldest first."""
        jobs = self._rows("SELECT * FROM jobs WHERE state IN ('dead', 'refused') ORDER BY id")
        return [
            *(_job(row) for row in jobs),
            *(_delivery(row) for row in self._rows("SELECT * FROM deliveries WHERE state = 'dead' ORDER BY id")),
        ]

    def retry_job(self, number: int) -> Job:
        """Let a dead or refused job be tried again, from its first attempt on.

        Errors: QueueError, also when another job of the instance waits, runs or was done under its configuration.
        """
        with self._database.write() as connection:
            job = job_of(connection, number)
            if job.state not in (State.DEAD, State.REFUSED):
                raise QueueError(f"job {number} is {job.state.value}, not dead or refused")
            other = connection.execute(
                "SELECT id FROM jobs WHERE sop_uid = ? AND sop_uid <> '' AND (state IN ('received', 'running') "
                "OR (state = 'done' AND config_sha256 = ?))",
                (job.sop_uid, job.config_sha256),
            ).fetchone()
            if other is not None:
                raise QueueError(f"job {other['id']} is of the same instance", remedy=f"purge job {number}")
            self._jobs.give_back(connection, number, self._clock(), "")
            connection.execute("UPDATE jobs SET attempts = 0, settled = 0 WHERE id = ?", (number,))
            return job_of(connection, number)

    def retry_delivery(self, number: int) -> Delivery:
        """Let a dead delivery be tried again.

        Errors: QueueError.
        """
        with self._database.write() as connection:
            self._dead_delivery(connection, number)
            self._deliveries.give_back(connection, number, self._clock(), "")
            connection.execute("UPDATE deliveries SET attempts = 0 WHERE id = ?", (number,))
            return delivery_of(connection, number)

    def purge_job(self, number: int) -> Job:
        """Forget a dead or refused job, which is returned.

        Errors: QueueError.
        """
        with self._database.write(durable=True) as connection:
            job = job_of(connection, number)
            if job.state not in (State.DEAD, State.REFUSED):
                raise QueueError(f"job {number} is {job.state.value}, not dead or refused")
            connection.execute("DELETE FROM jobs WHERE id = ?", (number,))
            return job

    def purge_delivery(self, number: int) -> Delivery:
        """Forget a dead delivery, which is returned.

        Errors: QueueError.
        """
        with self._database.write() as connection:
            delivery = self._dead_delivery(connection, number)
            connection.execute("DELETE FROM deliveries WHERE id = ?", (number,))
            return delivery

    def prune(self, keep_days: float) -> int:
        """Remove the rows of jobs that ended so long ago and whose files are gone; says how many.

        Dead and refused ones stay until they are purged. What waits by a clock that was ahead is due now.
        """
        now = self._clock()
        with self._database.write() as connection:
            for each in (self._jobs, self._deliveries):
                each.unwind(connection, now)
        before, removed = now - keep_days * _DAY, 0
        while True:
            with self._database.write() as connection:
                count = connection.execute(
                    "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE state IN ('done', 'duplicate') "
                    "AND finished_at < ? AND settled = 1 LIMIT ?)",
                    (before, _CHUNK),
                ).rowcount
            removed += count
            if count < _CHUNK:
                return removed

    def wanted(self, file_sha256: str) -> set[State]:
        """The states of the jobs that need a file: RECEIVED to have it at hand, DEAD to keep it for who looks into it.

        Empty when no job needs it.
        """
        rows = self._rows("SELECT state, settled FROM jobs WHERE file_sha256 = ?", (file_sha256,))
        kept = {State.DEAD for row in rows if row["state"] in ("dead", "refused")}
        used = {
            State.RECEIVED
            for row in rows
            if row["state"] in ("received", "running") or (row["state"] in ("done", "duplicate") and not row["settled"])
        }
        return kept | used

    def knows(self, sop_uid: str, config_sha256: str) -> bool:
        """Whether there is a job of an instance; one that is done counts under its configuration alone."""
        query = "SELECT 1 FROM jobs WHERE sop_uid = ? AND (state <> 'done' OR config_sha256 = ?) LIMIT 1"
        return bool(self._rows(query, (sop_uid, config_sha256)))

    def is_recorded(self, file_sha256: str) -> bool:
        """Whether any job has the file."""
        return bool(self._rows("SELECT 1 FROM jobs WHERE file_sha256 = ? LIMIT 1", (file_sha256,)))

    def settle(self, *, limit: int = _CHUNK, job: int | None = None) -> list[tuple[int, str]]:
        """(number, file digest) of ended jobs whose files can go where they belong, which is on record with this.

        Durable: a file is removed only after that.

        Args:
            limit: at most so many, the oldest.
            job: this one alone, if it is among them.
        """
        which, arguments = ("", (limit,)) if job is None else ("id = ? AND ", (job, limit))
        query = f"SELECT id, file_sha256 FROM jobs WHERE {which} {_UNSETTLED} ORDER BY id LIMIT ?"  # noqa: S608
        if not self._rows(query, arguments):
            return []
        with self._database.write(durable=True) as connection:
            found = [(row["id"], row["file_sha256"]) for row in connection.execute(query, arguments)]
            connection.executemany("UPDATE jobs SET settled = 1 WHERE id = ?", [(number,) for number, _ in found])
            return found

    def active(self) -> Iterator[tuple[int, str]]:
        """(number, file digest) of every job that waits or runs."""
        rows = self._rows("SELECT id, file_sha256 FROM jobs WHERE state IN ('received', 'running') ORDER BY id")
        return ((row["id"], row["file_sha256"]) for row in rows)

    def keeps_results(self, job: int) -> bool:
        """Whether results of a job are still to be delivered."""
        return bool(self._rows("SELECT 1 FROM jobs WHERE id = ? AND state = 'done' AND settled = 0", (job,)))

    def end_lost(self, number: int, reason: str) -> Job:
        """A job that waits is dead: its file is not there."""
        now = self._clock()
        with self._database.write() as connection:
            if job_of(connection, number).state in (State.RECEIVED, State.RUNNING):
                self._jobs.end(connection, number, State.DEAD, reason, now)
                self._promote_duplicate(connection, number, now)
            return job_of(connection, number)

    def abandon(self, owners: str) -> None:
        """Owners whose name begins so are gone: what they worked on can be claimed at once, the attempts counted."""
        now = self._clock()
        with self._database.write() as connection:
            self._jobs.expire(connection, now, owners)
            self._deliveries.expire(connection, now, owners)

    def restart(self, config_sha256: str) -> None:
        """Nobody works on anything, and what waits is processed under this configuration."""
        now = self._clock()
        with self._database.write() as connection:
            for each in (self._jobs, self._deliveries):
                each.expire(connection, now)
                each.unwind(connection, now)
            connection.execute(
                "UPDATE jobs SET config_sha256 = ? WHERE state IN ('received', 'running') AND config_sha256 <> ?",
                (config_sha256, config_sha256),
            )

    def _promote_duplicate(self, connection: sqlite3.Connection, number: int, now: float) -> None:
        """The job came to nothing: the newest other file of its instance takes its place."""
        connection.execute(
            "UPDATE jobs SET state = 'received', next_at = ?, finished_at = NULL, reason = '' WHERE id = ("
            "SELECT max(other.id) FROM jobs AS other JOIN jobs AS ended ON other.sop_uid = ended.sop_uid "
            "WHERE ended.id = ? AND other.state = 'duplicate' AND other.settled = 0)",
            (now, number),
        )

    def _dead_delivery(self, connection: sqlite3.Connection, number: int) -> Delivery:
        delivery = delivery_of(connection, number)
        if delivery.state is not State.DEAD:
            raise QueueError(f"delivery {number} is {delivery.state.value}, not dead")
        return delivery

    def _rows(self, query: str, arguments: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        with self._database.read() as connection:
            return connection.execute(query, arguments).fetchall()


def job_of(connection: sqlite3.Connection, number: int) -> Job:
    """Errors: QueueError when there is none."""
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise QueueError(f"there is no job {number}")
    return _job(row)


def delivery_of(connection: sqlite3.Connection, number: int) -> Delivery:
    """Errors: QueueError when there is none."""
    row = connection.execute("SELECT * FROM deliveries WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise QueueError(f"there is no delivery {number}")
    return _delivery(row)


def _job(row: sqlite3.Row) -> Job:
    return Job(**{**dict(row), "state": State(row["state"]), "settled": bool(row["settled"])})


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(**{**dict(row), "state": State(row["state"])})
