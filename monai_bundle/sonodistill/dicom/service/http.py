"""The service's HTTP server: health, metrics and STOW-RS, for few clients, of which none can hold it up."""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

from sonodistill.dicom.config import is_loopback
from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.service import metrics
from sonodistill.dicom.service.bounded_server import BoundedServer, Limits
from sonodistill.dicom.service.http_body import GoneError, HeaderLines, RequestError, body_of
from sonodistill.dicom.service.intake import Intake
from sonodistill.dicom.service.stow_in import store
from sonodistill.dicom.settings import Http
from sonodistill.dicom.source import is_uid
from sonodistill.dicom.tls import server_context
from sonodistill.dicom.web import read_token
from sonodistill.errors import SonoDistillError

_LOG = logging.getLogger(__name__)
_MAX_UNREAD = 4 << 20
_CHUNK = 1 << 18
_LONGEST_WORK = 600.0


class HttpServer:
    """Answers in threads of its own, from the end of the constructor until ``close``.

    Args:
        settings: where to listen, and what to ask for.
        intake: takes what STOW-RS brings.
        health: checks by name, each passed or not; the service is ready when all are.
        snapshot: the numbers of /metrics.
        limits: for clients.

    Attributes:
        port: it listens at, also where the settings said 0.

    Errors: ServiceConfigError (a setting is unsafe, the token cannot be read, the address cannot be listened at).
    """

    def __init__(
        self,
        settings: Http,
        intake: Intake,
        *,
        health: Callable[[], Mapping[str, bool]],
        snapshot: Callable[[], metrics.Snapshot],
        limits: Limits | None = None,
    ) -> None:
        open_to_others = not is_loopback(settings.host) and (settings.token_file is None or settings.tls is None)
        if open_to_others or (settings.stow and settings.token_file is None):
            raise ServiceConfigError("HTTP needs a token for STOW-RS, and a token and TLS to be reached from elsewhere")
        if settings.token_file is not None:
            read_token(settings.token_file)
        try:
            self._server = _Server(settings, intake, health, snapshot, limits or Limits())
        except OSError as error:
            raise ServiceConfigError(f"cannot listen at {settings.host}:{settings.port} ({error.strerror})") from None
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="http", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Take no more connections, give those that are open ``timeout`` seconds, then end them."""
        self._server.stopping = True
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        end = time.monotonic() + timeout
        while self._server.open_connections() and time.monotonic() < end:
            time.sleep(0.02)
        self._server.end_overdue(everything=True)


def serve_http(
    settings: Http,
    intake: Intake,
    stop: threading.Event,
    *,
    health: Callable[[], Mapping[str, bool]],
    snapshot: Callable[[], metrics.Snapshot],
    max_file_bytes: int = 1 << 30,
    ready: Callable[[int], object] | None = None,
) -> None:
    """Run an ``HttpServer`` until ``stop`` is set; ``ready`` is told its port. Errors: ServiceConfigError."""
    limits = Limits(file_bytes=max_file_bytes, body_bytes=4 * max_file_bytes)
    server = HttpServer(settings, intake, health=health, snapshot=snapshot, limits=limits)
    try:
        if ready is not None:
            ready(server.port)
        stop.wait()
    finally:
        server.close()


class _Server(BoundedServer):
    def __init__(
        self,
        settings: Http,
        intake: Intake,
        health: Callable[[], Mapping[str, bool]],
        snapshot: Callable[[], metrics.Snapshot],
        limits: Limits,
    ) -> None:
        self.settings, self.intake, self.health, self.snapshot = settings, intake, health, snapshot
        self.context = None if settings.tls is None else server_context(settings.tls)
        super().__init__((settings.host, settings.port), _Handler, limits)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"
    server: _Server

    def setup(self) -> None:
        idle = self.server.limits.idle_seconds
        self.request.settimeout(idle)
        if self.server.context is not None:
            # In this thread, where only its own client waits for it; the handshake counts against its time.
            self.request = self.server.context.wrap_socket(
                cast(socket.socket, self.request), server_side=True, do_handshake_on_connect=False
            )
            self.server.allow(self.request, self.server.limits.header_seconds)
            self.request.settimeout(idle)
            cast(ssl.SSLSocket, self.request).do_handshake()
        super().setup()

    def handle(self) -> None:
        """One request: connections are few, and kept for nobody."""
        self.close_connection, self._expects, self._unread = True, False, True
        self.command, self.request_version = "", self.default_request_version
        try:
            self._request()
        except RequestError as error:
            self._answer(error.status, {"error": error.reason})
        except GoneError as error:
            _LOG.info("a client went away (%s)", error)
            return
        except (ConnectionError, TimeoutError, ssl.SSLError) as error:
            _LOG.debug("a connection ended early (%s)", type(error).__name__)
            return
        except Exception as error:  # noqa: BLE001 - the client learns nothing, and the server goes on
            _LOG.error("a request failed (%s)", type(error).__name__)
            self._answer(500, {"error": "internal error"})
        self._linger()

    def _request(self) -> None:
        file = self.rfile
        self.rfile = HeaderLines(cast(BinaryIO, file), self.server.limits.header_bytes)  # type: ignore[assignment]
        try:
            self.raw_requestline = self.rfile.readline()
            if not self.raw_requestline or not self.parse_request():
                return
        finally:
            self.rfile = file
        self.close_connection = True
        self._unread = self.command not in ("GET", "HEAD")
        self._extend(self.server.limits.body_seconds)
        try:
            path = urlsplit(self.path).path
        except ValueError:
            raise RequestError(400, "the path is malformed") from None
        if path != "/health/live":
            self._authorize()
        self._route(path)

    def _authorize(self) -> None:
        file = self.server.settings.token_file
        if file is None:
            return
        try:
            expected = read_token(file)
        except SonoDistillError as error:
            _LOG.error("%s", error.message)
            raise RequestError(503, "tokens cannot be checked") from None
        scheme, _, given = self.headers.get("Authorization", "").strip().partition(" ")
        matches = hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected.encode("ascii"))
        if scheme.lower() != "bearer" or not matches:
            raise RequestError(401, "a token is needed")

    def _route(self, path: str) -> None:
        gets = {"/health/live": self._live, "/health/ready": self._ready, "/metrics": self._metrics}
        first, _, study = path.removeprefix("/").partition("/")
        stores = self.server.settings.stow and first == "studies" and (path == "/studies" or is_uid(study))
        if path not in gets and not stores:
            raise RequestError(404, "there is nothing here")
        allowed = "POST" if stores else "GET"
        if self.command != allowed:
            self._answer(405, {"error": f"only {allowed}"}, Allow=allowed)
        elif stores:
            self._store(study or None)
        else:
            gets[path]()

    def _live(self) -> None:
        self._answer(200, {"live": True})

    def _ready(self) -> None:
        checks = {name: bool(passed) for name, passed in self.server.health().items()}
        ready = all(checks.values())
        self._answer(200 if ready else 503, {"ready": ready, "checks": checks})

    def _metrics(self) -> None:
        self._send(200, metrics.render(self.server.snapshot()).encode(), metrics.CONTENT_TYPE)

    def _store(self, study: str | None) -> None:
        limits = self.server.limits
        body = body_of(self.headers, cast(BinaryIO, self.rfile), limits.body_bytes)
        arrived, waited = 0, 0.0

        def read(size: int) -> bytes:
            # What counts is how long the client keeps us waiting, not how long it takes to write to the disk.
            nonlocal arrived, waited
            begun = time.monotonic()
            self._extend(limits.body_seconds + arrived / limits.bytes_per_second - waited)
            data = body.read(size)
            waited += time.monotonic() - begun
            arrived += len(data)
            self._extend(_LONGEST_WORK)
            return data

        if not self.server.intake.has_room():
            raise RequestError(507, "there is no room")
        if self._expects:
            self.send_response_only(HTTPStatus.CONTINUE)
            self.end_headers()
        peer = str(self.client_address[0])
        content_type = self.headers.get("Content-Type")
        status, found = store(read, content_type, study, self.server.intake, peer, max_bytes=limits.file_bytes)
        self._unread = status >= 300 or not _at_end(read)
        self._send(status, json.dumps(found).encode(), "application/dicom+json")

    def _extend(self, seconds: float) -> None:
        self.server.allow(self.connection, seconds)

    def _answer(self, status: int, found: dict[str, Any], **headers: str) -> None:
        if status == 401:
            headers["WWW-Authenticate"] = 'Bearer realm="sonodistill"'
        self._send(status, json.dumps(found).encode(), "application/json", **headers)

    def _send(self, status: int, data: bytes, content_type: str, **headers: str) -> None:
        self._extend(self.server.limits.body_seconds)
        self.send_response_only(status)
        fixed = {
            "Content-Type": content_type,
            "Content-Length": str(len(data)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        _LOG.debug("answered %d", status)

    def _linger(self) -> None:
        """Read on for a while after an early answer: a connection closed with unread bytes takes the answer along."""
        if not self._unread:
            return
        with contextlib.suppress(OSError, ValueError):
            self._extend(2.0)
            socket.socket.shutdown(self.connection, socket.SHUT_WR)
            left = _MAX_UNREAD
            while left > 0 and (data := self.rfile.read1(_CHUNK)):  # type: ignore[attr-defined]
                left -= len(data)

    def handle_expect_100(self) -> bool:
        """The body is asked for once everything else is in order."""
        self._expects = True
        return True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What ``parse_request`` refuses, without its text, which quotes the request."""
        self._answer(int(code), {"error": HTTPStatus(code).phrase})

    def log_message(self, format: str, *args: Any) -> None:
        """Requests name studies: they are not logged."""


def _at_end(read: Callable[[int], bytes]) -> bool:
    try:
        return not read(1)
    except (GoneError, RequestError):
        return True
