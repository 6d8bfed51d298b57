"""Work beside the GUI: one thread, a queue, and results that only ``pump`` hands over, in the thread that calls it."""

from __future__ import annotations

import gc
import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from UltrasoundSegmentLib.backends.model import Cancel
from UltrasoundSegmentLib.errors import Cancelled, SegmentError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Progress = Callable[..., None]
Work = Callable[[Cancel, Progress], Any]

FIRST, NORMAL = 0, 1
_OVER = ("done", "failed", "cancelled")


class Job:
    """What was submitted.

    Attributes:
        group: jobs of one group replace one another while they wait; "" for none.
        state: "queued", "running", "done", "failed" or "cancelled". It is over before its callback was called.
        since: ``time.monotonic()`` of its submission.
    """

    def __init__(self, work: Work, done: Any, failed: Any, progress: Any, group: str) -> None:
        self.cancel, self.group, self.state = Cancel(), group, "queued"
        self.since = time.monotonic()
        self._work: Work | None = work
        self._done, self._failed, self._progress = done, failed, progress

    def forget(self) -> None:
        """In the main thread, when it is over: the worker must not be the last to hold what belongs to the GUI."""
        self._work = self._done = self._failed = self._progress = None

    @property
    def over(self) -> bool:
        return self.state in _OVER


class Jobs:
    """A worker thread, started by the first job. Made, used and closed in one thread, the GUI's.

    ``submit`` and ``cancel`` wait for nothing. A callback that raises is logged and keeps no other from its turn.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._queue: list[tuple[int, int, Job]] = []
        self._results: queue.SimpleQueue[tuple[Job | None, Callable[..., None] | None, tuple[Any, ...], bool]] = (
            queue.SimpleQueue()
        )
        self._numbers = itertools.count()
        self._running: Job | None = None
        self._undelivered = 0
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a job waits, runs, or ended without its callback having been called, or ``later`` is due."""
        if self._timers and self._timers[0][0] <= time.monotonic():
            return True
        with self._lock:
            return bool(self._queue or self._running or self._undelivered)

    def submit(
        self,
        work: Callable[[Cancel, Progress], T],
        done: Callable[[T], None] | None = None,
        failed: Callable[[Exception], None] | None = None,
        progress: Callable[..., None] | None = None,
        *,
        group: str = "",
        priority: int = NORMAL,
    ) -> Job:
        """Queue some work.

        Args:
            work: called in the worker with a ``Cancel`` and a function; what it passes to that one, ``progress`` gets.
            done: gets what ``work`` returned.
            failed: gets what it raised; Cancelled also for a job that never began.
            group: a job of this group that still waits is cancelled and replaced.
            priority: ``FIRST`` goes before everything that waits.

        Errors: SegmentError when it was closed.
        """
        job = Job(work, done, failed, progress, group)
        with self._lock:
            if self._closed:
                raise SegmentError("This was closed; open the module again.")
            replaced = [entry for entry in self._queue if group and entry[2].group == group]
            self._queue = [entry for entry in self._queue if entry not in replaced]
            for _, _, old in replaced:
                self._end(old, "cancelled", Cancelled("Replaced by a newer one."))
            self._queue.append((priority, next(self._numbers), job))
            self._queue.sort(key=lambda entry: entry[:2])
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="UltrasoundSegment", daemon=True)
                self._thread.start()
            self._lock.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """A job that waits is over now; one that runs is asked to stop. Its ``failed`` gets Cancelled."""
        with self._lock:
            waiting = [entry for entry in self._queue if entry[2] is job]
            if waiting:
                self._queue.remove(waiting[0])
                self._end(job, "cancelled", Cancelled())
        job.cancel.cancel()

    def cancel_all(self, group: str | None = None) -> None:
        """Every job, or those of a group."""
        with self._lock:
            known = [entry[2] for entry in self._queue] + ([self._running] if self._running else [])
        for job in known:
            if group is None or job.group == group:
                self.cancel(job)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Have ``pump`` call it when that time has gone by; ``close`` forgets it."""
        if not self._closed:
            heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), call))

    def on_main(self, ask: Callable[[], T], cancel: Cancel) -> T:
        """For work: have ``ask`` called by the next ``pump`` (MRML belongs to the main thread), and wait for it.

        Errors: what ``ask`` raises; Cancelled.
        """
        ready: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def answer() -> None:
            if cancel.cancelled:
                return
            try:
                ready.put((True, ask()))
            except Exception as error:  # noqa: BLE001 - raised again where it was asked
                ready.put((False, error))

        with self._lock:
            if threading.current_thread() is not self._thread:
                raise RuntimeError("on_main is for work, in the worker thread")
            self._results.put((None, answer, (), False))
        while True:
            cancel.check()
            try:
                good, value = ready.get(timeout=0.05)
            except queue.Empty:
                continue
            if good:
                return value  # type: ignore[no-any-return]
            raise value

    def pump(self, budget_s: float = 0.02) -> int:
        """Call the callbacks of what happened, for about that long; how many. The rest is for the next time."""
        _collect_young()
        now, count = time.monotonic(), 0
        until = now + budget_s
        while self._timers and self._timers[0][0] <= now:  # those that a call adds are for the next time
            self._call(heapq.heappop(self._timers)[2], ())
        while True:
            try:
                job, callback, arguments, last = self._results.get_nowait()
            except queue.Empty:
                return count
            count += 1
            if job is not None and job.cancel.cancelled and job.state != "cancelled":
                # Cancelled after it had ended: nobody wants its result any more.
                job.state = "cancelled" if last else job.state
                callback, arguments = (job._failed, (Cancelled(),)) if last else (None, ())
            if callback is not None:
                self._call(callback, arguments)
            if last:
                with self._lock:
                    self._undelivered -= 1
                if job is not None:
                    job.forget()
            del job, callback, arguments
            if time.monotonic() >= until:
                return count

    def close(self) -> None:
        """Cancel everything and let the thread end; waits for nothing and calls nothing back."""
        self.cancel_all()
        self._timers.clear()
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        while True:
            try:
                self._results.get_nowait()
            except queue.Empty:
                break

    def join(self, seconds: float) -> bool:
        """After ``close``: wait for the thread; whether it ended. For tests and scripts, not for a GUI."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    @staticmethod
    def _call(callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        try:
            callback(*arguments)
        except Exception:
            logger.exception("What follows a job failed.")

    def _end(self, job: Job, state: str, value: Any) -> None:
        """With the lock held."""
        job.state = state
        callback = job._done if state == "done" else job._failed
        self._undelivered += 1
        self._results.put((job, callback, (value,), True))

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._queue and not self._closed:
                    self._lock.wait()
                if self._closed:
                    return
                self._running = self._queue.pop(0)[2]
                self._running.state = "running"
            with _no_collection():
                self._do(self._running)

    def _do(self, job: Job) -> None:
        def progress(*arguments: Any) -> None:
            if job._progress is not None and not job.cancel.cancelled:
                self._results.put((job, job._progress, arguments, False))

        state, value = "done", None
        try:
            job.cancel.check()
            value = job._work(job.cancel, progress) if job._work is not None else None
        except Cancelled:
            state = "cancelled"
        except Exception as error:
            if not isinstance(error, SegmentError):
                logger.exception("A job failed.")
            state, value = "failed", error.with_traceback(None)
        if job.cancel.cancelled or state == "cancelled":
            state, value = "cancelled", Cancelled()
        with self._lock:
            self._running = None
            self._end(job, state, value)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No collection of cyclic garbage while work runs: what is found may be Qt's or MRML's, which only the main thread
    may destroy. ``pump`` collects what is young meanwhile."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _collect_young() -> None:
    """In the main thread, as often as Python would."""
    count, limit = gc.get_count(), gc.get_threshold()
    if not gc.isenabled() and count[0] > limit[0] > 0:
        gc.collect(1 if count[1] > limit[1] else 0)
