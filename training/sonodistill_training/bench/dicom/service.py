"""The service as a process of its own, and those who send to it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from sonodistill.dicom.service.beat import signs
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.errors import SonoDistillError
from sonodistill_training.bench.dicom.setup import Setup

CALLER, CALLED = "BENCH", "SONODISTILL"
_SECONDS = 600.0
_END_SECONDS = 60.0


class ServiceError(SonoDistillError):
    """The service that is measured did not start, or did not do what it was measured by."""


@dataclass(slots=True)
class Running:
    """A service, or one of its roles, that runs.

    Attributes:
        process: its first process.
        folder: with its configuration, and ``spool`` and ``out``.
        port: that it receives at.
        peak_rss_mb: the most that ``rss_mb`` has said.
    """

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    peak_rss_mb: float = 0.0

    @property
    def spool(self) -> Path:
        return self.folder / "spool"

    def rss_mb(self) -> float:
        """Resident memory of its processes, 10^6 bytes."""
        total = 0
        root = psutil.Process(self.process.pid)
        for process in (root, *root.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it has just ended
                continue
        self.peak_rss_mb = max(self.peak_rss_mb, total / 1e6)
        return total / 1e6

    def wait(self, condition: Callable[[], bool], seconds: float = _SECONDS, pause: float = 0.005) -> None:
        """Until it holds.

        Errors: ServiceError when it does not, or the service has ended.
        """
        until = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise ServiceError(f"the service ended with code {self.process.returncode}")
            if time.monotonic() > until:
                raise ServiceError(f"the service was not ready within {seconds:g} s")
            time.sleep(pause)

    def states(self) -> dict[str, int]:
        """How many jobs are in each state."""
        jobs = Jobs(self.spool / "jobs.sqlite")
        try:
            return dict(jobs.counts().jobs)
        finally:
            jobs.close()

    def delivered(self) -> int:
        """How many deliveries are done."""
        jobs = Jobs(self.spool / "jobs.sqlite")
        try:
            return jobs.counts().deliveries.get("done", 0)
        finally:
            jobs.close()


def configure(folder: Path, model: Path, *, setup: Setup, associations: int = 4) -> tuple[Path, int]:
    """(a configuration in an empty folder, the port): C-STORE in, a folder out."""
    (folder / "out").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    path = folder / "service.toml"
    path.write_text(
        f'service = {{spool = "spool", reserve_gb = 0.0, max_used_percent = 100.0, threads = {setup.threads}}}\n'
        f'scp = {{allow = ["{CALLER}"], port = {port}, max_associations = {associations + 4}}}\n'
        '[[destination]]\nname = "out"\nkind = "folder"\nfolder = "out"\n'
        f'[[route]]\nname = "bench"\nmodel = "{model}"\nruntime = "{setup.runtime}"\n'
        f'precision = "{setup.precision}"\neverything = true\n',
        encoding="utf-8",
    )
    return path, port


@contextmanager
def running(configuration: Path, port: int, *, role: str = "") -> Iterator[Running]:
    """The whole service, or one role of it, from when all of it is at work until the end of the block."""
    whole = ["-m", "sonodistill", "dicom", "serve", "--config"]
    command = ["-m", "sonodistill.dicom.service.roles", role] if role else whole
    wanted = {role} if role else {"receive", "compute", "deliver"}
    process = subprocess.Popen(
        [sys.executable, *command, str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    service = Running(process, configuration.parent, port)
    try:
        service.wait(lambda: {sign.role for sign in signs(service.spool) if sign.ready} >= wanted, pause=0.05)
        yield service
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def send(
    port: int, shares: Sequence[Sequence[Path]], meanwhile: Callable[[], object] = lambda: None
) -> tuple[str, float]:
    """(program that sent, seconds): C-STORE of each share of files over an association of its own, all at once.

    Errors: ServiceError when one of the senders fails.
    """
    program, tool = shutil.which("dcmsend"), "dcmsend"
    if program:
        start = [program, "-aet", CALLER, "-aec", CALLED, "127.0.0.1", str(port)]
    else:
        start, tool = [sys.executable, "-m", "sonodistill_training.bench.dicom.sender", str(port)], "pynetdicom"
    processes = []
    began = time.perf_counter()
    try:
        for share in shares:
            processes.append(subprocess.Popen([*start, *map(str, share)], stdin=subprocess.DEVNULL))
        while any(process.poll() is None for process in processes):
            meanwhile()
            time.sleep(0.01)
            if time.perf_counter() - began > _SECONDS:
                raise ServiceError("sending took too long")
        seconds = time.perf_counter() - began
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(process.returncode for process in processes):
        raise ServiceError(f"{tool} failed with {[process.returncode for process in processes]}")
    return tool, seconds
