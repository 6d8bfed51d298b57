"""After any end of the service: every file that was taken is a job, and every job that waits has its file."""

from __future__ import annotations

from collections.abc import Callable

from sonodistill.dicom.service.header import HEAD_BYTES
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.records import Job, State
from sonodistill.dicom.service.store import Store

_LOST = "its file is missing from the spool; send it again"
_UNRECORDED = "it was refused; why was not on record any more"

Register = Callable[[str, int, bytes, str], tuple[Job, bool]]
"""(the job, whether it is new) from digest, size, first bytes, and why it is refused if that is known."""


def adopt(store: Store, jobs: Jobs, register: Register) -> list[Job]:
    """Have a job for each file of the spool that none is known to need, and each file where its jobs need it.

    A file at hand whose only jobs ended badly is theirs, unless quarantine has it too: then it came another time.
    """
    adopted = []
    for digest in store.digests(State.RECEIVED):
        wanted = jobs.wanted(digest)
        if State.RECEIVED in wanted:
            continue
        if not wanted or store.is_in(State.DEAD, digest):
            job, new = _registered(store, digest, register, "")
            adopted += [job] if new else []
        store.settle(digest)
    for digest in store.digests(State.DEAD):
        if not jobs.is_recorded(digest):
            adopted.append(_registered(store, digest, register, _UNRECORDED)[0])
        store.settle(digest)
    return adopted


def bury(store: Store, jobs: Jobs) -> list[Job]:
    """The jobs whose file is missing, dead now."""
    lost = [number for number, digest in jobs.active() if store.find(digest) is None]
    return [jobs.end_lost(number, _LOST) for number in lost]


def _registered(store: Store, digest: str, register: Register, refused: str) -> tuple[Job, bool]:
    path = store.find(digest)
    assert path is not None  # noqa: S101 - it was listed, and this process alone uses the spool
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return register(digest, path.stat().st_size, head, refused)
