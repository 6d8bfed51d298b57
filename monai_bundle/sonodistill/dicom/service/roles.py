"""The processes of the service, which ``run`` starts: python -m sonodistill.dicom.service.roles ROLE CONFIG [BASE]."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sonodistill.dicom.config import read_settings
from sonodistill.dicom.errors import reason_of
from sonodistill.dicom.model import service_digest
from sonodistill.dicom.quiet import quiet
from sonodistill.dicom.service.beat import Beat, CountedIntake, signs
from sonodistill.dicom.service.metrics import Snapshot
from sonodistill.dicom.service.spool import Spool, open_spool
from sonodistill.dicom.settings import Settings
from sonodistill.errors import SonoDistillError

logger = logging.getLogger(__name__)

RECEIVE, HTTP, GATHER, COMPUTE, DELIVER = "receive", "http", "gather", "compute", "deliver"
EXIT_UNUSABLE = 78
"""Exit code of what cannot get better by starting again: EX_CONFIG of sysexits.h."""

_PR_SET_PDEATHSIG = 1
_MB = 1 << 20

Work = Callable[[Settings, Spool, Beat, threading.Event], None]


def roles_of(settings: Settings) -> list[str]:
    """The processes that a configuration needs; those that let files in come first, and are stopped first."""
    wanted = {
        RECEIVE: settings.scp is not None,
        HTTP: settings.http is not None,
        GATHER: bool(settings.watch or settings.pull),
        COMPUTE: True,
        DELIVER: bool(settings.destination),
    }
    return [role for role, needed in wanted.items() if needed]


def receive(settings: Settings, spool: Spool, beat: Beat, stop: threading.Event) -> None:
    """C-STORE."""
    from sonodistill.dicom.service.scp import limit_memory, serve_scp

    assert settings.scp is not None  # noqa: S101 (see roles_of)
    limit_memory(settings.scp.memory_mb)
    serve_scp(
        settings.scp,
        CountedIntake(spool, beat),
        stop,
        max_file_bytes=settings.service.max_file_mb * _MB,
        ready=_listening(beat, "DIMSE"),
    )


def http(settings: Settings, spool: Spool, beat: Beat, stop: threading.Event) -> None:
    """Health, metrics and STOW-RS."""
    from sonodistill.dicom.service.http import serve_http

    assert settings.http is not None  # noqa: S101 (see roles_of)
    serve_http(
        settings.http,
        CountedIntake(spool, beat),
        stop,
        health=partial(health, settings, spool),
        snapshot=partial(snapshot, settings, spool),
        max_file_bytes=settings.service.max_file_mb * _MB,
        ready=_listening(beat, "HTTP"),
    )


def gather(settings: Settings, spool: Spool, beat: Beat, stop: threading.Event) -> None:
    """Watched folders, and DICOMweb servers that are asked."""
    from sonodistill.dicom.service.watch import watch

    intake = CountedIntake(spool, beat)
    limit = settings.service.max_file_mb * _MB
    works: list[Callable[[], None]] = [partial(watch, each, intake, stop, max_bytes=limit) for each in settings.watch]
    if settings.pull:
        from sonodistill.dicom.service.pull import pull

        works += [partial(pull, each, intake, stop, spool.knows, max_bytes=limit) for each in settings.pull]
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    beat.is_ready()
    while not stop.wait(1):
        if not all(thread.is_alive() for thread in threads):
            stop.set()
            raise SonoDistillError("a way in has ended")
    for thread in threads:
        thread.join()


def compute(settings: Settings, spool: Spool, beat: Beat, stop: threading.Event) -> None:
    """Inference."""
    from sonodistill.dicom.service import compute as module

    module.compute(settings, spool, beat, stop)


def deliver(settings: Settings, spool: Spool, beat: Beat, stop: threading.Event) -> None:
    """Sending."""
    from sonodistill.dicom.service import deliver as module

    module.deliver(settings, spool, beat, stop)


ROLES: dict[str, Work] = {RECEIVE: receive, HTTP: http, GATHER: gather, COMPUTE: compute, DELIVER: deliver}


def health(settings: Settings, spool: Spool) -> dict[str, bool]:
    """Whether each process is at work, and the disk has room."""
    found = {sign.role: sign for sign in signs(settings.service.spool)}
    checks = {role: role in found and found[role].alive and found[role].ready for role in roles_of(settings)}
    return {**checks, "disk": spool.has_room()}


def snapshot(settings: Settings, spool: Spool) -> Snapshot:
    """The numbers of now, for the metrics."""
    import shutil

    counts = spool.jobs.counts()
    sums: dict[str, float] = {}
    for sign in signs(settings.service.spool):
        for name, value in sign.counts.items():
            sums[name] = sums.get(name, 0) + value
    received = {}
    for name, value in sums.items():
        parts = name.split("/")
        if parts[0] == "received":
            received[parts[1], parts[2]] = int(value)
    return Snapshot(
        jobs=counts.jobs,
        deliveries=counts.deliveries,
        received=received,
        oldest_seconds=counts.oldest_job or None,
        disk_free_bytes=shutil.disk_usage(settings.service.spool).free,
        frames=int(sums.get("frames", 0)),
        seconds=sums.get("seconds", 0.0),
    )


def main(role: str, configuration: str, base: str | None = None) -> int:
    """Run one process until it is told to stop; gives its exit code.

    Args:
        base: folder at which the configuration's paths start, if not its own.
    """
    _end_with_parent()
    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s {role} %(levelname)s %(message)s", stream=sys.stderr)
    quiet()
    threading.excepthook = lambda ended: logger.error(
        "a thread ended: %s", reason_of(ended.exc_value or ended.exc_type())
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        settings = read_settings(Path(configuration), base)
        spool = open_spool(settings.service, service_digest(settings.route))
        with Beat(settings.service.spool, role) as beat:
            ROLES[role](settings, spool, beat, stop)
        spool.close()
    except SonoDistillError as error:
        logger.error("%s", error)
        return EXIT_UNUSABLE
    except Exception as error:  # noqa: BLE001 (a traceback would quote values with the messages of its errors)
        logger.error("it ends: %s", reason_of(error))
        return 1
    return 0


def _listening(beat: Beat, what: str) -> Callable[[int], None]:
    def ready(port: int) -> None:
        logger.info("%s at port %d", what, port)
        beat.is_ready()

    return ready


def _end_with_parent() -> None:
    """Be killed when the process that started this one ends however it may: no process stays behind with the port."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
