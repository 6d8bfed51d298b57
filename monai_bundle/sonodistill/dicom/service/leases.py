"""Leases: each row of a table is worked on by one owner at a time, a bounded number of times."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from sonodistill.dicom.errors import LeaseLostError
from sonodistill.dicom.service.records import State

_LONGEST_WAIT = 3600.0
_REASON = 500
_STALLED = "whoever worked on it died or stalled, {} times"


@dataclass(frozen=True, slots=True)
class Retries:
    """How often something is tried, and when again.

    Attributes:
        attempts: at most.
        seconds: wait after the first failure; it doubles with each, up to an hour.
        jitter: number in [0, 1); the wait is between its half and its one and a half.
    """

    attempts: int = 5
    seconds: float = 10.0
    jitter: Callable[[], float] = field(default=random.SystemRandom().random)

    def wait(self, attempts: int) -> float:
        """Seconds until the next attempt after so many failed ones."""
        doubled = self.seconds * 2.0 ** min(attempts - 1, 30)
        return min(doubled, _LONGEST_WAIT) * (0.5 + self.jitter())


@dataclass(frozen=True, slots=True)
class Leases:
    """The rules of the tables jobs and deliveries; every method runs inside the caller's transaction.

    Attributes:
        table: "jobs" or "deliveries".
        ready: the state of a row that waits.
        retries: how often a row is tried.
    """

    table: str
    ready: State
    retries: Retries

    def waiting(self, connection: sqlite3.Connection, now: float, destination: str | None = None) -> bool:
        """Whether a claim could find something; it takes no lock."""
        return self._first(connection, now, destination) is not None or self.expired(connection, now)

    def claim(
        self, connection: sqlite3.Connection, owner: str, now: float, seconds: float, destination: str | None = None
    ) -> int | None:
        """The row that has waited longest since it was due, now the owner's for so many seconds; None if none is due.

        The attempt counts from here on, so that what kills its worker is tried a bounded number of times.
        """
        found = self._first(connection, now, destination)
        if found is None:
            return None
        connection.execute(
            f"UPDATE {self.table} SET state = 'running', attempts = attempts + 1, lease_owner = ?, lease_until = ? "  # noqa: S608
            "WHERE id = ?",
            (owner, now + seconds, found),
        )
        return found

    def reap(self, connection: sqlite3.Connection, now: float) -> list[int]:
        """Take back what nobody renewed; it goes behind what is due. Gives those whose last attempt it was: dead."""
        if not self.expired(connection, now):
            return []
        rows = connection.execute(
            f"SELECT id, attempts FROM {self.table} WHERE state = 'running' AND lease_until <= ?",  # noqa: S608
            (now,),
        ).fetchall()
        dead = []
        for row in rows:
            reason = _STALLED.format(row["attempts"])
            if row["attempts"] >= self.retries.attempts:
                self.end(connection, row["id"], State.DEAD, reason, now)
                dead.append(row["id"])
            else:
                self.give_back(connection, row["id"], now, reason)
        return dead

    def renew(self, connection: sqlite3.Connection, number: int, owner: str, until: float) -> bool:
        """Whether the row is still the owner's; if so, it stays so until then."""
        changed = connection.execute(
            f"UPDATE {self.table} SET lease_until = ? WHERE id = ? AND state = 'running' AND lease_owner = ?",  # noqa: S608
            (until, number, owner),
        )
        return changed.rowcount == 1

    def held(self, connection: sqlite3.Connection, number: int, owner: str) -> sqlite3.Row:
        """The row, which has to be the owner's.

        Errors: LeaseLostError.
        """
        row = connection.execute(
            f"SELECT * FROM {self.table} WHERE id = ? AND state = 'running' AND lease_owner = ?",  # noqa: S608
            (number, owner),
        ).fetchone()
        if row is None:
            raise LeaseLostError(f"number {number} of the {self.table} is no longer {owner}'s")
        return row

    def fail(
        self, connection: sqlite3.Connection, row: sqlite3.Row, reason: str, *, permanent: bool, now: float
    ) -> State:
        """End the attempt: the row waits for its next, or is dead."""
        if permanent or row["attempts"] >= self.retries.attempts:
            self.end(connection, row["id"], State.DEAD, reason, now)
            return State.DEAD
        self.give_back(connection, row["id"], now + self.retries.wait(row["attempts"]), reason)
        return self.ready

    def end(self, connection: sqlite3.Connection, number: int, state: State, reason: str, now: float) -> None:
        """Give the row a state nobody works on any more."""
        connection.execute(
            f"UPDATE {self.table} SET state = ?, reason = ?, finished_at = ?, lease_owner = NULL, lease_until = NULL "  # noqa: S608
            "WHERE id = ?",
            (state.value, reason[:_REASON], now, number),
        )

    def give_back(self, connection: sqlite3.Connection, number: int, next_at: float, reason: str) -> None:
        """Let the row wait until then."""
        connection.execute(
            f"UPDATE {self.table} SET state = ?, reason = ?, next_at = ?, finished_at = NULL, lease_owner = NULL, "  # noqa: S608
            "lease_until = NULL WHERE id = ?",
            (self.ready.value, reason[:_REASON], next_at, number),
        )

    def release(self, connection: sqlite3.Connection, owner: str) -> int:
        """Give back all that the owner holds, before everything else that waits, as if it had not been claimed."""
        changed = connection.execute(
            f"UPDATE {self.table} SET state = ?, attempts = attempts - 1, next_at = 0, lease_owner = NULL, "  # noqa: S608
            "lease_until = NULL WHERE state = 'running' AND lease_owner = ?",
            (self.ready.value, owner),
        )
        return changed.rowcount

    def expire(self, connection: sqlite3.Connection, now: float, owners: str = "") -> None:
        """End every lease of owners whose name begins so: they are gone. The attempts stay counted."""
        connection.execute(
            f"UPDATE {self.table} SET lease_until = ? WHERE state = 'running' AND substr(lease_owner, 1, ?) = ?",  # noqa: S608
            (now, len(owners), owners),
        )

    def unwind(self, connection: sqlite3.Connection, now: float) -> None:
        """Make due what would wait longer than any failure makes it: its time is of a clock that was ahead."""
        connection.execute(
            f"UPDATE {self.table} SET next_at = ? WHERE state = '{self.ready.value}' AND next_at > ?",  # noqa: S608
            (now, now + 1.5 * _LONGEST_WAIT),
        )

    def _first(self, connection: sqlite3.Connection, now: float, destination: str | None) -> int | None:
        where, arguments = ("", ()) if destination is None else ("destination = ? AND ", (destination,))
        row = connection.execute(
            f"SELECT id FROM {self.table} WHERE state = '{self.ready.value}' AND {where} next_at <= ? "  # noqa: S608
            "ORDER BY next_at, id LIMIT 1",
            (*arguments, now),
        ).fetchone()
        return None if row is None else int(row["id"])

    def expired(self, connection: sqlite3.Connection, now: float) -> bool:
        """Whether a lease ran out."""
        query = f"SELECT 1 FROM {self.table} WHERE state = 'running' AND lease_until <= ? LIMIT 1"  # noqa: S608
        return connection.execute(query, (now,)).fetchone() is not None
