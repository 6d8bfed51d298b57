"""A real Orthanc on loopback for one test: a PACS to send to, to fetch from, and to be sent to by."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

AE_TITLE = "ORTHANC"
_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
_START_SECONDS = 40.0


@dataclass(frozen=True)
class Orthanc:
    """A server that runs.

    Attributes:
        url: of its REST API, without a slash at the end; DICOMweb is at ``web``.
        http_port, dicom_port: on 127.0.0.1.
        auth: (user, password).
        ae_title: which it insists on being called by.
        log: its output.
    """

    url: str
    http_port: int
    dicom_port: int
    auth: tuple[str, str]
    ae_title: str
    log: Path

    @property
    def web(self) -> str:
        return f"{self.url}/dicom-web"

    def call(self, method: str, path: str, body: bytes | Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """The answer to a request: parsed where it is JSON, bytes otherwise; HTTPError where it is an error."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, method=method, headers=dict(headers or {}))
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(self.auth).encode()).decode())
        with urllib.request.urlopen(request, timeout=30) as answer:
            read = answer.read()
            return json.loads(read) if "json" in answer.headers.get("Content-Type", "") else read

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: bytes | Any = None) -> Any:
        return self.call("POST", path, b"" if body is None else body)

    def instances(self) -> list[str]:
        """Orthanc's ids of the instances it holds."""
        return self.get("/instances")

    def sop_uids(self) -> set[str]:
        """SOP Instance UIDs of the instances it holds."""
        return {self.get(f"/instances/{each}")["MainDicomTags"]["SOPInstanceUID"] for each in self.instances()}

    def file(self, instance: str) -> bytes:
        """An instance as a DICOM file, by Orthanc's id."""
        return self.get(f"/instances/{instance}/file")

    def upload(self, path: Path) -> str:
        """Store a DICOM file; returns Orthanc's id of the instance."""
        return self.post("/instances", Path(path).read_bytes())["ID"]

    def store_to(self, modality: str, instances: Sequence[str]) -> Any:
        """Have it send instances (Orthanc's ids) to a modality by C-STORE, and wait until that is done."""
        return self.post(f"/modalities/{modality}/store", {"Resources": list(instances), "Synchronous": True})

    def delete_all(self) -> None:
        for patient in self.get("/patients"):
            self.call("DELETE", f"/patients/{patient}")


def program() -> str | None:
    """Path of Orthanc's program; None where it is not installed."""
    return shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@contextmanager
def orthanc(
    tmp_path: Path,
    *,
    modalities: Mapping[str, tuple[str, int]] | None = None,
    plugins: bool = True,
    lua: str | None = None,
    dicom_port: int | None = None,
    http_port: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Orthanc]:
    """Start Orthanc, wait until it answers, and end it with the block; the test is skipped where it is not installed.

    Args:
        tmp_path: its folder; each start within it is a new, empty server.
        modalities: {name: (AE title, port on 127.0.0.1)} that may send to it, and that it can send to.
        plugins: whether DICOMweb is served.
        lua: text of a Lua script, such as one with OnStableSeries (a series is stable after 2 s).
        dicom_port, http_port: to listen at; free ones by default.
        settings: more of its configuration, or other values.
    """
    executable = program()
    if executable is None:
        pytest.skip("Orthanc is not installed (apt-get install orthanc orthanc-dicomweb)")
    if plugins and not _WEB.exists():
        pytest.skip("Orthanc's DICOMweb is not installed (apt-get install orthanc-dicomweb)")
    number = sum(1 for _ in tmp_path.glob("orthanc-*"))
    folder = tmp_path / f"orthanc-{number}"
    folder.mkdir(parents=True)
    if lua is not None:
        (folder / "script.lua").write_text(lua)
    free = free_ports(2)
    http_port, dicom_port = http_port or free[0], dicom_port or free[1]
    auth = ("tester", "secret")
    configuration = {
        "Name": AE_TITLE,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "DicomPort": dicom_port,
        "DicomAet": AE_TITLE,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": dict([auth]),
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowEcho": False,
        "DicomCheckModalityHost": True,
        "DicomModalities": {name: [aet, "127.0.0.1", port] for name, (aet, port) in (modalities or {}).items()},
        "OverwriteInstances": False,
        "StableAge": 2,
        "Plugins": [str(_WEB)] if plugins else [],
        "LuaScripts": [str(folder / "script.lua")] if lua is not None else [],
        **(settings or {}),
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    log = folder / "output.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [executable, str(folder / "orthanc.json")], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        server = Orthanc(f"http://127.0.0.1:{http_port}", http_port, dicom_port, auth, AE_TITLE, log)
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def _wait(server: Orthanc, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"Orthanc ended with {process.returncode}: {server.log.read_text(errors='replace')[-2000:]}")
        try:
            server.get("/system")
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    pytest.fail(f"Orthanc did not answer: {server.log.read_text(errors='replace')[-2000:]}")
