"""What the user began, as a whole: its jobs, its progress, its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from UltrasoundSegmentLib.backends.model import Cancel
from UltrasoundSegmentLib.errors import Cancelled, SegmentError
from UltrasoundSegmentLib.jobs import Job, Jobs

logger = logging.getLogger(__name__)

PROGRESS_AFTER_S = 0.5


class Task:
    """What the user began: some jobs, one progress, one cancel.

    Args:
        total: steps, 0 where unknown.
        progress: told (done, total, text), from ``PROGRESS_AFTER_S`` after the beginning.
        good: told of each request that succeeded; bad: of errors.
        ended: told of the task, once, when all is over.
    """

    def __init__(
        self,
        jobs: Jobs,
        text: str,
        total: int,
        *,
        progress: Callable[[int, int, str], None],
        good: Callable[[], None],
        bad: Callable[[Exception], None],
        ended: Callable[[Task], None],
    ) -> None:
        self._queue, self._text, self._total, self._done = jobs, text, total, 0
        self._progress, self._good, self._failed, self._ended = progress, good, bad, ended
        self._since, self._jobs = time.monotonic(), set[Job]()
        self._closing = self._told = self._is_over = False

    def submit(
        self,
        work: Callable[[Cancel, Callable[..., None]], Any],
        done: Callable[[Any], None],
        progress: Callable[..., None] | None = None,
        **more: Any,
    ) -> None:
        if self._closing:
            return
        holder: list[Job] = []

        def good(value: Any) -> None:
            self._good()
            try:
                done(value)
            except Exception as error:
                if not isinstance(error, SegmentError):
                    logger.exception("What follows a job failed.")
                self.fail(error)  # else it would never end
            finally:
                self._over(holder[0])

        def bad(error: Exception) -> None:
            self.fail(error)
            self._over(holder[0])

        holder.append(self._queue.submit(work, good, bad, progress, **more))
        self._jobs.add(holder[0])

    def at(self, done: int, total: int) -> None:
        """So far."""
        self._done, self._total = done - 1, total
        self.step()

    def step(self) -> None:
        self._done += 1
        if time.monotonic() - self._since >= PROGRESS_AFTER_S:
            self._progress(self._done, self._total, self._text)

    def fail(self, error: Exception) -> None:
        """The first error is told and ends it: what waits is cancelled."""
        if not self._told:
            self._told = not isinstance(error, Cancelled)
            self._failed(error)
        self.cancel()

    def cancel(self) -> None:
        self._closing = True
        for job in list(self._jobs):
            self._queue.cancel(job)
        self._check()

    def end_when_empty(self) -> None:
        self._closing = True
        self._check()

    def _over(self, job: Job) -> None:
        self._jobs.discard(job)
        self._check()

    def _check(self) -> None:
        if self._closing and not self._jobs and not self._is_over:
            self._is_over = True
            self._ended(self)
