"""The queue between threads and processes, killed ones too, and whatever is done in whatever order."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from jobs_case import Clock, add

from sonodistill.dicom.errors import LeaseLostError, QueueError
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.leases import Retries
from sonodistill.dicom.service.records import State


@pytest.fixture
def clock() -> Clock:
    return Clock()


CLAIM = """
import sys, time
from pathlib import Path
from sonodistill.dicom.service.jobs import Jobs
jobs = Jobs(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
while (job := jobs.claim(sys.argv[2], 600.0)) is not None:
    jobs.finish(job.id, sys.argv[2], [], [])
    print(job.id, flush=True)
    time.sleep(0.002)  # the other one's turn
"""


def test_two_processes_never_claim_the_same_job(tmp_path):
    path = tmp_path / "jobs.sqlite"
    jobs = Jobs(path)
    for number in range(500):
        add(jobs, sop=f"1.2.{number}")
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    try:
        assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        claimed = [child.communicate(timeout=60)[0].split() for child in children]
    finally:
        for child in children:
            child.kill()
            child.wait(timeout=10)
    assert all(claimed)
    counted = Counter(number for each in claimed for number in each)
    assert len(counted) == 500 and set(counted.values()) == {1}
    assert jobs.counts().jobs == {"done": 500}


def test_threads_that_add_the_same_instance_make_one_job(tmp_path):
    jobs, seen = Jobs(tmp_path / "jobs.sqlite"), []

    def sender() -> None:
        seen.append(add(jobs))
        jobs.close()

    threads = [threading.Thread(target=sender) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(seen) == 8 and sum(new for _, new in seen) == 1 and len({job.id for job, _ in seen}) == 1


OPENED = """
import sys, time
from pathlib import Path
from sonodistill.dicom.service.jobs import Jobs
jobs = Jobs(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
assert jobs.counts().jobs == {}
"""


def test_processes_that_open_a_new_queue_at_once_all_find_it(tmp_path):
    command = [sys.executable, "-c", OPENED, str(tmp_path / "jobs.sqlite")]
    children = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for child in children:
            child.stdout.readline()
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        assert [child.wait(timeout=60) for child in children] == [0] * 4
    finally:
        for child in children:
            child.kill()
            child.communicate(timeout=10)


KILLED = """
import os, signal, sys
from pathlib import Path
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.leases import Retries
now = float(sys.argv[2])
assert Jobs(Path(sys.argv[1]), Retries(2), clock=lambda: now).claim("victim", 60.0) is not None
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_job_of_a_worker_that_is_killed_again_and_again_ends_dead(tmp_path, clock):
    path = tmp_path / "jobs.sqlite"
    jobs = Jobs(path, Retries(2), clock=clock)
    job, _ = add(jobs)
    for _ in range(2):
        child = subprocess.run([sys.executable, "-c", KILLED, str(path), str(clock.now)], timeout=60, check=False)
        assert child.returncode == -9
        assert jobs.job(job.id).state is State.RUNNING and jobs.claim("w", 60.0) is None
        clock.now += 61
    assert jobs.claim("w", 60.0) is None
    assert jobs.job(job.id).state is State.DEAD


class Queue(RuleBasedStateMachine):
    """The queue against lists and dictionaries: whatever is done in whatever order, both say the same."""

    @initialize(folder=st.builds(lambda: None))
    def start(self, folder: None) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.jobs = Jobs(Path(self.folder.name) / "jobs.sqlite", Retries(2, 10.0, jitter=lambda: 0.5), clock=self.clock)
        self.rows: dict[int, dict] = {}

    def teardown(self) -> None:
        if hasattr(self, "jobs"):
            self.jobs.close()
            self.folder.cleanup()

    def of(self, sop: str, *states: str) -> list[int]:
        return [number for number, row in self.rows.items() if row["sop"] == sop and row["state"] in states]

    @rule(sop=st.sampled_from("xy"), file=st.sampled_from("ab"))
    def arrive(self, sop: str, file: str) -> None:
        first = self.of(sop, "received", "running") or self.of(sop, "done")
        same = [number for number in first if self.rows[number]["file"] == file]
        duplicates = [number for number in self.of(sop, "duplicate") if self.rows[number]["file"] == file]
        job, new = add(self.jobs, sop=sop, file=file)
        if same or (first and duplicates):
            assert not new and job.id == (same or duplicates)[0]
        else:
            assert new
            state = "duplicate" if first else "received"
            self.rows[job.id] = {"sop": sop, "file": file, "state": state, "next": self.clock.now, "attempts": 0}

    def promote(self, sop: str) -> None:
        if waiting := self.of(sop, "duplicate"):
            self.rows[max(waiting)].update(state="received", next=self.clock.now)

    @rule(owner=st.sampled_from("pq"))
    def claim(self, owner: str) -> None:
        for row in [row for row in self.rows.values() if row["state"] == "running" and row["until"] <= self.clock.now]:
            row.update(state="received", next=self.clock.now)
            if row["attempts"] >= 2:
                row.update(state="dead")
                self.promote(row["sop"])
        due = [
            (row["next"], number)
            for number, row in self.rows.items()
            if row["state"] == "received" and row["next"] <= self.clock.now
        ]
        job = self.jobs.claim(owner, 60.0)
        assert (None if job is None else job.id) == (min(due)[1] if due else None)
        if job is not None:
            row = self.rows[job.id]
            row.update(state="running", owner=owner, until=self.clock.now + 60.0, attempts=row["attempts"] + 1)

    @rule(owner=st.sampled_from("pq"), number=st.integers(1, 6), how=st.sampled_from(["finish", "fail", "refuse"]))
    def end(self, owner: str, number: int, how: str) -> None:
        row = self.rows.get(number)
        act = {
            "finish": lambda: self.jobs.finish(number, owner, [], ["pacs"]),
            "fail": lambda: self.jobs.fail(number, owner, "failed"),
            "refuse": lambda: self.jobs.refuse(number, owner, "refused"),
        }[how]
        if row is None or row["state"] != "running" or row["owner"] != owner:
            with pytest.raises(LeaseLostError):
                act()
            return
        act()
        if how == "finish":
            row["state"] = "done"
        elif how == "fail" and row["attempts"] < 2:
            row.update(state="received", next=self.clock.now + 10.0 * 2 ** (row["attempts"] - 1))
        else:
            row["state"] = "dead" if how == "fail" else "refused"
            self.promote(row["sop"])

    @rule(owner=st.sampled_from("pq"))
    def release(self, owner: str) -> None:
        held = [row for row in self.rows.values() if row["state"] == "running" and row["owner"] == owner]
        assert self.jobs.release(owner) == len(held)
        for row in held:
            row.update(state="received", next=0.0, attempts=row["attempts"] - 1)

    @rule(number=st.integers(1, 6))
    def retry(self, number: int) -> None:
        row = self.rows.get(number)
        if row and row["state"] in ("dead", "refused") and not self.of(row["sop"], "received", "running", "done"):
            self.jobs.retry_job(number)
            row.update(state="received", next=self.clock.now, attempts=0)
        else:
            with pytest.raises(QueueError):
                self.jobs.retry_job(number)

    @rule(seconds=st.sampled_from([1.0, 15.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "jobs"):
            return
        for number, row in self.rows.items():
            job = self.jobs.job(number)
            assert (job.state.value, job.attempts) == (row["state"], row["attempts"])
        for sop in "xy":
            assert len(self.of(sop, "received", "running")) <= 1


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_job_whose_last_worker_died_is_told_once(tmp_path):
    clock = Clock()
    jobs = Jobs(tmp_path / "jobs.sqlite", Retries(attempts=1), clock=clock)
    add(jobs, sop="1.2.3")
    assert jobs.claim("w", 10.0) is not None and jobs.reap() == []
    clock.now += 11
    assert [(job.sop_uid, job.state) for job in jobs.reap()] == [("1.2.3", State.DEAD)]
    assert jobs.reap() == []
