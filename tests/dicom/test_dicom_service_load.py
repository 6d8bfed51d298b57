"""The whole service with a long queue: it drains, and nothing of it grows meanwhile."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from abuse_case import Account, Memory, by_folder, processes
from dicom_factory import save, ultrasound
from pydicom.uid import generate_uid
from service_case import configuration, service

ALL = 10_000
GROWTH_MB = 48
ROW_BYTES = 4096
"""Of the queue's database and of the log, for each instance."""
TEXT = (
    '[[watch]]\nfolder = "in"\nquiet_seconds = 0\npoll_seconds = 0.2\nremove = true\n'
    '[[destination]]\nname = "out"\nkind = "folder"\nfolder = "out"\n'
)


def stills(folder: Path, count: int) -> list[Path]:
    """Small images, each an instance and a series of its own, ten to a study."""
    folder.mkdir()
    rng, study, files = np.random.default_rng(5), "", []
    for number in range(count):
        study = generate_uid() if number % 10 == 0 else study
        ds = ultrasound(rng.integers(0, 255, (1, 24, 32), np.uint8), SeriesInstanceUID=generate_uid())
        ds.StudyInstanceUID = study
        files.append(save(ds, folder / f"{number}.dcm"))
    return files


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def handles(supervisor: int) -> int:
    """Open files of all its processes."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in processes(supervisor))


def drain(folder: Path, count: int, seconds: float) -> dict[str, float]:
    """Queue so many instances before anything computes, and see them through; gives what was measured."""
    for name in ("in", "out"):
        (folder / name).mkdir()
    path = configuration(folder, TEXT)
    files = stills(folder / "made", count)
    by_folder(folder / "in", files)
    shutil.rmtree(folder / "made")
    begun = time.monotonic()
    with service(path) as running, Memory(running.process.pid).watched(1.0) as memory:

        def done() -> int:
            time.sleep(count / 1e4)  # counting is work too
            return running.counts().get("d-done", 0)

        running.wait(lambda: done() >= count // 10, seconds)
        memory.look()
        early, opened, longest = dict(memory.now), handles(running.process.pid), running.counts().get("received", 0)
        running.wait(lambda: done() == count, seconds)
        took = time.monotonic() - begun
        memory.look()
        late = dict(memory.now)
        grown = {role: late[role] - early[role] for role in early if role in late}
        assert max(grown.values()) < GROWTH_MB, grown
        assert handles(running.process.pid) <= opened + 20
        account = Account.of(running.spool)
        assert account.arrived == {"accepted": count} and account.jobs == {"done": count}
        running.wait(lambda: not running.files("results"), 120)
        running.wait(lambda: not running.files("instances"))
        assert running.stop() == 0
    assert len(list((folder / "out").iterdir())) == 2 * count
    assert not list((folder / "in").iterdir()) and not list((running.spool / "incoming").iterdir())
    kept = size(running.spool)
    assert kept < count * ROW_BYTES + (4 << 20)
    folders = sum(1 for each in running.spool.rglob("*") if each.is_dir())
    assert folders < 600, "neither folders"
    return {
        **{"instances": count, "seconds": took, "longest queue": longest, "bytes kept": kept},
        **{f"{role} MB": peak for role, peak in memory.peaks.items()},
        **{f"{role} grew MB": amount for role, amount in grown.items()},
    }


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_thousand_queued_instances_drain_without_growth(tmp_path, record_property):
    for name, value in drain(tmp_path, ALL, 5400).items():
        record_property(name, round(value, 1))
