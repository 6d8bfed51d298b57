"""Where items wait between two threads: bounded, by a policy, and counted."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from threading import Condition
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
Policy = Literal["latest", "none"]
POLICIES: tuple[Policy, ...] = ("latest", "none")
_CAPACITY = 4


class ClosedError(Exception):
    """Nothing more will come."""


@dataclass(frozen=True, slots=True)
class Arrival(Generic[T]):
    """An item and when it arrived, in seconds of ``time.monotonic``."""

    item: T
    at: float


class Inbox(Generic[T]):
    """Items from one thread to another.

    Args:
        policy: "latest" holds one item, which a newer one replaces; "none" holds a few, and who puts has to wait.
        budget: seconds after which a waiting item is too old to be handed out; with "latest" only.

    Attributes:
        received: items that arrived, the one included that waits for room.
        dropped: items that a newer one replaced.
        late: items that were older than the budget when their turn came.
        unfinished: items that arrived and were still waiting when the inbox was closed.
    """

    def __init__(self, policy: Policy, budget: float | None = None) -> None:
        self.policy = policy
        self.budget = budget if policy == "latest" else None
        self.received = self.dropped = self.late = self.unfinished = 0
        self._waiting: deque[Arrival[T]] = deque()
        self._changed = Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item; waits for room with policy "none". False when the inbox is closed."""
        arrival = Arrival(item, time.monotonic())
        with self._changed:
            if self._closed:
                return False
            self.received += 1
            if self.policy == "latest":
                self.dropped += len(self._waiting)
                self._waiting.clear()
            while len(self._waiting) >= _CAPACITY and not self._closed:
                self._changed.wait()
            if self._closed:
                self.unfinished += 1
                return False
            self._waiting.append(arrival)
            self._changed.notify_all()
            return True

    def get(self, timeout: float) -> Arrival[T] | None:
        """The next item, or None when there was none for ``timeout`` seconds.

        Errors: ClosedError at the end, or the error that the source ended with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._closed, timeout)
            while self._waiting:
                arrival = self._waiting.popleft()
                self._changed.notify_all()
                if self.budget is None or time.monotonic() - arrival.at <= self.budget:
                    return arrival
                self.late += 1
            if self._error is not None:
                raise self._error
            if self._ended or self._closed:
                raise ClosedError
            return None

    def end(self, error: BaseException | None = None) -> None:
        """Said by who puts: nothing more comes, because of ``error`` if there is one. What waits can still be got."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Said by who gets: no more is wanted. What waits is counted as unfinished."""
        with self._changed:
            self._closed = True
            self.unfinished += len(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
