"""The HTTP client of DICOMweb: bounded in bytes and time, never redirected, and stopped from outside."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urljoin, urlsplit

from sonodistill.dicom.config import is_loopback
from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.settings import Tls
from sonodistill.dicom.tls import client_context
from sonodistill.errors import SonoDistillError

_MAX_TOKEN = 1 << 14
_EPILOGUE = 1 << 16
_CHUNK = 1 << 18
_SAFE = "/%:@!$&'()*+,;=~?-._"


class WebError(SonoDistillError):
    """The other side gave no answer, or one that breaks HTTP or our limits; it may do better another time."""


class Client:
    """Requests to one DICOMweb service, one after another, over a connection that is kept where possible.

    Certificates are always verified. Redirects are answers like others. Neither proxies nor credentials are taken from
    the environment. The token file is read at each request, so that the token can be changed.

    Args:
        url: of the service, http or https.
        tls: our certificate, and the authority that signed the server's; None takes the system's authorities.
        token_file: file with a bearer token or, for a user, the password.
        user: for HTTP Basic authentication in place of a bearer token.
        timeout: seconds without a sign of life.
        limit_seconds: for a whole request, from connecting to the last byte of the answer.

    Errors: ServiceConfigError when the URL cannot be used, or a token would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        *,
        tls: Tls | None = None,
        token_file: Path | None = None,
        user: str = "",
        timeout: float = 30.0,
        limit_seconds: float = 600.0,
    ) -> None:
        parts = _split(url)
        self.host, self._secure = parts.hostname or "", parts.scheme == "https"
        self.url = url.rstrip("/")
        self._origin = _origin(parts)
        self._base = parts.path.rstrip("/")
        self._token_file, self._user = token_file, user
        self._timeout, self._limit = timeout, limit_seconds
        if token_file is not None and not self._secure and not is_loopback(self.host):
            raise ServiceConfigError(f"a token for {self.host} is sent over https only")
        self._context = client_context(tls) if self._secure else None
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._aborted = False

    def resolve(self, uri: str) -> str | None:
        """What ``get`` takes for a URI the service gave, absolute or relative; None when it is another server's."""
        try:
            parts = urlsplit(urljoin(f"{self.url}/", uri))
            if _origin(parts) != self._origin or parts.username is not None:
                return None
        except ValueError:
            return None
        query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
        return self._origin + quote(parts.path, safe=_SAFE) + query

    def get(self, path: str, *, accept: str, query: Mapping[str, str | int] | None = None) -> Response:
        """GET ``path``, which starts with "/" at the service, or is what ``resolve`` gave. Errors: WebError."""
        target = f"{self._base}{path}" if path.startswith("/") else path.removeprefix(self._origin)
        return self._request("GET", f"{target}?{urlencode(query)}" if query else target, {"Accept": accept}, None)

    def post(self, path: str, body: Iterable[bytes], *, length: int, content_type: str, accept: str) -> Response:
        """POST ``length`` bytes of ``body`` to ``path``, relative to the service. Errors: WebError."""
        self.close()
        headers = {"Accept": accept, "Content-Type": content_type, "Content-Length": str(length)}
        return self._request("POST", f"{self._base}{path}", headers, body)

    def abort(self) -> None:
        """End the request that another thread is in, and refuse every later one."""
        self._aborted = True
        _shut(self._socket)

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            connection.close()

    def _request(self, method: str, target: str, headers: dict[str, str], body: Iterable[bytes] | None) -> Response:
        headers = {**headers, **self._authorization(), "Accept-Encoding": "identity", "User-Agent": "SonoDistill"}
        reused = self._connection is not None
        try:
            return self._exchange(method, target, headers, body)
        except WebError:
            self.close()
            # A kept connection may have been closed by the other side in the meantime.
            if not reused or body is not None or self._aborted:
                raise
            return self._exchange(method, target, headers, body)

    def _exchange(self, method: str, target: str, headers: dict[str, str], body: Iterable[bytes] | None) -> Response:
        timer = threading.Timer(self._limit, lambda: _shut(self._socket))
        timer.daemon = True
        timer.start()
        try:
            connection = self._connection or self._connected()
            try:
                connection.request(method, target, body=body, headers=headers)
            except (BrokenPipeError, ConnectionResetError):
                # Who answers before the end of a body (401, 413) closes its side: the answer is what counts.
                if body is None:
                    raise
            return Response(self, connection.getresponse(), timer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            timer.cancel()
            self.close()
            raise WebError(f"no answer from {self.host} ({_kind(error)})") from None
        except BaseException:
            timer.cancel()
            self.close()
            raise

    def _connected(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._origin)
        port = parts.port or (443 if self._secure else 80)
        last: OSError = ConnectionError()
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM):
            if self._aborted:
                break
            plain = self._socket = socket.socket(family, kind, protocol)
            plain.settimeout(self._timeout)
            try:
                plain.connect(address)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = self._wrapped(plain, port)
            except OSError as error:
                last = error
                plain.close()
                continue
            self._connection = connection
            return connection
        raise last

    def _wrapped(self, plain: socket.socket, port: int) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection
        if self._context is None:
            connection = http.client.HTTPConnection(self.host, port, timeout=self._timeout)
            connection.sock = plain
            return connection
        connection = http.client.HTTPSConnection(self.host, port, timeout=self._timeout, context=self._context)
        secured = self._context.wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self._socket = connection.sock = secured
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return connection

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        secret = read_token(self._token_file)
        if self._user:
            both = base64.b64encode(f"{self._user}:{secret}".encode()).decode("ascii")
            return {"Authorization": f"Basic {both}"}
        return {"Authorization": f"Bearer {secret}"}


class Response:
    """An answer, whose body is read in pieces; close it, or use it as a context.

    Attributes:
        status: HTTP status.
        headers: of the answer.
        length: of the body in bytes, as far as it is stated.
    """

    def __init__(self, client: Client, raw: http.client.HTTPResponse, timer: threading.Timer) -> None:
        self._client, self._raw, self._timer = client, raw, timer
        self.status, self.headers, self.length = raw.status, raw.headers, raw.length or 0
        if raw.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            self.close()
            raise WebError(f"{client.host} compresses its answer, which it was asked not to")

    def read(self, size: int = _CHUNK) -> bytes:
        """The next bytes, at most ``size``; none at the end of a body that is complete. Errors: WebError."""
        try:
            data = self._raw.read1(size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise WebError(f"the answer of {self._client.host} broke off ({_kind(error)})") from None
        if self._client._aborted:
            raise WebError("stopped")
        # http.client calls the end of a connection the end of the body, however much of it was promised.
        if not data and self._raw.length:
            raise WebError(f"the answer of {self._client.host} is shorter than it said")
        return data

    def body(self, limit: int) -> bytes:
        """The whole body. Errors: WebError, when it is larger than ``limit`` bytes, or is cut short."""
        if (self._raw.length or 0) > limit:
            raise WebError(f"the answer of {self._client.host} is larger than {limit} bytes")
        held = bytearray()
        while data := self.read():
            held += data
            if len(held) > limit:
                raise WebError(f"the answer of {self._client.host} is larger than {limit} bytes")
        return bytes(held)

    def json(self, limit: int) -> Any:
        """The body as JSON. Errors: WebError."""
        try:
            return json.loads(self.body(limit) or b"null")
        except (ValueError, RecursionError):
            raise WebError(f"the answer of {self._client.host} is no JSON") from None

    def __enter__(self) -> Response:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(whole=kind is None)

    def close(self, *, whole: bool = False) -> None:
        """End it; the connection is kept if ``whole``, and little of the body is left."""
        try:
            if whole and (self._raw.length or 0) <= _EPILOGUE:
                left = _EPILOGUE
                while left > 0 and (data := self.read(left)):
                    left -= len(data)
        except WebError:
            whole = False
        self._timer.cancel()
        kept = whole and self._raw.isclosed() and not self._raw.will_close
        self._raw.close()
        if not kept:
            self._client.close()


def read_token(path: Path) -> str:
    """The bearer token in a file. Errors: ServiceConfigError when it holds none; the message does not repeat it."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TOKEN + 1).strip()
    except OSError as error:
        raise ServiceConfigError(f"the token cannot be read ({type(error).__name__})", path=path) from None
    if not 0 < len(text) <= _MAX_TOKEN or any(not 0x21 <= byte <= 0x7E for byte in text):
        raise ServiceConfigError("the file has to hold a token: one line of printable characters", path=path)
    return text.decode("ascii")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment:
        raise ServiceConfigError("a DICOMweb service is given as http(s)://host[:port]/path")
    if parts.username is not None or parts.password is not None:
        raise ServiceConfigError("no credentials in a URL: put a token into a file and name it as token_file")
    return parts


def _origin(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _shut(sock: socket.socket | None) -> None:
    if sock is not None:
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, after which the thread that reads would be handed what is still encrypted.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _kind(error: BaseException) -> str:
    # Messages of OSError name hosts and ports, those of http.client quote what the server sent.
    return type(error).__name__
