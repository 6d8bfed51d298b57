"""Requests to a server: bounded, with timeouts and verified TLS, cancellable, and aware of a server that is lost."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from UltrasoundSegmentLib.backends.address import AddressError, as_name, checked_token, checked_url
from UltrasoundSegmentLib.backends.model import BackendError, Cancel, ServerLostError
from UltrasoundSegmentLib.backends.refusal import RefusedError, clean, refused
from UltrasoundSegmentLib.errors import Cancelled

logger = logging.getLogger(__name__)

SMALL, LARGE = 4 << 20, 768 << 20
_CHUNK = 64 << 10
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_AGAIN = ("GET", "HEAD", "PUT")
_GONE = (502, 503, 504)


@dataclass(frozen=True)
class Timeouts:
    """Seconds: to connect, without a byte of the answer, and for a request as a whole."""

    connect: float = 5.0
    read: float = 60.0
    whole: float = 600.0


@dataclass(frozen=True)
class Answer:
    """Attributes: status; headers, names as the server wrote them, found in any case; content."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def type(self) -> str:
        return self.headers.get("Content-Type", "")

    def json(self) -> Any:
        """Errors: BackendError."""
        try:
            return json.loads(self.content)
        except (ValueError, RecursionError):
            raise BackendError("The server's answer is no JSON: is the address that of a MONAI Label server?") from None


class Client:
    """One server. ``request`` may be called from one thread at a time; nothing is sent before the first call of it.

    No proxies, no ``.netrc``, no redirects: a token goes to the address that was typed, over https or to this machine.

    Args:
        url: https://host[:port][/path], or http://; spaces and a slash at its end do not matter.
        token: sent as bearer token, "" for none.
        annotator: whose labels are sent, in characters that servers take; one that knows its users by tokens goes by
            the token.
        timeouts: see ``Timeouts``.
        ca_file: certificates to trust instead of the system's; "" for those of ``requests``.

    Attributes:
        lost: whether the last request found no server.

    Errors: AddressError.
    """

    def __init__(
        self, url: str, *, token: str = "", annotator: str = "", timeouts: Timeouts | None = None, ca_file: str = ""
    ) -> None:
        self.url = checked_url(url)
        self.annotator, self.timeouts = as_name(annotator), timeouts or Timeouts()
        self.lost = False
        self._token, self._verify = checked_token(token, self.url), ca_file or True
        self._pause, self._not_before = 0.0, 0.0
        self._session: requests.Session | None = None

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def json(self, method: str, path: str, cancel: Cancel, **more: Any) -> Any:
        """The JSON of an answer; see ``request``."""
        return self.request(method, path, cancel, **more).json()

    def request(
        self,
        method: str,
        path: str,
        cancel: Cancel,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        data: bytes | None = None,
        content_type: str = "",
        files: Mapping[str, Any] | None = None,
        most: int = SMALL,
        received: Callable[[int, int], None] | None = None,
    ) -> Answer:
        """Ask, and wait for the whole answer.

        Args:
            path: from the root of the server, with a slash.
            query: after the question mark.
            body: sent as JSON; or ``data``, bytes of ``content_type``; or ``files``, a form as ``requests`` takes it.
            most: bytes of the answer that are accepted.
            received: told (bytes so far, bytes in all or 0) in another thread.

        Errors: Cancelled, ServerLostError, RefusedError, BackendError.
        """
        left = self._not_before - time.monotonic()
        if self.lost and left > 0:
            raise ServerLostError(f"{self.url} does not answer. It is asked again in {left:.0f} s.", left)
        call = _Call(self, method, path, query, body, data, content_type, files, most, received)
        try:
            answer = call.wait(cancel)
        except ServerLostError:
            self._session = None
            self.lost, self._pause = True, min(_LONGEST_PAUSE, self._pause * 2 or _FIRST_PAUSE)
            self._not_before = time.monotonic() + self._pause
            raise ServerLostError(
                f"{self.url} does not answer: is the server started, and the address right?", self._pause
            ) from None
        except Cancelled:
            self._session = None  # the connection is still at work
            raise
        self.lost, self._pause, self._not_before = False, 0.0, 0.0
        return answer

    def ping(self, cancel: Cancel) -> None:
        """Whether the server is there, asked without regard to the pause. Errors: as ``request``."""
        self._not_before = 0.0
        self.request("GET", "/info/", cancel, most=SMALL)

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _opened(self) -> requests.Session:
        if self._session is None:
            session = requests.Session()
            session.trust_env = False
            session.verify = self._verify
            session.headers["User-Agent"] = "SonoDistill-Slicer"
            if self._token:
                session.headers["Authorization"] = f"Bearer {self._token}"
            self._session = session
        return self._session


class _Call:
    """One request in a thread of its own, so that waiting for it can end."""

    def __init__(
        self,
        client: Client,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Any,
        data: bytes | None,
        content_type: str,
        files: Mapping[str, Any] | None,
        most: int,
        received: Callable[[int, int], None] | None,
    ) -> None:
        self._client, self._session = client, client._opened()
        self._method, self._url = method, client.url + path
        self._given: dict[str, Any] = {"params": query, "json": body, "data": data, "files": files}
        if content_type:
            self._given["headers"] = {"Content-Type": content_type}
        self._most, self._received = most, received
        self._over, self._left = threading.Event(), False
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def wait(self, cancel: Cancel) -> Answer:
        cancel.check()
        thread = threading.Thread(target=self._run, name="UltrasoundSegment request", daemon=True)
        thread.start()
        cancel.connect(self._over.set)
        try:
            ended = self._over.wait(self._client.timeouts.whole)
        finally:
            cancel.disconnect(self._over.set)
            self._left = True
        cancel.check()
        if not ended:
            raise ServerLostError("It took too long.")
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise ServerLostError("There was no answer.")
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._asked()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits
            self._error = error
        finally:
            self._over.set()

    def _asked(self) -> Answer:
        times = self._client.timeouts
        for again in (self._method in _AGAIN, False):
            try:
                response = self._session.request(
                    self._method,
                    self._url,
                    timeout=(times.connect, times.read),
                    stream=True,
                    allow_redirects=False,
                    **self._given,
                )
                with response:
                    return self._judged(response, self._read(response))
            except requests.exceptions.SSLError as error:
                raise AddressError(
                    f"{self._client.url} is not who it says it is, or its certificate is not trusted here "
                    f"({type(error).__name__}): name the file of its authority in the settings."
                ) from None
            except (requests.Timeout, requests.exceptions.ProxyError) as error:
                raise ServerLostError(type(error).__name__) from None
            except requests.ConnectionError as error:
                # A connection that was kept may have ended meanwhile.
                if again and not isinstance(error, requests.exceptions.ConnectTimeout):
                    continue
                raise ServerLostError(type(error).__name__) from None
            except requests.RequestException as error:
                raise BackendError(f"The request failed ({type(error).__name__}): look at the address.") from None
        raise ServerLostError("")

    def _read(self, response: requests.Response) -> bytes:
        said = response.headers.get("Content-Length", "")
        whole = int(said) if said.isdigit() else 0
        if whole > self._most:
            raise BackendError(f"The server's answer has {whole >> 20} MiB, more than are accepted.")
        parts, size = [], 0
        for part in response.iter_content(_CHUNK):
            size += len(part)
            if size > self._most:
                raise BackendError(f"The server's answer has more than {self._most >> 20} MiB, which is not accepted.")
            if self._left:
                raise Cancelled
            parts.append(part)
            if self._received is not None:
                self._received(size, whole)
        return b"".join(parts)

    def _judged(self, response: requests.Response, content: bytes) -> Answer:
        status = response.status_code
        if 300 <= status < 400:
            raise RefusedError(
                f"The server sends elsewhere ({clean(response.headers.get('Location', ''))}): type that address.",
                status,
            )
        if status in _GONE:
            raise ServerLostError(f"status {status}")
        if status >= 400:
            raise refused(status, content)
        return Answer(status, response.headers, content)
