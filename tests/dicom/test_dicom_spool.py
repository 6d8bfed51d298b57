"""The spool: what was acknowledged is a job, whatever happens; what is refused is accounted for; nothing grows."""

from __future__ import annotations

import resource
import signal
import stat
import zlib
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import save, ultrasound
from pydicom import examples
from spool_case import deliver, in_child, kept, numbered, send, settings

from sonodistill.dicom.errors import NoRoomError, QueueError, SpoolError
from sonodistill.dicom.service.header import HEAD_BYTES, identify
from sonodistill.dicom.service.intake import Outcome, Receipt
from sonodistill.dicom.service.spool import open_spool
from sonodistill.errors import SonoDistillError


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
