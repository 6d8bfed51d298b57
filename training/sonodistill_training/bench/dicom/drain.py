"""A long queue of small instances: whether it drains evenly, and leaves nothing behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from sonodistill.dicom.config import read_settings
from sonodistill.dicom.model import service_digest
from sonodistill.dicom.service.spool import open_spool
from sonodistill_training.bench.dicom.clips import write_stills
from sonodistill_training.bench.dicom.service import Running, configure, running
from sonodistill_training.bench.dicom.setup import Setup


def drain(folder: Path, model: Path, setup: Setup) -> dict[str, Any]:
    """Instances a second of the whole service, from a queue that is full at its start to results delivered.

    ``rss_mb`` is that of all of its processes together after a twentieth of the instances (``before``), at the end
    (``after``), and the most; ``spool_mb`` is what the spool takes on the disk, full and drained.
    """
    configuration, port = configure(folder / "service", model, setup=setup)
    settings = read_settings(configuration)
    spool = open_spool(settings.service, service_digest(settings.route))
    for path in write_stills(folder / "stills", setup.drain, setup.seed):
        with spool.incoming() as arriving:
            path.rename(arriving)
            spool.accept(arriving, via="dimse", peer="bench")
    spool.close()
    full = _megabytes(spool_folder := folder / "service" / "spool")
    with running(configuration, port) as service:
        start, done = time.perf_counter(), service.delivered()
        before = _progress(service, max(done + 1, setup.drain // 20))
        after = _progress(service, setup.drain)
        seconds = time.perf_counter() - start
    return {
        "instances": setup.drain,
        "instances_per_second": (setup.drain - done) / seconds,
        "rss_mb": {"before": before, "after": after, "peak": service.peak_rss_mb},
        "spool_mb": {"before": full, "after": _megabytes(spool_folder)},
    }


def _progress(service: Running, instances: int) -> float:
    """Wait until so many are delivered; the memory then."""

    def delivered() -> bool:
        service.rss_mb()
        return service.delivered() >= instances

    service.wait(delivered, seconds=24 * 3600, pause=0.5)
    return service.rss_mb()


def _megabytes(folder: Path) -> float:
    """On the disk, 10^6 bytes."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:  # it has just gone
            continue
    return total / 1e6
