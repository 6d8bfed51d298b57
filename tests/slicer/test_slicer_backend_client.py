"""Requests to servers that misbehave: what is accepted as an answer, what ends waiting, where a token is sent."""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

from server_case import pump
from UltrasoundSegmentLib.backends.address import AddressError, checked_url
from UltrasoundSegmentLib.backends.client import Client, Timeouts
from UltrasoundSegmentLib.backends.connection import Connection
from UltrasoundSegmentLib.backends.model import BackendError, Cancel, ServerLostError
from UltrasoundSegmentLib.backends.refusal import RefusedError
from UltrasoundSegmentLib.backends.server import is_ours
from UltrasoundSegmentLib.errors import Cancelled
from UltrasoundSegmentLib.jobs import Jobs

QUICK = Timeouts(connect=2, read=0.3, whole=5)
Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A server that answers as it is told. Attributes: url; answer; seen, (method, path, headers) of each request."""

    def __init__(self, server: ThreadingHTTPServer, scheme: str) -> None:
        self.port = server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.answer: Answer = said(200, b"{}")
        self.seen: list[tuple[str, str, dict[str, str]]] = []


def said(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


def serve(context: ssl.SSLContext | None = None) -> Iterator[Site]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            site.seen.append((self.command, self.path, dict(self.headers)))
            site.answer(self)

        do_GET = do_POST = do_PUT = do_DELETE = _any

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site = Site(server, "http" if context is None else "https")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    yield from serve()


def get(client: Client, path: str = "/info/", **more: Any) -> Any:
    return client.request("GET", path, Cancel(), **more)


# Addresses and tokens


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        (" http://localhost:8000/ ", "http://localhost:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://us.example.org/label/", "https://us.example.org/label"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_is_taken_as_it_is_typed(typed: str, url: str) -> None:
    assert checked_url(typed) == url


@pytest.mark.parametrize(
    "typed",
    ["", "ftp://x", "file:///etc/passwd", "http://", "http://a b", "http://x:99999", "http://x/?a=1", "http://u:p@x"],
)
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(AddressError):
        checked_url(typed)


def test_a_token_goes_over_https_or_to_this_machine_only() -> None:
    for url in ("https://us.example.org", "http://127.0.0.1:8000", "http://localhost", "http://[::1]:8000"):
        Client(url, token="secret")
    with pytest.raises(AddressError, match="https"):
        Client("http://us.example.org", token="secret")
    with pytest.raises(AddressError, match="https"):
        Client("http://127.0.0.1.example.org", token="secret")
    with pytest.raises(AddressError, match="copy it again"):
        Client("http://localhost", token="two words")


def test_the_token_is_sent_and_never_shown(site: Site) -> None:
    client = Client(site.url, token="secret")
    get(client)
    assert site.seen[0][2]["Authorization"] == "Bearer secret" and "secret" not in repr(client)


def test_nothing_is_taken_from_the_environment(site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    get(Client(site.url))
    assert "Authorization" not in site.seen[0][2]


def test_a_redirect_is_told_and_not_followed(site: Site) -> None:
    site.answer = said(307, Location="http://elsewhere.example.org/")
    with pytest.raises(RefusedError, match="elsewhere.example.org"):
        get(Client(site.url, token="secret"))
    assert len(site.seen) == 1


def test_a_certificate_that_is_not_trusted_ends_it_and_one_that_is_named_is_trusted(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *made, *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for site in serve(context):
        with pytest.raises(AddressError, match="not trusted"):
            get(Client(site.url, token="secret"))
        assert site.seen == []
        assert get(Client(site.url, token="secret", ca_file=str(certificate))).content == b"{}"


# Answers


def test_errors_are_told_as_the_server_says_them(site: Site) -> None:
    site.answer = said(
        409, json.dumps({"error": "Conflict", "detail": "it runs\n\x07already.", "remedy": "wait"}).encode()
    )
    with pytest.raises(RefusedError, match=r"refused: it runs  already \(wait\)\.") as caught:
        get(Client(site.url))
    assert (caught.value.status, caught.value.error) == (409, "Conflict")
    for status, body in ((500, b"<html>"), (404, b"[1]"), (422, b'{"detail": [{"loc": 1}]}')):
        site.answer = said(status, body)
        with pytest.raises(RefusedError, match=f"error {status}"):
            get(Client(site.url))
    site.answer = said(401)
    with pytest.raises(RefusedError, match="token"):
        get(Client(site.url))


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not announced"])
def test_an_answer_that_is_too_large_is_not_read(site: Site, announced: bool) -> None:
    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header(*(("Content-Length", str(1 << 40)) if announced else ("Connection", "close")))
        request.end_headers()
        for _ in range(1 << 16):
            request.wfile.write(b"x" * (1 << 16))

    site.answer = endless
    with pytest.raises(BackendError, match="not accepted|than are accepted"):
        get(Client(site.url), most=1 << 20)


def test_a_bomb_of_zeros_is_not_unpacked(site: Site) -> None:
    site.answer = said(200, gzip.compress(b"0" * (1 << 24)), Content_Encoding="gzip")
    with pytest.raises(BackendError, match="not accepted"):
        get(Client(site.url), most=1 << 20)


def test_what_is_no_json_is_no_server_of_ours(site: Site) -> None:
    site.answer = said(200, b"<html>hello</html>")
    with pytest.raises(BackendError, match="no JSON"):
        Client(site.url).json("GET", "/info/", Cancel())


def test_a_stock_server_is_known_by_what_it_lists(site: Site) -> None:
    site.answer = said(200, json.dumps({"paths": {"/info/": {}, "/infer/{model}": {}}, "name": "Radiology"}).encode())
    assert not is_ours(Client(site.url), Cancel())
    site.answer = said(200, json.dumps({"paths": {"/sonodistill/click/{id}": {}}}).encode())
    assert is_ours(Client(site.url), Cancel())


# Waiting


def test_a_cancel_ends_the_wait_and_the_next_request_works(site: Site) -> None:
    held = threading.Event()
    site.answer = lambda request: (held.wait(10), said(200, b"{}")(request))[1]
    client, cancel = Client(site.url), Cancel()
    threading.Timer(0.1, cancel.cancel).start()
    with pytest.raises(Cancelled):
        client.request("GET", "/info/", cancel)
    assert not client.lost
    site.answer = said(200, b"[1]")
    assert get(client).json() == [1]
    held.set()


def test_a_server_that_says_nothing_or_too_slowly_is_lost(site: Site) -> None:
    held = threading.Event()
    site.answer = lambda request: held.wait(10)
    with pytest.raises(ServerLostError):
        get(Client(site.url, timeouts=QUICK))

    def drip(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        while not held.wait(0.05):
            request.wfile.write(b"x")
            request.wfile.flush()

    site.answer = drip
    with pytest.raises(ServerLostError):
        get(Client(site.url, timeouts=Timeouts(connect=2, read=2, whole=0.5)))
    held.set()


def test_a_kept_connection_that_ended_meanwhile_is_no_loss(site: Site) -> None:
    client = Client(site.url)
    get(client)
    calls: list[int] = []

    def once_broken(request: BaseHTTPRequestHandler) -> None:
        calls.append(1)
        if len(calls) == 1:
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
        else:
            said(200, b"{}")(request)

    site.answer = once_broken
    assert get(client).status == 200 and len(calls) == 2


def test_what_may_not_be_done_twice_is_not_asked_again(site: Site) -> None:
    calls: list[int] = []

    def broken(request: BaseHTTPRequestHandler) -> None:
        calls.append(1)
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True

    site.answer = broken
    with pytest.raises(ServerLostError):
        Client(site.url).request("POST", "/train", Cancel())
    assert len(calls) == 1


def test_a_lost_server_is_not_asked_before_its_pause_is_over_and_pauses_grow() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        client = Client(f"http://127.0.0.1:{taken.getsockname()[1]}", timeouts=QUICK)
        with pytest.raises(ServerLostError) as first:
            get(client)
        with pytest.raises(ServerLostError, match="asked again in"):
            get(client)
        pauses = [first.value.retry_s]
        for _ in range(7):
            with pytest.raises(ServerLostError) as lost:
                client.ping(Cancel())
            pauses.append(lost.value.retry_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60] and client.lost


def test_a_loss_is_told_once_and_so_is_the_return(site: Site) -> None:
    jobs, told = Jobs(), []
    client = Client(site.url, timeouts=QUICK)
    connection = Connection(client, jobs)
    connection.lost.connect(lambda text: told.append("lost"))
    connection.back.connect(lambda: told.append("back"))
    site.answer = said(503)
    news = []
    for _ in range(3):
        jobs.submit(lambda cancel, _: client.ping(cancel), failed=lambda error: news.append(connection.note(error)))
    pump(jobs)
    assert told == ["lost"] and news == [False] * 3
    assert connection.note(BackendError("something else"))
    site.answer = said(200, b"{}")
    pump(jobs, lambda: "back" in told)
    assert told == ["lost", "back"] and connection.here
    connection.close()
    jobs.close()
    assert jobs.join(5)


def test_waiting_for_a_server_does_not_hold_up_the_main_thread(site: Site) -> None:
    held = threading.Event()
    site.answer = lambda request: (held.wait(10), said(200, b"{}")(request))[1]
    jobs, done = Jobs(), []
    client = Client(site.url)
    jobs.submit(lambda cancel, _: client.ping(cancel), done.append)
    turns = 0
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        jobs.pump()
        turns += 1
    assert turns > 100 and done == []
    jobs.close()
    assert jobs.join(5)
    held.set()
