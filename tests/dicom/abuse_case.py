"""The service under attack, for the tests of the whole: ways in that carry any bytes, and what became of them."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pynetdicom import AE, _config
from pynetdicom.dsutils import split_dataset
from pynetdicom.presentation import build_context
from service_case import Running

TOKEN = "a-token-of-some-length"
CALLER, CALLED = "TESTER", "SONODISTILL"
_MEGABYTE = 1024


def by_dimse(port: int, files: Sequence[Path]) -> list[int]:
    """Status of each C-STORE; of the file the File Meta Information alone has to be sound."""
    kinds = {(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) for meta, _ in map(split_dataset, files)}
    ae = AE(CALLER)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)
        patch.setattr(_config, "LOG_HANDLER_LEVEL", "none")
        contexts = [build_context(*each) for each in sorted(kinds)]
        association = ae.associate("127.0.0.1", port, contexts=contexts, ae_title=CALLED)
        assert association.is_established
        try:
            return [int(association.send_c_store(file).Status) for file in files]
        finally:
            association.release()


def by_stow(port: int, files: Sequence[Path], *, token: str = TOKEN) -> tuple[int, bytes]:
    """(HTTP status, answer) to all files in one request."""
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    body = b"".join(head + file.read_bytes() + b"\r\n" for file in files) + f"--{boundary}--\r\n".encode()
    content = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return request(port, "/studies", token=token, body=body, **{"Content-Type": content})


def request(
    port: int, path: str, *, token: str = TOKEN, body: bytes | None = None, **headers: str
) -> tuple[int, bytes]:
    """(HTTP status, answer)."""
    headers = {**headers, **({"Authorization": f"Bearer {token}"} if token else {})}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def by_folder(watched: Path, files: Sequence[Path]) -> None:
    """Copy files to a watched folder, as whoever writes slowly does."""
    for file in files:
        shutil.copyfile(file, beside := watched / f"{uuid.uuid4().hex}.tmp")
        beside.rename(beside.with_suffix(".dcm"))


@dataclass
class Account:
    """What a service says of everything that ever came.

    Attributes:
        arrived: number of files by what they were answered: accepted, known, refused, turned away.
        jobs: by state.
        arrivals: number of files that the jobs stand for.
        deliveries: by state.
        dead: why.
    """

    arrived: Counter[str]
    jobs: Counter[str]
    arrivals: int
    deliveries: Counter[str]
    dead: list[str]

    @classmethod
    def of(cls, spool: Path) -> Account:
        arrived: Counter[str] = Counter()
        for log in [spool / "audit.jsonl", *spool.glob("audit.jsonl.[0-9]*")]:
            lines = (json.loads(line) for line in log.read_text().splitlines())
            arrived.update(line["event"] for line in lines if "via" in line)
        connection = sqlite3.connect(f"file:{spool / 'jobs.sqlite'}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT state, arrivals, reason FROM jobs").fetchall()
            deliveries = connection.execute("SELECT state FROM deliveries").fetchall()
        finally:
            connection.close()
        return cls(
            arrived,
            Counter(state for state, _, _ in rows),
            sum(arrivals for _, arrivals, _ in rows),
            Counter(state for (state,) in deliveries),
            [reason for state, _, reason in rows if state == "dead"],
        )

    @property
    def unfinished(self) -> int:
        states = ("received", "running", "queued")
        return sum(self.jobs[state] + self.deliveries[state] for state in states)


def processes(supervisor: int) -> dict[int, str]:
    """Every process below the supervisor: its role, or "decoder"."""
    found, parents = {}, [supervisor]
    while parents:
        parent = parents.pop()
        try:
            tasks = [task.read_text().split() for task in Path(f"/proc/{parent}/task").glob("*/children")]
            for pid in (int(text) for line in tasks for text in line):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                is_role = "sonodistill.dicom.service.roles" in words
                found[pid] = words[words.index("sonodistill.dicom.service.roles") + 1] if is_role else "decoder"
                parents.append(pid)
        except OSError:  # it has ended meanwhile
            continue
    return found


@dataclass
class Memory:
    """Peak of the resident memory of each process of a service, as long as it is watched.

    Attributes:
        peaks: megabytes by role, of its largest process.
        now: megabytes by role at the last look, of all its processes.
    """

    supervisor: int
    peaks: dict[str, float] = field(default_factory=dict)
    now: Counter[str] = field(default_factory=Counter)

    def look(self) -> None:
        now: Counter[str] = Counter()
        for pid, role in processes(self.supervisor).items():
            try:
                words = Path(f"/proc/{pid}/status").read_text().split()
                peak, resident = (int(words[words.index(name) + 1]) / _MEGABYTE for name in ("VmHWM:", "VmRSS:"))
            except (OSError, ValueError):  # it has ended meanwhile
                continue
            self.peaks[role] = max(self.peaks.get(role, 0.0), peak)
            now[role] += resident  # type: ignore[assignment]
        self.now = now

    @contextmanager
    def watched(self, seconds: float = 0.2) -> Iterator[Memory]:
        over = threading.Event()

        def work() -> None:
            while not over.wait(seconds):
                self.look()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            over.set()
            thread.join()


@dataclass
class Attacked:
    """A service, what was sent to it, and what has to hold of it all the time.

    Attributes:
        sent: number of files that were given to a way in.
        caps: megabytes by role.
        roles: its processes, of which none may end.
    """

    running: Running
    watched: Path
    dimse: int
    http: int
    out: Path
    memory: Memory
    caps: Mapping[str, float]
    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    roles: dict[int, str] = field(default_factory=dict)

    def send(self, way: str, files: Sequence[Path]) -> None:
        self.sent += len(files)
        if way == "dimse":
            self.statuses.update(by_dimse(self.dimse, files))
        elif way == "stow":
            status, _ = by_stow(self.http, files)
            self.statuses[status] += 1
        else:
            by_folder(self.watched, files)

    def account(self) -> Account:
        return Account.of(self.running.spool)

    def settle(self, seconds: float = 120) -> Account:
        """Wait until everything has been taken and nothing waits; every file is accounted for then."""

        def settled() -> bool:
            account = self.account()
            return account.arrived.total() >= self.sent and not account.unfinished

        self.running.wait(settled, seconds)
        account = self.account()
        assert account.arrived.total() == self.sent
        assert account.arrivals + account.arrived["turned away"] == self.sent
        ended = ("done", "refused", "dead", "duplicate")
        assert sum(account.jobs[state] for state in ended) == account.jobs.total()
        assert not list((self.running.spool / "incoming").iterdir())
        return account

    def check(self) -> None:
        """It is as it was: the same processes, each within its memory, and a sound clip goes through."""
        self.memory.look()
        over = {role: peak for role, peak in self.memory.peaks.items() if peak > self.caps[role]}
        assert not over, f"{over} MB of {self.caps}"
        roles = {pid: role for pid, role in processes(self.running.process.pid).items() if role != "decoder"}
        assert roles == self.roles, self.running.log.read_text(errors="replace")[-4000:]
        assert request(self.http, "/health/ready")[0] == 200

    def delivers(self, way: str, file: Path, seconds: float = 60) -> None:
        """A sound file, that it has not seen, is answered with a SEG and an SR."""
        before = len(list(self.out.glob("*.dcm")))
        self.send(way, [file])
        self.running.wait(lambda: len(list(self.out.glob("*.dcm"))) == before + 2, seconds)


def wait_until(holds, seconds: float = 30) -> None:  # type: ignore[no-untyped-def]
    """The test fails when it does not hold by then."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, f"not so after {seconds} s"
        time.sleep(0.05)
