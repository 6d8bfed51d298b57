"""What the queue holds: jobs, their results, and the deliveries of these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(str, Enum):
    """Of a job: received -> running -> done, refused or dead; duplicate is another file of an instance that is a job.

    Of a delivery: queued -> running -> done or dead.
    """

    RECEIVED = "received"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    REFUSED = "refused"
    DEAD = "dead"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Job:
    """An instance that arrived. Times are seconds since the epoch.

    Attributes:
        id: never used twice.
        sop_uid, study_uid: of the instance; empty where the file does not say.
        file_sha256, config_sha256: hex; of the file, and of the configuration it arrived under.
        via, peer: the way it came, and from where.
        size: bytes.
        state: see State.
        attempts: to compute it, the running one included.
        next_at: not claimed before.
        lease_owner, lease_until: who works on it, and until when nobody else does.
        reason: why it was refused, is dead or a duplicate, or why the last attempt failed.
        route: the rule that covered it.
        received_at, finished_at: arrival; end of a done, refused or dead one.
        arrivals: how often the same file came.
        settled: the disk agrees with the end of the job; a done one's source and results are gone.
    """

    id: int
    sop_uid: str
    study_uid: str
    file_sha256: str
    config_sha256: str
    via: str
    peer: str
    size: int
    state: State
    attempts: int
    next_at: float
    lease_owner: str | None
    lease_until: float | None
    reason: str
    route: str
    received_at: float
    finished_at: float | None
    arrivals: int
    settled: bool


@dataclass(frozen=True, slots=True)
class Result:
    """An object made from an instance.

    Attributes:
        kind: "seg", "sr", "gsps" or "sc".
        uid: its SOP Instance UID.
        path: below the spool's folder of results, so that a spool can be moved.
        sha256: of the file, hex.
    """

    kind: str
    uid: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """All results of a job on their way to one destination; the fields are those of Job."""

    id: int
    job: int
    destination: str
    state: State
    attempts: int
    next_at: float
    lease_owner: str | None
    lease_until: float | None
    reason: str
    received_at: float
    finished_at: float | None

    @property
    def sent_at(self) -> float | None:
        """When the destination confirmed it."""
        return self.finished_at if self.state is State.DONE else None


@dataclass(frozen=True, slots=True)
class Counts:
    """For health and metrics.

    Attributes:
        jobs, deliveries: how many are in each state; states without any are left out.
        oldest_job, oldest_delivery: seconds since the oldest that is not finished arrived; 0 where there is none.
    """

    jobs: dict[str, int]
    deliveries: dict[str, int]
    oldest_job: float
    oldest_delivery: float
