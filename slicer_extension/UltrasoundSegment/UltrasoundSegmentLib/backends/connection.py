"""Whether a server is there, for a GUI: its loss is told once, it is asked again by itself, its return is told."""

from __future__ import annotations

from UltrasoundSegmentLib.backends.client import Client
from UltrasoundSegmentLib.backends.model import Cancel, ServerLostError
from UltrasoundSegmentLib.jobs import FIRST, Job, Jobs
from UltrasoundSegmentLib.signal import Signal


class Connection:
    """Belongs to the main thread. Asking again is one small request, after 1, 2, 4 ... 60 seconds.

    Attributes:
        lost: Signal(message), once.
        back: Signal(), when the server answers again.
        here: whether it answered last, as far as is known.
    """

    def __init__(self, client: Client, jobs: Jobs) -> None:
        self.client, self._jobs = client, jobs
        self.lost, self.back = Signal(), Signal()
        self.here, self._asking, self._closed = True, False, False
        self._job: Job | None = None

    def note(self, error: Exception) -> bool:
        """Told of every error of a request; whether it is news to the user."""
        if not isinstance(error, ServerLostError):
            return True
        if self.here:
            self.here = False
            self.lost.emit(str(error))
            self._again(error.retry_s)
        return False

    def noted(self) -> None:
        """Told of a request that succeeded."""
        if not self.here:
            self.here = True
            self.back.emit()

    def close(self) -> None:
        self._closed = True
        if self._job is not None:
            self._jobs.cancel(self._job)

    def _again(self, seconds: float) -> None:
        if not self._asking and not self._closed:
            self._asking = True
            self._jobs.later(max(0.05, seconds), self._ask)

    def _ask(self) -> None:
        self._asking = False
        if self._closed or self.here:
            return

        def ping(cancel: Cancel, _: object) -> None:
            self.client.ping(cancel)

        self._job = self._jobs.submit(ping, lambda _: self.noted(), self._failed, priority=FIRST)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ServerLostError):
            self._again(error.retry_s)
        else:
            self.noted()  # it answers, if only by refusing
