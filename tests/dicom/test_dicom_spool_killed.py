"""The spool when its process is killed, restarted, or not alone: each acknowledged file is a job, once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from spool_case import UID, deliver, in_child, kept, numbered, send, settings

from sonodistill.dicom.service import spool as spool_module
from sonodistill.dicom.service.audit import Audit
from sonodistill.dicom.service.database import Database
from sonodistill.dicom.service.intake import Outcome, Receipt
from sonodistill.dicom.service.records import State
from sonodistill.dicom.service.spool import open_spool


def mortal(at: int, patch: pytest.MonkeyPatch) -> None:
    """Have this process killed at the Nth moment before or after a step that touches disk or queue."""
    count = iter(range(10_000))

    def tick() -> None:
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*arguments, **options):
            tick()
            result = original(*arguments, **options)
            tick()
            return result

        patch.setattr(owner, name, wrapped)

    for owner, name in ((os, "fsync"), (os, "fchmod"), (os, "replace"), (os, "unlink"), (os, "rename"), (os, "mkdir")):
        around(owner, name)
    for name in ("replace", "unlink", "mkdir", "rename"):
        around(Path, name)
    around(spool_module, "_flushed")
    around(Audit, "record")
    opened = Database._opened

    def traced(self):
        connection = opened(self)
        connection.set_trace_callback(lambda _: tick())  # before each statement, COMMIT among them
        return connection

    patch.setattr(Database, "_opened", traced)


@pytest.mark.parametrize(
    "before",
    [
        "nothing",
        "the same file",
        pytest.param("the same file, dead", marks=pytest.mark.slow),
        "a file that is no DICOM",
    ],
)
def test_killed_between_any_two_steps_of_accept_a_file_is_a_job_once_or_was_not_acknowledged(
    tmp_path, instance, before
):
    data = b"no DICOM" if before == "a file that is no DICOM" else instance
    for at in range(200):
        folder = tmp_path / str(at)
        folder.mkdir()
        if before.startswith("the same file"):

            def prepare(folder: Path = folder) -> None:
                spool = open_spool(settings(folder), "config")
                number = send(spool, data).job
                if before.endswith("dead"):
                    spool.jobs.claim("w", 60.0)
                    spool.jobs.refuse(number, "w", "no route")
                    spool.tidy()

            assert in_child(prepare) == 0
        acknowledged = folder / "acknowledged"

        def accept(folder: Path = folder, acknowledged: Path = acknowledged, at: int = at) -> None:
            spool = open_spool(settings(folder), "config")
            with spool.incoming() as path:
                path.write_bytes(data)
                mortal(at, pytest.MonkeyPatch())
                spool.accept(path, via="stow", peer="x")
                acknowledged.touch()

        status = in_child(accept)
        spool = open_spool(settings(folder), "config")
        spool.recover()
        counts = spool.jobs.counts().jobs
        files = {name: len(kept(spool, name)) for name in ("incoming", "instances", "quarantine")}
        spool.close()
        assert files["incoming"] == 0
        if before == "a file that is no DICOM":
            assert counts in ([{"refused": 1}] if acknowledged.exists() else [{}, {"refused": 1}])
            assert files["quarantine"] == counts.get("refused", 0) and files["instances"] == 0
        else:
            dead = 1 if before.endswith("dead") else 0
            expected = {"refused": dead} if dead else {}
            allowed = [{**expected, "received": 1}]
            if before != "the same file" and not acknowledged.exists():
                allowed.append(expected)
            assert counts in allowed
            assert files["instances"] == counts.get("received", 0) and files["quarantine"] == dead
        shutil.rmtree(folder)
        if status == 0:
            assert at > 10  # the steps are there to be interrupted
            return
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    pytest.fail("it never got to the end")


def test_recovery_makes_jobs_of_files_and_buries_jobs_without(tmp_path, spool, instance):
    for number in range(4):
        send(spool, numbered(instance, number))
    lost = spool.jobs.job(2)
    spool.source(lost).unlink()
    spool.jobs.claim("gone", 1e9)
    spool.close()
    for name in ("jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm"):
        (spool._folder / name).unlink(missing_ok=True)
    (spool._incoming / "leftover.part").write_bytes(b"x")
    os.utime(spool._incoming / "leftover.part", (1, 1))
    (spool.results / "77").mkdir()
    outside = tmp_path / "outside.dcm"
    outside.write_bytes(instance)
    (spool._folder / "instances" / "ab").mkdir(exist_ok=True)
    (spool._folder / "instances" / "ab" / f"{'ab' * 32}.dcm").symlink_to(outside)
    (spool._folder / "instances" / "ab" / "notes.txt").write_text("x")
    again = open_spool(settings(tmp_path), "config")
    assert again.recover() == {"leftovers": 1, "recovered": 3, "lost": 0}
    assert again.jobs.counts().jobs == {"received": 3} and list(again.results.iterdir()) == []
    again.source(again.jobs.job(1)).unlink()
    claimed = again.jobs.claim("killed", 1e9)
    assert again.recover()["lost"] == 1
    assert "missing from the spool" in again.jobs.job(1).reason and again.jobs.job(claimed.id).state is State.DEAD
    assert [again.jobs.claim("w", 60.0).id for _ in range(2)] == [2, 3] and outside.exists()
    again.close()


def test_after_a_kill_a_running_job_is_taken_up_at_once_and_its_attempt_counts(tmp_path, spool, instance):
    number = send(spool, instance).job
    spool.jobs.claim("killed", 3600.0)
    spool.close()
    again = open_spool(settings(tmp_path), "another config")
    again.recover()
    job = again.jobs.claim("w", 60.0)
    assert (job.id, job.attempts, job.config_sha256) == (number, 2, "another config")
    again.close()


def test_a_file_that_is_about_to_be_removed_and_comes_again_waits_for_its_turn(tmp_path, spool, instance):
    send(spool, instance)
    digest = spool.jobs.job(1).file_sha256
    receipts = []

    def again() -> None:
        receipts.append(send(spool, instance))
        spool.jobs.close()

    other = threading.Thread(target=again)
    with spool.store.shard(digest):
        other.start()
        other.join(timeout=0.3)
        assert receipts == [] and spool.jobs.job(1).arrivals == 1
    other.join(timeout=20)
    assert receipts == [Receipt(Outcome.KNOWN, 1)]


SENDER = """
import sys
from pathlib import Path
from sonodistill.dicom.service.spool import open_spool
from sonodistill.dicom.settings import Service
from sonodistill.errors import SonoDistillError
spool = open_spool(Service(spool=Path(sys.argv[1]), reserve_gb=0.0, max_used_percent=100.0), "config")
data, uid = Path(sys.argv[2]).read_bytes(), sys.argv[3]
for number in range(20):
    with spool.incoming() as path:
        path.write_bytes(data.replace(uid.encode(), f"{uid[:-9]}{100000000 + number}".encode()))
        spool.accept(path, via="dimse", peer="x")
"""


def test_two_processes_that_receive_the_same_files_while_they_are_worked_off_make_one_job_each(
    tmp_path, spool, instance
):
    (tmp_path / "us.dcm").write_bytes(instance)
    command = [sys.executable, "-c", SENDER, str(tmp_path / "spool"), str(tmp_path / "us.dcm"), UID]
    children = [subprocess.Popen(command) for _ in range(2)]
    done = 0
    try:
        while any(child.poll() is None for child in children):
            if spool.jobs.counts().jobs.get("received"):
                spool.forget(deliver(spool))
                done += 1
    finally:
        for child in children:
            child.kill()
            assert child.wait(timeout=10) == 0
    while spool.jobs.counts().jobs.get("received"):
        spool.forget(deliver(spool))
        done += 1
    assert done == 20 and spool.jobs.counts().jobs == {"done": 20}
    assert kept(spool, "instances") == kept(spool, "results") == []


@pytest.mark.slow
def test_ten_thousand_instances_drain_without_growth(tmp_path, instance):
    def disk() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "spool").rglob("*") if path.is_file())

    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def drain() -> None:
        spool = open_spool(settings(tmp_path), "config")
        spool.recover()
        for number in range(10_000):
            assert send(spool, numbered(instance, number)).outcome is Outcome.ACCEPTED
        after = {}
        for count in range(10_000):
            spool.forget(deliver(spool))
            if count in (500, 9_999):
                after[count] = memory()
        assert after[9_999] - after[500] < 16 << 20
        assert spool.jobs.counts().jobs == {"done": 10_000}
        assert kept(spool, "instances") == kept(spool, "results") == kept(spool, "incoming") == []
        assert (spool._folder / "jobs.sqlite-wal").stat().st_size <= 64 << 20
        spool.close()
        assert disk() < 10_000 * 3000  # rows, indices and log, until they are pruned and rotated
        assert spool.jobs.prune(-1.0) == 10_000

    assert in_child(drain) == 0
