"""``sonodistill dicom serve``: starts the processes of the service, starts again what dies, and stops them in order."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sonodistill.dicom.config import read_service
from sonodistill.dicom.model import load_model, service_digest
from sonodistill.dicom.service.deliver import open_destination
from sonodistill.dicom.service.roles import COMPUTE, DELIVER, EXIT_UNUSABLE, roles_of
from sonodistill.dicom.service.spool import open_spool, private_folder
from sonodistill.dicom.tls import server_context
from sonodistill.dicom.web import Client, read_token

logger = logging.getLogger(__name__)

LAUNCHER = (sys.executable, "-m", "sonodistill.dicom.service.roles")
DRAIN_SECONDS = 60.0
_POLL_SECONDS = 0.2
_LONGEST_WAIT = 30.0
_STEADY_SECONDS = 60.0
_LAST = (COMPUTE, DELIVER)


@dataclass(slots=True)
class _Process:
    """A role and the process that has it now.

    Attributes:
        failures: in a row; one that ran for a minute starts anew.
        due: when it is started again.
    """

    role: str
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float = field(default=0.0)


def serve(
    configuration: str | Path,
    *,
    launcher: Sequence[str] = LAUNCHER,
    drain_seconds: float = DRAIN_SECONDS,
    stop: threading.Event | None = None,
) -> int:
    """Run the service until SIGTERM or SIGINT, which let it finish what is in hand; gives the exit code.

    Each role (receiving, HTTP, gathering, computing, sending) is a process of its own. One that dies is started again
    after a wait that grows to half a minute; what it worked on is taken up by its successor, and counted. Stopping, the
    ways in close first; jobs that wait stay in the spool.

    Args:
        configuration: TOML file, see ``sonodistill.dicom.settings``; read once, at the start.
        launcher: command that runs a role, given as its next words with the configuration and its folder.
        drain_seconds: that a process gets to finish; then it is killed.
        stop: ends the service as SIGTERM does; where it is given, signals are the caller's.

    Errors: ServiceConfigError; SpoolError when another service uses the spool; WeightsError.
    """
    configuration = Path(configuration).resolve()
    settings = read_service(configuration)
    spool = open_spool(settings.service, service_digest(settings.route))
    if stop is None:
        stop = _stopped_by_signals()
    try:
        spool.recover()
        if strays := spool.end_strays([each.name for each in settings.destination]):
            logger.warning("%d deliveries are dead: their destinations are not in the configuration any more", strays)
        spool.audit.record("started")
        processes = [_Process(role) for role in roles_of(settings)]
        command = [*launcher], [str(_kept(configuration, settings.service.spool)), str(configuration.parent)]
        code = 0
        try:
            while not stop.is_set() and code == 0:
                code = _look_after(processes, command)
                stop.wait(_POLL_SECONDS)
        finally:
            _end([each for each in processes if each.role not in _LAST], drain_seconds)
            _end([each for each in processes if each.role in _LAST], drain_seconds)
        spool.audit.record("stopped")
        return code
    finally:
        spool.close()


def _kept(configuration: Path, spool: Path) -> Path:
    """A copy for the processes: one that starts anew goes by what the others do, whatever was changed meanwhile."""
    copy = spool / "run" / configuration.name
    private_folder(copy.parent)
    copy.write_bytes(configuration.read_bytes())
    return copy


def check(configuration: str | Path) -> None:
    """Read everything that a service would need at its start: settings, models, certificates, keys and tokens.

    Errors: as of ``serve``, but for those of the spool.
    """
    settings = read_service(configuration)
    for rule in settings.route:
        load_model(rule, threads=settings.service.threads)
    for server in (settings.scp, settings.http):
        if server is not None and server.tls is not None:
            server_context(server.tls)
    for each in settings.pull:
        Client(each.url, tls=each.tls, token_file=each.token_file)
    for one in settings.destination:
        open_destination(one).close()
    for user in (settings.http, *settings.pull, *settings.destination):
        if user is not None and user.token_file is not None:
            read_token(user.token_file)


def _look_after(processes: Sequence[_Process], command: tuple[list[str], list[str]]) -> int:
    """Start what is due; the exit code of a process that says there is no use in it, else 0."""
    for each in processes:
        code = each.process.poll() if each.process else None
        if each.process is not None and code is None:
            continue
        now = time.monotonic()
        if each.process is not None:
            if code == EXIT_UNUSABLE and each.failures == 0:
                logger.error("%s cannot work; the service ends", each.role)
                return EXIT_UNUSABLE
            each.failures = 1 if now - each.started > _STEADY_SECONDS else each.failures + 1
            wait = 0.0 if each.failures == 1 else min(2.0 ** (each.failures - 2), _LONGEST_WAIT)
            logger.error("%s ended with code %s; it is started again in %.0f s", each.role, code, wait)
            each.process, each.due = None, now + wait
        if now >= each.due:
            launcher, configuration = command
            each.process = subprocess.Popen([*launcher, each.role, *configuration], stdin=subprocess.DEVNULL)
            each.started = now
    return 0


def _end(processes: Sequence[_Process], seconds: float) -> None:
    running = [each.process for each in processes if each.process is not None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    until = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.error(
                "process %d did not end in %.0f s and is killed; its work is taken up later", process.pid, seconds
            )
            process.kill()
            process.wait()


def _stopped_by_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
