"""The HTTP server: what it answers, and that no client gets in without the token, or holds it up."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from certificates import Authority
from dicomweb_client.api import DICOMwebClient
from orthanc import orthanc
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from web_case import as_bytes, left_over, renewed, small_spool, spooled

from sonodistill.dicom.errors import NoRoomError, ServiceConfigError
from sonodistill.dicom.send.stow import StowDestination
from sonodistill.dicom.service.bounded_server import Limits
from sonodistill.dicom.service.http import HttpServer, serve_http
from sonodistill.dicom.service.metrics import Snapshot
from sonodistill.dicom.service.spool import Spool
from sonodistill.dicom.settings import DestinationSettings, Http, Tls

TOKEN = "a-token-of-the-test"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
STOW = 'multipart/related; type="application/dicom"; boundary=edge'
QUICK = Limits(header_seconds=1.0, idle_seconds=0.8, body_seconds=1.5, body_bytes=64 << 20, file_bytes=32 << 20)


class Service:
    """A server over a spool of its own."""

    def __init__(self, folder: Path, server: HttpServer, spool: Spool, checks: dict[str, bool]) -> None:
        self.folder, self.server, self.spool, self.checks = folder, server, spool, checks
        self.url = f"http://127.0.0.1:{server.port}"

    def post(self, body: object, path: str = "/studies", **headers: str) -> requests.Response:
        sent = {"Content-Type": STOW, **AUTHORIZED, **{name.replace("_", "-"): text for name, text in headers.items()}}
        return requests.post(f"{self.url}{path}", data=body, headers=sent, timeout=20)

    def raw(self, data: bytes, seconds: float = 10.0) -> bytes:
        """What comes back for these bytes, until the server closes."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=seconds) as sock:
            with suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
            found = b""
            with suppress(ConnectionResetError):
                while piece := sock.recv(65536):
                    found += piece
        return found


@contextmanager
def running(folder: Path, *, limits: Limits = QUICK, reserve_gb: float = 0.0, **settings: object) -> Iterator[Service]:
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    spool = small_spool(folder, reserve_gb=reserve_gb)
    checks = {"disk": True, "worker": True}
    snapshot = Snapshot(
        jobs={"done": 3, "dead": 1},
        deliveries={"queued": 2},
        received={("stow", "accepted"): 4},
        oldest_seconds=1.5,
        disk_free_bytes=10**12,
        frames=120,
        seconds=2.25,
    )
    chosen = Http(**{"port": 0, "token_file": token, "stow": True, **settings})
    server = HttpServer(chosen, spool, health=lambda: checks, snapshot=lambda: snapshot, limits=limits)
    try:
        yield Service(folder, server, spool, checks)
    finally:
        server.close(timeout=1.0)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as found:
        yield found


def multipart(*files: bytes, kind: bytes = b"application/dicom") -> bytes:
    parts = b"".join(b"--edge\r\nContent-Type: " + kind + b"\r\n\r\n" + file + b"\r\n" for file in files)
    return parts + b"--edge--\r\n"


def uids(answer: dict, tag: str) -> list[str]:
    return [item.get("00081155", {}).get("Value", [""])[0] for item in answer.get(tag, {}).get("Value", [])]


def reasons(answer: dict) -> list[int]:
    return [item["00081197"]["Value"][0] for item in answer["00081198"]["Value"]]


@pytest.fixture(scope="module")
def clip() -> Dataset:
    return renewed("ybr_color")


def test_health_is_open_and_everything_else_needs_the_token(service: Service) -> None:
    assert requests.get(f"{service.url}/health/live", timeout=5).json() == {"live": True}
    for path in ("/health/ready", "/metrics", "/studies", "/nothing", "/"):
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer"},
        ):
            answer = requests.get(f"{service.url}{path}", headers=headers, timeout=5)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert service.post(b"x", Authorization="Bearer wrong").status_code == 401
    assert requests.get(f"{service.url}/nothing", headers=AUTHORIZED, timeout=5).status_code == 404


def test_the_token_is_read_anew_and_without_it_nobody_enters(service: Service) -> None:
    token = service.folder / "token"
    token.write_text("another")
    assert requests.get(f"{service.url}/metrics", headers=AUTHORIZED, timeout=5).status_code == 401
    another = {"Authorization": "Bearer another"}
    assert requests.get(f"{service.url}/metrics", headers=another, timeout=5).status_code == 200
    token.write_text("")
    for headers in (another, {"Authorization": "Bearer "}, {}):
        assert requests.get(f"{service.url}/metrics", headers=headers, timeout=5).status_code == 503


def test_readiness_is_that_of_all_checks(service: Service) -> None:
    answer = requests.get(f"{service.url}/health/ready", headers=AUTHORIZED, timeout=5)
    assert (answer.status_code, answer.json()["ready"]) == (200, True)
    service.checks["worker"] = False
    answer = requests.get(f"{service.url}/health/ready", headers=AUTHORIZED, timeout=5)
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "checks": {"disk": True, "worker": False}})


def test_a_check_that_fails_itself_is_answered(tmp_path: Path) -> None:
    def fail() -> dict[str, bool]:
        raise PermissionError("Secret")

    server = HttpServer(Http(port=0), small_spool(tmp_path), health=fail, snapshot=Snapshot)
    try:
        answer = requests.get(f"http://127.0.0.1:{server.port}/health/ready", timeout=5)
    finally:
        server.close()
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})


def test_metrics_are_what_prometheus_reads(service: Service) -> None:
    answer = requests.get(f"{service.url}/metrics", headers=AUTHORIZED, timeout=5)
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for line in (
        'sonodistill_jobs{state="done"} 3',
        'sonodistill_deliveries{state="queued"} 2',
        'sonodistill_received_total{way="stow",outcome="accepted"} 4',
        "sonodistill_oldest_job_seconds 1.5",
        "sonodistill_disk_free_bytes 1000000000000",
        "sonodistill_frames_total 120",
        "sonodistill_processing_seconds_total 2.25",
    ):
        assert line in lines
    named = {line.split("{")[0].split()[0] for line in lines if not line.startswith("#")}
    assert named <= {line.split()[2] for line in lines if line.startswith("# TYPE")}


def test_answers_tell_nothing_of_the_server(service: Service) -> None:
    answers = [
        service.raw(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n"),
        service.raw(b"BREW /secret-pot HTTP/1.1\r\nHost: a\r\n\r\n"),
        service.raw(b"GET /\xff\x00 HTTP/1.1\r\n\r\n"),
        service.raw(b"GET / HTTP/9.9\r\n\r\n"),
        service.raw(b"secret\r\n\r\n"),
        service.raw(b"GET / HTTP/1.1\r\nno colon secret\r\n\r\n"),
    ]
    for answer in answers:
        head = answer.partition(b"\r\n\r\n")[0].lower()
        assert b"server:" not in head and b"nosniff" in head and b"connection: close" in head, answer
        assert b"python" not in answer.lower() and b"secret" not in answer and b"Traceback" not in answer


def test_dicomweb_client_stores_and_a_second_time_too(service: Service, clip: Dataset) -> None:
    still = renewed("rgb_color")
    client = DICOMwebClient(service.url, headers=dict(AUTHORIZED))
    for _ in range(3):
        answer = client.store_instances([clip, still])
        assert {item.ReferencedSOPInstanceUID for item in answer.ReferencedSOPSequence} == {
            clip.SOPInstanceUID,
            still.SOPInstanceUID,
        }
        assert "FailedSOPSequence" not in answer
    assert len(spooled(service.folder)) == 2
    client.store_instances([renewed("rgb_color", StudyInstanceUID="1.2.3")], study_instance_uid="1.2.3")
    assert len(spooled(service.folder)) == 3


def test_orthanc_sends_to_us(service: Service, tmp_path: Path) -> None:
    servers = {"us": {"Url": f"{service.url}/", "HttpHeaders": AUTHORIZED}}
    path = tmp_path / "clip.dcm"
    path.write_bytes(as_bytes(renewed("color3d_jpeg_baseline")))
    with orthanc(tmp_path, settings={"DicomWeb": {"Enable": True, "Root": "/dicom-web/", "Servers": servers}}) as pacs:
        clip = pacs.upload(path)
        for _ in range(2):
            pacs.post("/dicom-web/servers/us/stow", {"Resources": [clip], "Synchronous": True})
    assert [each.read_bytes() for each in spooled(service.folder)] == [path.read_bytes()]


def test_our_own_sender_is_understood(service: Service, clip: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "clip.dcm"
    file.write_bytes(as_bytes(clip))
    settings = DestinationSettings("us", "stow", url=service.url, token_file=service.folder / "token")
    StowDestination(settings).send([file])
    assert spooled(service.folder)[0].read_bytes() == file.read_bytes()


def test_what_is_refused_is_named_and_the_rest_is_stored(service: Service, clip: Dataset) -> None:
    other = renewed("rgb_color", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    answer = service.post(multipart(as_bytes(clip), as_bytes(other), b"garbage"))
    assert answer.status_code == 202 and answer.headers["Content-Type"] == "application/dicom+json"
    assert uids(answer.json(), "00081199") == [clip.SOPInstanceUID]
    assert uids(answer.json(), "00081198") == [other.SOPInstanceUID, ""]
    assert reasons(answer.json()) == [0x0122, 0xC000]
    answer = service.post(multipart(b"garbage"))
    assert answer.status_code == 409 and "00081199" not in answer.json()


def test_a_study_of_the_url_has_to_be_that_of_the_instances(service: Service, clip: Dataset) -> None:
    answer = service.post(multipart(as_bytes(clip)), f"/studies/{generate_uid()}")
    assert answer.status_code == 409 and uids(answer.json(), "00081198") == [clip.SOPInstanceUID]
    assert service.post(multipart(as_bytes(clip)), f"/studies/{clip.StudyInstanceUID}").status_code == 200


def test_paths_are_no_files(service: Service, clip: Dataset) -> None:
    body = multipart(as_bytes(clip))
    for study in ("..", "../..", "%2e%2e/etc", "1.2/../3", "1.2%2f3", "1.02", "a", "1" * 65, ""):
        answer = service.raw(
            f"POST /studies/{study} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {STOW}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert answer.startswith(b"HTTP/1.1 404"), study
    for path in ("/../../etc/passwd", "//etc/passwd", "/metrics/../metrics", "http://[bad/metrics", "/metrics/"):
        answer = service.raw(f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert answer.split()[1] in (b"404", b"400"), path
    hostile = renewed("rgb_color")
    data = as_bytes(hostile).replace(
        hostile.SOPInstanceUID.encode(), b"../" * (len(hostile.SOPInstanceUID) // 3 + 1), 9
    )
    assert service.post(multipart(data)).status_code == 409
    assert spooled(service.folder) == []


@pytest.mark.parametrize("study", ["", "1.2.3"])
def test_methods_are_few(service: Service, study: str) -> None:
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = requests.request(
            method, f"{service.url}/studies{'/' + study if study else ''}", headers=AUTHORIZED, timeout=5
        )
        assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    answer = requests.head(f"{service.url}/metrics", headers=AUTHORIZED, timeout=5)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET")


def test_bodies_of_other_forms_are_refused_by_name(service: Service, clip: Dataset) -> None:
    data = as_bytes(clip)
    head = f"POST /studies HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {STOW}\r\n"

    def status(headers: str, body: bytes = b"") -> int:
        return int(service.raw(f"{head}{headers}\r\n".encode() + body).split()[1])

    assert status("") == 411
    assert status("Transfer-Encoding: gzip\r\n") == 411
    assert status("Content-Length: -5\r\n") == 400
    assert status("Content-Length: 5, 5\r\n") == 400
    assert status("Content-Length: 5\r\nContent-Length: 6\r\n") == 400
    assert status("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n") == 400
    assert status(f"Content-Length: {10 << 30}\r\n", b"x" * 1000) == 413
    assert status("Transfer-Encoding: chunked\r\n", b"FFFFFFFFFF\r\n") == 413
    assert status("Transfer-Encoding: chunked\r\n", b"-1\r\n") == 400
    assert service.post(data, Content_Type="application/dicom").status_code == 415
    assert (
        service.post(data, Content_Type='multipart/related; type="application/dicom+json"; boundary=x').status_code
        == 415
    )
    assert service.post(multipart(data, kind=b"image/jpeg")).status_code == 415
    for body in (
        b"",
        b"--edge--\r\n",
        multipart(data)[:-20],
        data,
        b"--edge\r\nno colon\r\n\r\n",
        b"--edge\r\n" + b"a" * 99_999,
    ):
        assert service.post(body).status_code == 400, body[:30]
    assert service.post(data, Content_Type='multipart/related; type="application/dicom"').status_code == 400
    assert service.post(b"--edge\r\n\r\n\r\n" * 1500 + b"--edge--").status_code == 400
    assert left_over(service.folder) == []


def test_chunked_bodies_are_read(service: Service, clip: Dataset) -> None:
    data = multipart(as_bytes(clip))
    answer = service.post(data[at : at + 1000] for at in range(0, len(data), 1000))
    assert answer.status_code == 200
    assert spooled(service.folder)[0].read_bytes() == as_bytes(clip)


def test_a_client_that_asks_first_is_answered_before_it_sends(service: Service, clip: Dataset) -> None:
    body = multipart(as_bytes(clip))

    def asked(token: str) -> tuple[bytes, bytes]:
        with socket.create_connection(("127.0.0.1", service.server.port), timeout=5) as sock:
            sock.sendall(
                f"POST /studies HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Type: {STOW}\r\n"
                f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            first = sock.recv(4096)
            if first.startswith(b"HTTP/1.1 100"):
                sock.sendall(body)
                return first, sock.recv(4096)
            return first, b""

    assert asked("wrong")[0].startswith(b"HTTP/1.1 401")
    first, second = asked(TOKEN)
    assert first.startswith(b"HTTP/1.1 100") and second.startswith(b"HTTP/1.1 200")


def test_headers_have_a_size(service: Service) -> None:
    assert service.raw(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n").split()[1] == b"431"
    assert service.raw(b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n").split()[1] == b"431"
    assert service.raw(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 50_000 + b"\r\n").split()[1] == b"431"


def test_a_file_has_a_size(tmp_path: Path, clip: Dataset) -> None:
    data = as_bytes(clip)
    small = Limits(file_bytes=len(data) - 1)
    with running(tmp_path, limits=small) as service:
        answer = service.post(multipart(data, as_bytes(renewed("OBXXXX1A_rle"))))
        assert answer.status_code == 202 and len(reasons(answer.json())) == 1
        assert left_over(tmp_path) == [] and len(spooled(tmp_path)) == 1


def test_without_room_507(tmp_path: Path, clip: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path, reserve_gb=1e9) as service:
        assert service.post(multipart(as_bytes(clip))).status_code == 507
    with running(tmp_path) as service:

        def full(*_: object, **__: object) -> None:
            raise NoRoomError("full")

        monkeypatch.setattr(service.spool, "accept", full)
        answer = service.post(multipart(as_bytes(clip)))
        assert answer.status_code == 507 and reasons(answer.json()) == [0xA700]
        assert left_over(tmp_path) == []


def test_a_failure_inside_is_500_and_says_no_more(
    service: Service, clip: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Secret^Name")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(service.spool, "accept", fail)
    answer = service.post(multipart(as_bytes(clip)))
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error"})
    assert "Secret" not in caplog.text and clip.StudyInstanceUID not in caplog.text


def test_idle_and_dripping_clients_are_ended(service: Service) -> None:
    idle = [socket.create_connection(("127.0.0.1", service.server.port), timeout=10) for _ in range(20)]
    try:
        # All connections are taken: this one waits, and is answered once they are ended.
        assert requests.get(f"{service.url}/health/live", timeout=15).status_code == 200
        assert sum(sock.recv(1000) == b"" for sock in idle[:16]) == 16
    finally:
        for sock in idle:
            sock.close()
    for head in (
        b"GET /health",
        b"POST /studies HTTP/1.1\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
        b"Content-Type: " + STOW.encode() + b"\r\nContent-Length: 5000000\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", service.server.port), timeout=10) as sock:
            sock.sendall(head)
            end = time.monotonic() + 12
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                while time.monotonic() < end:
                    sock.sendall(b"x")
                    time.sleep(0.1)
    assert left_over(service.folder) == []
    assert service.server._server.open_connections() == 0


def test_a_client_that_hangs_up_leaves_nothing(service: Service, clip: Dataset) -> None:
    body = multipart(as_bytes(clip))
    connection = http.client.HTTPConnection("127.0.0.1", service.server.port, timeout=5)
    connection.putrequest("POST", "/studies")
    for name, text in {**AUTHORIZED, "Content-Type": STOW, "Content-Length": str(len(body))}.items():
        connection.putheader(name, text)
    connection.endheaders(body[: len(body) // 2])
    connection.close()
    end = time.monotonic() + 5
    while service.server._server.open_connections() and time.monotonic() < end:
        time.sleep(0.02)
    assert left_over(service.folder) == [] and spooled(service.folder) == []
    assert service.post(body).status_code == 200


def test_thirty_requests_at_once(service: Service) -> None:
    files = [renewed("OBXXXX1A_rle") for _ in range(30)]
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda ds: service.post(multipart(as_bytes(ds))).status_code, files))
    assert answers == [200] * 30
    assert {dcmread(path).SOPInstanceUID for path in spooled(service.folder)} == {ds.SOPInstanceUID for ds in files}


def test_tls_and_a_handshake_that_never_ends(tmp_path: Path, clip: Dataset) -> None:
    authority = Authority(tmp_path, "authority")
    pair, user = authority.issue("server"), authority.issue("client")
    tls = Tls(pair.certificate, pair.key, authority.certificate)
    with running(tmp_path, tls=tls) as service:
        url = f"https://127.0.0.1:{service.server.port}"
        silent = [socket.create_connection(("127.0.0.1", service.server.port), timeout=10) for _ in range(16)]
        file = tmp_path / "clip.dcm"
        file.write_bytes(as_bytes(clip))
        settings = DestinationSettings(
            "us",
            "stow",
            url=url,
            token_file=tmp_path / "token",
            tls=Tls(user.certificate, user.key, authority.certificate),
        )
        StowDestination(settings).send([file])
        for sock in silent:
            sock.close()
        with pytest.raises(requests.exceptions.RequestException):
            requests.get(
                f"{url}/health/live", verify=str(authority.certificate), timeout=5
            )  # no certificate of its own
        with pytest.raises(requests.exceptions.RequestException):
            requests.get(f"http://127.0.0.1:{service.server.port}/health/live", timeout=5)
        context = ssl.create_default_context(cafile=str(authority.certificate))
        context.load_cert_chain(user.certificate, user.key)
        early = http.client.HTTPSConnection("127.0.0.1", service.server.port, context=context, timeout=5)
        early.request("POST", "/studies", body=b"x" * 100_000, headers={"Authorization": "Bearer wrong"})
        assert early.getresponse().status == 401
        early.close()
    assert len(spooled(tmp_path)) == 1


@pytest.mark.parametrize(
    "settings",
    [Http(stow=True), Http(host="0.0.0.0"), Http(host="192.0.2.1", port=0), Http(host="pacs.example", port=0)],
)
def test_an_unsafe_server_does_not_start(tmp_path: Path, settings: Http) -> None:
    with pytest.raises(ServiceConfigError):
        HttpServer(settings, small_spool(tmp_path), health=dict, snapshot=Snapshot)
    token = tmp_path / "token"
    token.write_text("")
    with pytest.raises(ServiceConfigError):
        HttpServer(Http(port=0, token_file=token), small_spool(tmp_path), health=dict, snapshot=Snapshot)


def test_without_a_token_loopback_reads_but_does_not_store(tmp_path: Path) -> None:
    with running(tmp_path, token_file=None, stow=False) as service:
        assert requests.get(f"{service.url}/metrics", timeout=5).status_code == 200
        assert service.post(b"x").status_code == 404
        assert json.loads(requests.get(f"{service.url}/health/ready", timeout=5).text)["ready"]


def test_it_serves_until_it_is_stopped(tmp_path: Path) -> None:
    stop, ports = threading.Event(), []
    arguments = {"health": dict, "snapshot": Snapshot, "ready": ports.append}
    thread = threading.Thread(target=serve_http, args=(Http(port=0), small_spool(tmp_path), stop), kwargs=arguments)
    thread.start()
    end = time.monotonic() + 5
    while not ports and time.monotonic() < end:
        time.sleep(0.01)
    assert requests.get(f"http://127.0.0.1:{ports[0]}/health/live", timeout=5).status_code == 200
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
