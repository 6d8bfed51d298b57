"""The watched folder: what has come to rest is taken once, and nothing that lies there ends the watching."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import save, ultrasound
from spool_case import settings

from sonodistill.dicom.service.spool import Spool, open_spool
from sonodistill.dicom.service.watch import Watcher, watch
from sonodistill.dicom.settings import Service, Watch


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def instance(path: Path, number: int = 1) -> Path:
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": f"1.2.3.4.{number}"}
    return save(ultrasound(np.zeros((1, 8, 8), np.uint8), **uids), path)


def watcher(inbox: Path, spool: Spool, **options) -> Watcher:
    return Watcher(Watch(inbox, quiet_seconds=2.0, **options), spool)


def test_a_file_is_taken_once_it_has_come_to_rest(inbox, spool):
    watched = watcher(inbox, spool)
    path = inbox / "clip.dcm"
    path.write_bytes(b"half")
    assert watched.look(now=0.0) == watched.look(now=1.9) == 0
    instance(path)
    assert watched.look(now=2.1) == watched.look(now=4.0) == 0  # it has just changed
    assert watched.look(now=4.2) == 1
    assert spool.jobs.counts().jobs == {"received": 1} and path.exists()
    assert watched.look(now=100.0) == 0
    job = spool.jobs.job(1)
    assert (job.via, job.peer, job.arrivals) == ("watch", str(inbox), 1)


def test_a_file_that_changes_is_taken_again(inbox, spool):
    watched = watcher(inbox, spool)
    path = instance(inbox / "clip.dcm", 1)
    watched.look(now=0.0)
    watched.look(now=3.0)
    instance(path, 2)
    os.utime(path, (5, 5))
    watched.look(now=4.0)
    assert watched.look(now=7.0) == 1
    assert spool.jobs.counts().jobs == {"received": 2}


def test_subfolders_are_searched_and_links_hidden_and_unfinished_files_are_not(inbox, spool, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    instance(outside / "secret.dcm", 9)
    (inbox / "a" / "b").mkdir(parents=True)
    instance(inbox / "a" / "b" / "clip", 1)
    for name in (".hidden", "clip.tmp", "CLIP.PART"):
        instance(inbox / name, 2)
    (inbox / ".folder").mkdir()
    instance(inbox / ".folder" / "clip", 3)
    (inbox / "link").symlink_to(outside / "secret.dcm")
    (inbox / "linked").symlink_to(outside)
    os.mkfifo(inbox / "fifo")
    watched = watcher(inbox, spool)
    watched.look(now=0.0)
    assert watched.look(now=3.0) == 1
    assert [job for job, _ in spool.jobs.active()] == [1] and spool.knows("1.2.3.4.1")


def test_what_became_a_job_is_removed_where_that_is_asked_for_and_what_was_refused_is_not(inbox, spool):
    instance(inbox / "clip.dcm")
    instance(inbox / "copy.dcm")
    (inbox / "readme.txt").write_text("not DICOM")
    watched = watcher(inbox, spool, remove=True)
    watched.look(now=0.0)
    assert watched.look(now=3.0) == 3
    assert [path.name for path in inbox.iterdir()] == ["readme.txt"]
    assert spool.jobs.counts().jobs == {"received": 1, "refused": 1}
    assert watched.look(now=60.0) == 0


def test_a_full_disk_makes_files_wait(inbox, spool, tmp_path):
    instance(inbox / "clip.dcm")
    full = open_spool(Service(spool=tmp_path / "spool", reserve_gb=1e9))
    watched = watcher(inbox, full)
    watched.look(now=0.0)
    assert watched.look(now=3.0) == 0 and (inbox / "clip.dcm").exists()
    watched._intake = spool
    assert watched.look(now=4.0) == 1


def test_files_that_vanish_or_cannot_be_read_do_not_stand_in_the_way(inbox, spool, caplog):
    class Vanishing:
        """The spool, but for a file that is removed when its copying begins."""

        def has_room(self) -> bool:
            return spool.has_room()

        @contextmanager
        def incoming(self) -> Iterator[Path]:
            (inbox / "Doe^John.dcm").unlink(missing_ok=True)
            with spool.incoming() as path:
                yield path

        def accept(self, path, *, via, peer):
            return spool.accept(path, via=via, peer=peer)

    instance(inbox / "Doe^John.dcm", 1)
    instance(inbox / "clip.dcm", 2)
    watched = Watcher(Watch(inbox, quiet_seconds=2.0), Vanishing())
    with caplog.at_level(logging.DEBUG):
        watched.look(now=0.0)
        assert watched.look(now=3.0) == 1
        assert watched.look(now=60.0) == 0
    assert spool.knows("1.2.3.4.2") and not spool.knows("1.2.3.4.1")
    assert "Doe" not in caplog.text and list((spool._folder / "incoming").iterdir()) == []


def test_a_file_that_is_still_growing_while_it_is_copied_is_left_for_later(inbox, spool, monkeypatch):
    path = instance(inbox / "clip.dcm")
    watched = watcher(inbox, spool)
    watched.look(now=0.0)
    fstat = os.fstat

    def grow(handle: int) -> os.stat_result:
        if path.stat().st_size < 10_000:
            with path.open("ab") as file:
                file.write(b"\0" * 10_000)
        return fstat(handle)

    monkeypatch.setattr(os, "fstat", grow)
    assert watched.look(now=3.0) == 0 and spool.jobs.counts().jobs == {}
    watched.look(now=4.0)
    assert watched.look(now=7.0) == 1


def test_of_a_huge_file_only_as_much_is_read_as_shows_it(inbox, spool, tmp_path):
    with (inbox / "huge.dcm").open("wb") as file:
        file.truncate(10 << 30)
    small = open_spool(settings(tmp_path, max_file_mb=1))
    watched = Watcher(Watch(inbox, quiet_seconds=2.0), small, max_bytes=1 << 20)
    watched.look(now=0.0)
    assert watched.look(now=3.0) == 1
    assert small.jobs.counts().jobs == {"refused": 1} and "1 MB" in small.jobs.job(1).reason


def test_the_loop_outlives_a_folder_that_is_not_there_and_stops_when_told(tmp_path, spool):
    inbox, stop = tmp_path / "later", threading.Event()
    loop = threading.Thread(target=watch, args=(Watch(inbox, quiet_seconds=0.05, poll_seconds=0.02), spool, stop))
    loop.start()
    try:
        time.sleep(0.1)
        inbox.mkdir()
        instance(inbox / "clip.dcm")
        until = time.monotonic() + 20
        while not spool.jobs.counts().jobs and time.monotonic() < until:
            time.sleep(0.02)
        assert spool.jobs.counts().jobs == {"received": 1}
    finally:
        stop.set()
        loop.join(timeout=10)
    assert not loop.is_alive()
