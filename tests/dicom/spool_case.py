"""A spool in a test's folder, small instances for it, and what is done with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sonodistill.dicom.service.intake import Receipt
from sonodistill.dicom.service.records import Result
from sonodistill.dicom.service.spool import Spool
from sonodistill.dicom.settings import Service
from sonodistill.files import sha256

UID = "1.2.826.0.1.3680043.8.498.100000000"


def settings(folder: Path, **changes) -> Service:
    return Service(spool=folder / "spool", **{"reserve_gb": 0.0, "max_used_percent": 100.0, **changes})


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
