"""The process that sends: a thread for each destination, so that one that is down holds up no other."""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from pathlib import Path

from sonodistill.dicom.errors import DeliveryError, LeaseLostError, RefusedDeliveryError, reason_of
from sonodistill.dicom.send import Destination
from sonodistill.dicom.service.beat import Beat, renewed
from sonodistill.dicom.service.records import Delivery, State
from sonodistill.dicom.service.spool import Spool
from sonodistill.dicom.settings import DestinationSettings, Settings
from sonodistill.files import sha256

logger = logging.getLogger(__name__)

LEASE_SECONDS = 120.0
POLL_SECONDS = 0.1
TIDY_SECONDS = 60.0
_OWNER = "deliver-"


def deliver(settings: Settings, spool: Spool, beat: Beat, stop: threading.Event) -> None:
    """Send until ``stop`` is set; what is on its way is finished first. Old records are pruned meanwhile."""
    spool.jobs.abandon(_OWNER)  # this process has the role alone: another that had it is dead
    threads = [
        threading.Thread(target=_Sender(open_destination(each), spool, beat).work_until, args=(stop,), name=each.name)
        for each in settings.destination
    ]
    for thread in threads:
        thread.start()
    beat.is_ready()
    try:
        while not stop.is_set():
            _tidy(spool, settings.service.keep_days)
            stop.wait(TIDY_SECONDS)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _tidy(spool: Spool, keep_days: float) -> None:
    try:
        spool.jobs.prune(keep_days)
        spool.tidy()  # what a process that died had no time for
    except Exception as error:  # noqa: BLE001 (a full disk, say: it is tried again, and sending goes on meanwhile)
        logger.error("tidying the spool: %s", reason_of(error))


def open_destination(settings: DestinationSettings) -> Destination:
    """The destination of its kind."""
    if settings.kind == "dimse":
        from sonodistill.dicom.send.dimse import DimseDestination

        return DimseDestination(settings)
    if settings.kind == "stow":
        from sonodistill.dicom.send.stow import StowDestination

        return StowDestination(settings)
    from sonodistill.dicom.send.folder import FolderDestination

    return FolderDestination(settings)


class _Sender:
    def __init__(self, destination: Destination, spool: Spool, beat: Beat) -> None:
        self._destination, self._spool, self._jobs, self._beat = destination, spool, spool.jobs, beat
        self._owner = f"{_OWNER}{os.getpid()}-{destination.name}"

    def work_until(self, stop: threading.Event) -> None:
        try:
            while not stop.is_set():
                try:
                    worked = self._work()
                except Exception as error:  # noqa: BLE001
                    # The lease runs out, and the attempt is counted: nothing is lost, and nothing goes on for ever.
                    logger.error("sending to %s: %s", self._destination.name, reason_of(error))
                    worked = False
                if not worked:
                    stop.wait(POLL_SECONDS)
        finally:
            self._destination.close()
            self._jobs.close()

    def _work(self) -> bool:
        """One delivery, if there is any."""
        name = self._destination.name
        delivery = self._jobs.claim_delivery(name, self._owner, LEASE_SECONDS)
        if delivery is None:
            return False
        renew = partial(self._jobs.renew_delivery, delivery.id, self._owner, LEASE_SECONDS)
        try:
            with renewed(renew, LEASE_SECONDS / 4):
                state = self._end(delivery)
        except LeaseLostError:
            logger.warning("delivery %d: another sender has it by now", delivery.id)
            return True
        self._beat.count(f"deliveries/{state.value}")
        if state is State.QUEUED:
            return True
        job = self._jobs.job(delivery.job)
        self._spool.audit.record(
            "sent" if state is State.DONE else "dead",
            job=job.id,
            delivery=delivery.id,
            state=state.value,
            destination=name,
            sop_uid=job.sop_uid,
            study_uid=job.study_uid,
        )
        self._spool.forget(job.id)
        return True

    def _end(self, delivery: Delivery) -> State:
        try:
            paths = self._intact(delivery)
            self._destination.send(paths)
        except DeliveryError as error:
            reason, permanent = error.message, error.permanent
        except Exception as error:  # noqa: BLE001 (whatever it is, the delivery is accounted for)
            reason, permanent = reason_of(error), False
        else:
            self._jobs.finish_delivery(delivery.id, self._owner)
            return State.DONE
        logger.warning(
            "delivery %d to %s, attempt %d: %s", delivery.id, delivery.destination, delivery.attempts, reason
        )
        return self._jobs.fail_delivery(delivery.id, self._owner, reason, permanent=permanent)

    def _intact(self, delivery: Delivery) -> list[Path]:
        """The files of the results, which have to be those that were checked."""
        paths = []
        for result in self._jobs.results(delivery.job):
            path = self._spool.results / result.path
            if not path.is_file() or sha256(path) != result.sha256:
                raise RefusedDeliveryError(
                    f"the {result.kind} of job {delivery.job} is not what was written", path=path
                )
            paths.append(path)
        return paths
