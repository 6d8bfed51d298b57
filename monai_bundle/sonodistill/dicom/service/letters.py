"""What happens to a job after its end: it is forgotten, or kept, looked at, tried again, or purged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sonodistill.dicom.errors import QueueError
from sonodistill.dicom.service.audit import Audit
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.records import Delivery, Job
from sonodistill.dicom.service.store import Store


class Letters:
    """The part of :class:`Spool` that deals with jobs that ended.

    Attributes:
        jobs: the queue.
        audit: the log.
        store: the files that arrived.
        results: folder of what was made of them, one folder a job.
    """

    def __init__(self, jobs: Jobs, audit: Audit, store: Store, results: Path) -> None:
        self.jobs = jobs
        self.audit = audit
        self.store = store
        self.results = results

    def note(
        self, event: str, job: Job, *, via: str = "", peer: str = "", delivery: int | None = None, destination: str = ""
    ) -> None:
        """Log what happened to a job; see Audit.record."""
        self.audit.record(
            event,
            job=job.id,
            state=job.state.value,
            sop_uid=job.sop_uid,
            study_uid=job.study_uid,
            via=via,
            peer=peer,
            delivery=delivery,
            destination=destination,
        )

    def forget(self, job: int) -> bool:
        """Remove the files of a job that is done and delivered everywhere; says whether it was."""
        return bool(self._follow(self.jobs.settle(job=job)))

    def tidy(self) -> int:
        """Put the files of all jobs that ended where they belong: removed, or in quarantine. Says of how many."""
        count = 0
        while followed := self._follow(self.jobs.settle()):
            count += followed
        return count

    def retry(self, number: int) -> Job:
        """Let a dead or refused job be tried again.

        Errors: QueueError, also when its file was not kept.
        """
        job = self.jobs.job(number)
        with self.store.shard(job.file_sha256):
            if self.store.find(job.file_sha256) is None:
                raise QueueError(f"the file of job {number} was not kept", remedy="purge the job, and send it again")
            job = self.jobs.retry_job(number)
            self.store.arrange(job.file_sha256)
        self.note("retried", job)
        return job

    def retry_delivery(self, number: int) -> Delivery:
        """Let a dead delivery be tried again.

        Errors: QueueError.
        """
        delivery = self.jobs.retry_delivery(number)
        self.note("retried", self.jobs.job(delivery.job), delivery=number, destination=delivery.destination)
        return delivery

    def end_strays(self, destinations: Sequence[str]) -> int:
        """Deliveries to destinations that are not among these are dead letters from now on; says how many."""
        strays = self.jobs.end_strays(destinations)
        for each in strays:
            self.note("dead", self.jobs.job(each.job), delivery=each.id, destination=each.destination)
        return len(strays)

    def purge(self, number: int) -> Job:
        """Remove a dead or refused job and its file for good.

        Errors: QueueError.
        """
        job = self.jobs.purge_job(number)
        self._follow([(job.id, job.file_sha256)])
        self.note("purged", job)
        return job

    def purge_delivery(self, number: int) -> Delivery:
        """Give up a dead delivery for good; the results go when no other one needs them.

        Errors: QueueError.
        """
        delivery = self.jobs.purge_delivery(number)
        self.note("purged", self.jobs.job(delivery.job), delivery=number, destination=delivery.destination)
        self.forget(delivery.job)
        return delivery

    def _follow(self, ended: list[tuple[int, str]]) -> int:
        """Have the disk follow the end of jobs, by number and digest."""
        for number, digest in ended:
            shutil.rmtree(self.results / str(number), ignore_errors=True)
            self.store.settle(digest)
        return len(ended)
