"""The process that computes: takes jobs one after the other, and leaves results with their deliveries in the queue."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial

from sonodistill.dicom.errors import LeaseLostError, NoRouteError, QueueError, ResultError, reason_of
from sonodistill.dicom.predict import Analyst
from sonodistill.dicom.service.beat import Beat, renewed
from sonodistill.dicom.service.records import Job, Result, State
from sonodistill.dicom.service.spool import Spool
from sonodistill.dicom.settings import RouteSettings, Settings
from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.files import sha256
from sonodistill.frames.isolated_process import DecoderKilledError

logger = logging.getLogger(__name__)

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.1
_OWNER = "compute-"
_REFUSALS = (UnreadableFileError, UnsupportedFormatError, NoRouteError)


def compute(settings: Settings, spool: Spool, beat: Beat, stop: threading.Event) -> None:
    """Work until ``stop`` is set; the job in hand is finished first.

    Errors: SonoDistillError when a model cannot be loaded.
    """
    service = settings.service
    with Analyst(
        settings.route,
        threads=service.threads,
        decode_memory_mb=service.decode_memory_mb,
        decode_seconds=service.decode_seconds,
    ) as analyst:
        analyst.load()
        spool.jobs.abandon(_OWNER)  # this process has the role alone: another that had it is dead
        beat.is_ready()
        worker = _Worker(settings, spool, beat, analyst)
        while not stop.is_set():
            if not worker.work():
                stop.wait(POLL_SECONDS)


class _Worker:
    def __init__(self, settings: Settings, spool: Spool, beat: Beat, analyst: Analyst) -> None:
        self._settings, self._spool, self._jobs = settings, spool, spool.jobs
        self._beat, self._analyst = beat, analyst
        self._owner = f"{_OWNER}{os.getpid()}-{time.monotonic_ns()}"

    def work(self) -> bool:
        """One job, if there is any."""
        for dead in self._jobs.reap():
            self._ended(dead, State.DEAD)
        job = self._jobs.claim(self._owner, LEASE_SECONDS)
        if job is None:
            return False
        renew = partial(self._jobs.renew, job.id, self._owner, LEASE_SECONDS)
        try:
            with renewed(renew, LEASE_SECONDS / 4):
                state = self._end(job)
        except LeaseLostError:
            logger.warning("job %d: another worker has it by now; nothing of this attempt counts", job.id)
            return True
        self._ended(job, state)
        return True

    def _ended(self, job: Job, state: State) -> None:
        """Put its file where it belongs, and note what became of it."""
        if state in (State.REFUSED, State.DEAD):
            self._spool.forget(job.id)
        if state is not State.RECEIVED:
            self._spool.audit.record(
                state.value, job=job.id, state=state.value, sop_uid=job.sop_uid, study_uid=job.study_uid
            )
        self._beat.count(f"jobs/{state.value}")

    def _end(self, job: Job) -> State:
        """Compute it and record what became of it."""
        start = time.perf_counter()
        try:
            path = self._spool.source(job)
            folder = self._spool.results_folder(job)
            analysis = self._analyst.analyse(path, folder)
            results = [
                Result(each.kind, each.uid, str(each.path.relative_to(self._spool.results)), sha256(each.path))
                for each in analysis.results
            ]
        except Exception as error:  # noqa: BLE001 (whatever it is, the job is accounted for)
            return self._badly(job, error)
        self._jobs.finish(
            job.id, self._owner, results, destinations(self._settings, analysis.rule), route=analysis.rule.name
        )
        self._beat.count("frames", analysis.findings.source.frames)
        self._beat.count("seconds", time.perf_counter() - start)
        if not destinations(self._settings, analysis.rule):
            self._spool.forget(job.id)
        return State.DONE

    def _badly(self, job: Job, error: Exception) -> State:
        """It is refused where the instance is at fault, else tried again; record it."""
        reason = reason_of(error)
        if isinstance(error, _REFUSALS) and not isinstance(error, DecoderKilledError):
            logger.info("job %d is refused: %s", job.id, reason)
            self._jobs.refuse(job.id, self._owner, reason)
            return State.REFUSED
        logger.warning("job %d failed in attempt %d: %s", job.id, job.attempts, reason)
        return self._jobs.fail(job.id, self._owner, reason, permanent=isinstance(error, (ResultError, QueueError)))


def destinations(settings: Settings, rule: RouteSettings) -> list[str]:
    """Names of where the results of a route go."""
    return [each.name for each in settings.destination if rule.destinations is None or each.name in rule.destinations]
