"""The spool: what was acknowledged is a job, whatever happens; what is refused is accounted for; nothing grows."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import save, ultrasound
from pydicom import examples

from sonodistill.dicom.errors import NoRoomError, QueueError, SpoolError
from sonodistill.dicom.service import spool as spool_module
from sonodistill.dicom.service.audit import Audit
from sonodistill.dicom.service.database import Database
from sonodistill.dicom.service.header import HEAD_BYTES, identify
from sonodistill.dicom.service.intake import Outcome, Receipt
from sonodistill.dicom.service.records import Result, State
from sonodistill.dicom.service.spool import Spool, open_spool
from sonodistill.dicom.settings import Service
from sonodistill.errors import SonoDistillError
from sonodistill.files import sha256

UID = "1.2.826.0.1.3680043.8.498.100000000"


def settings(folder: Path, **changes) -> Service:
    return Service(spool=folder / "spool", **{"reserve_gb": 0.0, "max_used_percent": 100.0, **changes})


@pytest.fixture
def spool(tmp_path: Path):
    opened = open_spool(settings(tmp_path), "config")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def instance(tmp_path_factory) -> bytes:
    """A small ultrasound instance whose SOP Instance UID is UID."""
    path = tmp_path_factory.mktemp("instance") / "us.dcm"
    ds = ultrasound(
        np.zeros((1, 16, 16), np.uint8), SOPInstanceUID=UID, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4"
    )
    return save(ds, path).read_bytes()


def numbered(instance: bytes, number: int) -> bytes:
    return instance.replace(UID.encode(), f"{UID[:-9]}{100000000 + number}".encode())


def send(spool: Spool, data: bytes, via: str = "stow") -> Receipt:
    with spool.incoming() as path:
        path.write_bytes(data)
        return spool.accept(path, via=via, peer="PACS@10.0.0.5")


def kept(spool: Spool, name: str) -> list[Path]:
    return [path for path in (spool._folder / name).rglob("*") if path.is_file()]


def deliver(spool: Spool) -> int:
    job = spool.jobs.claim("worker", 60.0)
    path = spool.results_folder(job) / "report.dcm"
    path.write_bytes(b"result")
    spool.jobs.finish(job.id, "worker", [Result("report", "1.9", str(path), sha256(path))], ["pacs"])
    delivery = spool.jobs.claim_delivery("pacs", "sender", 60.0)
    spool.jobs.finish_delivery(delivery.id, "sender")
    return job.id


def test_a_real_clip_sent_three_times_is_one_job_and_one_file(spool):
    data = Path(examples.get_path("ybr_color")).read_bytes()
    receipts = [send(spool, data) for _ in range(3)]
    assert [each.outcome for each in receipts] == [Outcome.ACCEPTED, Outcome.KNOWN, Outcome.KNOWN]
    assert len({each.job for each in receipts}) == 1
    job = spool.jobs.job(receipts[0].job)
    assert spool.source(job).read_bytes() == data
    assert job.arrivals == 3 and job.size == len(data) and spool.knows(job.sop_uid)
    assert len(kept(spool, "instances")) == 1 and kept(spool, "incoming") == []


def test_nobody_else_may_enter_the_spool(spool, instance):
    send(spool, instance)
    for path in [spool._folder, *spool._folder.rglob("*")]:
        if path.is_dir() or path.suffix in (".dcm", ".key", ".jsonl"):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "deflated", "no ultrasound", "no study", "nested"])
def test_what_is_no_ultrasound_instance_is_refused_kept_and_accounted_for(spool, instance, tmp_path, kind):
    def changed(**attributes) -> bytes:
        ds = ultrasound(np.zeros((1, 8, 8), np.uint8), StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4")
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        return save(ds, tmp_path / "us.dcm").read_bytes()

    def bomb() -> bytes:
        meta = instance[: instance.index(b"\x08\x00\x16\x00")]
        meta = meta.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99").replace(b"UI\x14\0", b"UI\x16\0")
        return meta + zlib.compress(b"\0" * (64 << 20))[2:-4]

    data = {
        "empty": lambda: b"",
        "text": lambda: b"patient list\n" * 100,
        "truncated": lambda: instance[:200],
        "deflated": bomb,
        "no ultrasound": lambda: changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4"),
        "no study": lambda: changed(StudyInstanceUID=""),
        "nested": lambda: (
            instance[:132] + b"\x08\x00\x05\x00SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 9999
        ),
    }[kind]()
    receipts = [send(spool, data), send(spool, data)]
    assert [each.outcome for each in receipts] == [Outcome.REFUSED] * 2 and receipts[0] == receipts[1]
    assert receipts[0].reason and "SECRET" not in receipts[0].reason
    assert [path.read_bytes() for path in kept(spool, "quarantine")] == [data]
    assert kept(spool, "instances") == [] and spool.jobs.counts().jobs == {"refused": 1}


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_thousands_of_damaged_headers_are_read_or_refused(instance):
    random = np.random.default_rng(0)
    whole = Path(examples.get_path("ybr_color")).read_bytes()[:4000]
    outcomes = set()
    for count in range(2000):
        data = bytearray(instance if count % 2 else whole)
        for at in random.integers(0, min(len(data), 1200), random.integers(1, 8)):
            data[at] = random.integers(0, 256)
        data = data[: random.integers(1, len(data) + 1)] if count % 3 == 0 else data
        try:
            identify(bytes(data))
            outcomes.add("read")
        except SonoDistillError as error:
            outcomes.add(type(error).__name__)
    assert {"read", "UnreadableFileError"} <= outcomes


@pytest.mark.parametrize("uid", ["1.2.3/../../../etc", "../../x", "1.2.3\\4", "1..2", "1.02", "", "a.b"])
def test_malformed_uids_are_refused_and_touch_no_path(spool, tmp_path, uid):
    data = Path(examples.get_path("rgb_color")).read_bytes()
    good = identify(data[:HEAD_BYTES]).sop_uid.encode()
    padded = uid.encode().ljust(len(good), b"\0")
    before = sorted(tmp_path.iterdir())
    receipt = send(spool, data.replace(good, padded))
    assert receipt.outcome is Outcome.REFUSED and "SOPInstanceUID" in receipt.reason
    assert sorted(tmp_path.iterdir()) == before
    assert spool.jobs.job(receipt.job).sop_uid == "" and len(kept(spool, "quarantine")) == 1


def test_a_file_that_is_too_large_is_refused_and_not_kept(tmp_path, instance):
    spool = open_spool(settings(tmp_path, max_file_mb=1))
    receipt = send(spool, instance + b"\0" * (1 << 20))
    assert receipt.outcome is Outcome.REFUSED and "1 MB" in receipt.reason
    assert kept(spool, "quarantine") == kept(spool, "instances") == kept(spool, "incoming") == []
    with pytest.raises(QueueError, match="not kept"):
        spool.retry(receipt.job)
    spool.close()


def test_links_and_strangers_are_not_accepted(spool, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")
    with spool.incoming() as path, pytest.raises(OSError, match="symbolic"):
        path.symlink_to(secret)
        spool.accept(path, via="stow", peer="x")
    with pytest.raises(ValueError, match="incoming"):
        spool.accept(secret, via="stow", peer="x")
    assert secret.exists() and spool.jobs.counts().jobs == {}


def test_what_is_not_accepted_leaves_nothing(spool):
    with pytest.raises(RuntimeError), spool.incoming() as path:
        path.write_bytes(b"half of a file")
        raise RuntimeError("the connection was lost")
    assert kept(spool, "incoming") == []


def test_a_delivered_job_leaves_no_file_and_is_still_known(spool, instance):
    send(spool, instance)
    number = deliver(spool)
    assert spool.forget(number) and not spool.forget(number)
    assert kept(spool, "instances") == kept(spool, "results") == []
    assert send(spool, instance) == Receipt(Outcome.KNOWN, number)
    assert kept(spool, "instances") == []


def test_results_stay_until_every_delivery_is_done_or_given_up(spool, instance):
    send(spool, instance)
    job = spool.jobs.claim("w", 60.0)
    (spool.results_folder(job) / "report.dcm").write_bytes(b"result")
    spool.jobs.finish(job.id, "w", [], ["pacs"])
    delivery = spool.jobs.claim_delivery("pacs", "s", 60.0)
    spool.jobs.fail_delivery(delivery.id, "s", "refused", permanent=True)
    assert not spool.forget(job.id) and spool.tidy() == 0 and len(kept(spool, "results")) == 1
    spool.purge_delivery(delivery.id)
    assert kept(spool, "results") == kept(spool, "instances") == []


def test_a_dead_job_is_quarantined_retried_and_purged(spool, instance):
    number = send(spool, instance).job
    for end in ("refuse", "fail"):
        job = spool.jobs.claim("w", 60.0)
        if end == "refuse":
            spool.jobs.refuse(job.id, "w", "no route")
        else:
            spool.jobs.fail(job.id, "w", "damaged", permanent=True)
        spool.tidy()
        assert kept(spool, "instances") == [] and [p.read_bytes() for p in kept(spool, "quarantine")] == [instance]
        spool.retry(number)
        assert kept(spool, "quarantine") == [] and spool.source(spool.jobs.job(number)).read_bytes() == instance
    spool.jobs.claim("w", 60.0)
    spool.jobs.refuse(number, "w", "no route")
    spool.tidy()
    spool.purge(number)
    assert kept(spool, "quarantine") == kept(spool, "instances") == [] and spool.jobs.counts().jobs == {}


def test_one_file_can_be_dead_for_one_job_and_at_hand_for_another(spool, instance):
    first = send(spool, instance).job
    spool.jobs.claim("w", 60.0)
    spool.jobs.refuse(first, "w", "no route")
    spool.tidy()
    again = send(spool, instance)
    assert again.outcome is Outcome.ACCEPTED and again.job != first
    spool.recover()
    assert len(kept(spool, "instances")) == len(kept(spool, "quarantine")) == 1
    spool.purge(first)
    assert len(kept(spool, "instances")) == 1 and kept(spool, "quarantine") == []


def test_another_file_of_an_instance_is_kept_until_the_first_is_done(spool, instance):
    send(spool, instance)
    corrected = instance.replace(b"Secret^Name", b"Secret^Nama")
    assert send(spool, corrected).outcome is Outcome.KNOWN
    assert len(kept(spool, "instances")) == 2
    deliver(spool)
    spool.tidy()
    assert send(spool, corrected).outcome is Outcome.KNOWN
    assert kept(spool, "instances") == [] and spool.jobs.counts().jobs == {"done": 1, "duplicate": 1}


def test_two_services_cannot_use_one_spool(tmp_path, spool):
    spool.acquire()
    other = open_spool(settings(tmp_path))
    with pytest.raises(SpoolError, match="another service"):
        other.recover()
    spool.close()
    other.recover()
    other.close()


def test_full_disk_by_the_watermark_has_no_room(tmp_path):
    for changes in ({"reserve_gb": 1e9}, {"max_used_percent": 0.001}):
        assert not open_spool(settings(tmp_path, **changes)).has_room()
    assert open_spool(settings(tmp_path, max_used_percent=101.0)).has_room()


def in_child(act: Callable[[], None]) -> int:
    """The exit status of a forked process; it never returns into the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def test_a_disk_that_fills_up_is_named_and_loses_nothing(tmp_path, instance):
    clip = instance + b"\0" * 300_000

    def fill() -> None:
        spool = open_spool(settings(tmp_path), "config")
        assert send(spool, instance).outcome is Outcome.ACCEPTED
        spool.jobs.close()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))  # neither database nor log can grow
        with spool.incoming() as path, pytest.raises(OSError, match="File too large"):
            path.write_bytes(clip)
        with spool.incoming() as path:
            path.write_bytes(numbered(instance, 7))
            with pytest.raises(NoRoomError):
                spool.accept(path, via="stow", peer="x")

    assert in_child(fill) == 0
    spool = open_spool(settings(tmp_path), "config")
    assert kept(spool, "incoming") == kept(spool, "quarantine") == []
    spool.recover()
    assert len(kept(spool, "instances")) == spool.jobs.counts().jobs["received"]
    assert send(spool, instance) == Receipt(Outcome.KNOWN, 1)
    assert send(spool, numbered(instance, 7)).outcome is not Outcome.REFUSED
    assert spool.jobs.counts().jobs == {"received": 2} and len(kept(spool, "instances")) == 2
    spool.close()


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


@pytest.mark.parametrize("before", ["nothing", "the same file", "the same file, dead", "a file that is no DICOM"])
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
