"""A clock that is told the time, and jobs for the tests of the queue."""

from __future__ import annotations

from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.records import Job, Result


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def add(jobs: Jobs, sop: str = "1.2.3", file: str = "a", config: str = "c", refused: str = "") -> tuple[Job, bool]:
    return jobs.add(
        sop_uid=sop, study_uid="1.2", file_sha256=file * 64, config_sha256=config, via="stow", peer="PACS", size=1,
        refused=refused,
    )  # fmt: skip


def finished(jobs: Jobs, *destinations: str) -> Job:
    job = jobs.claim("worker", 60.0)
    assert job is not None
    jobs.finish(job.id, "worker", [Result("report", "1.9", "r.dcm", "f" * 64)], destinations, route="all")
    return jobs.job(job.id)
