"""What stands before every request: who may connect, as which site, and how much they may send."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from lib.server.attempts import Failures, credentials
from lib.server.errors import Refused
from lib.server.limits import LIMITS, Limits
from lib.server.streams import Answering, Body, too_large
from sonodistill.annotate.server.tokens import Tokens
from sonodistill.dicom.config_checks import is_loopback

logger = logging.getLogger(__name__)

ANNOTATOR = "sonodistill.annotator"
"""Key of the scope of a request: who it is by their token."""

_OPEN = ("/auth", "/auth/", "/auth/token")  # where stock clients ask whether, and how, to sign in


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may use the server.

    Attributes:
        tokens: of annotators; None lets everybody on this machine annotate, and nobody else.
        names: of this server, as ``Host`` headers name it, beside those of the loopback interface and the address that
            a client connected to.
        limits: of requests.
    """

    tokens: Tokens | None = None
    names: frozenset[str] = frozenset()
    limits: Limits = LIMITS


class Guard:
    """ASGI middleware that refuses what ``policy`` does not allow, and lets nothing of the inside out.

    - A client of another machine needs a token, and TLS.
    - ``Host`` has to be a name of this server, so that no page reaches it under a name of its own (DNS rebinding).
    - A page of another site is refused, also when it could not read the answer.
    - Bodies are bounded in bytes and time, while they come.
    """

    def __init__(self, app: ASGIApp, policy: Policy) -> None:
        self.app, self.policy = app, policy
        self._failures = Failures(policy.limits.failures)
        self._uploads = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.policy.limits.body(scope["method"], scope["path"])
        answering = Answering(send, scope["path"])
        large = self._is_large(scope, limit)
        try:
            self._check(scope, limit)
            if large and self._uploads >= self.policy.limits.uploads:
                raise Refused(503, "Busy", "too many uploads at a time", "send it again", {"Retry-After": "5"})
        except Refused as refusal:
            logger.info("refused: %s", refusal.error)
            await answering.refuse(refusal)
            return
        body = Body(receive, limit, self.policy.limits)
        answering.body = body
        self._uploads += large
        try:
            await self.app(scope, body, answering)
        except Exception:
            # What the handlers of the app have told and logged already, Starlette raises again.
            if not answering.begun:
                logger.exception("failure without an answer")
                await answering.refuse(Refused(500, "InternalError", "the server failed"))
        finally:
            self._uploads -= large

    def _is_large(self, scope: Scope, limit: int) -> bool:
        """Whether it is an upload that may hold much; one that does not say its length may."""
        most, length = self.policy.limits.other_bytes, Headers(scope=scope).get("content-length")
        if limit <= most or scope["method"] == "GET":
            return False
        return length is None or not length.isdecimal() or len(length) > 18 or int(length) > most

    def _check(self, scope: Scope, limit: int) -> None:
        headers, limits = Headers(scope=scope), self.policy.limits
        client = scope.get("client") or ("", 0)
        near = is_loopback(client[0])
        if not near and (self.policy.tokens is None or scope.get("scheme") != "https"):
            raise Refused(
                403,
                "RemoteClient",
                "this server takes requests of its own machine only",
                "start it with --tokens, --tls-cert and --tls-key to serve others",
            )
        self._check_site(headers, (scope.get("server") or ("", 0))[0])
        if len(scope.get("raw_path") or b"") > limits.path_bytes or len(scope["query_string"]) > limits.query_bytes:
            raise Refused(414, "TooLarge", "the URL is too long")
        if self.policy.tokens is not None and scope["path"] not in _OPEN:
            scope[ANNOTATOR] = self._annotator(self.policy.tokens, headers, client[0])
        length = headers.get("content-length")
        if length is not None and (not length.isdecimal() or len(length) > 18 or int(length) > limit):
            raise too_large(limit)

    def _check_site(self, headers: Headers, address: str) -> None:
        hosts = headers.getlist("host")
        name = _name_of(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise Refused(400, "InvalidHost", "a request names its host once")
        known = is_loopback(name) or name in self.policy.names
        if not known and (not _is_address(name) or name != address or is_loopback(address)):
            raise Refused(
                403,
                "WrongHost",
                "this server has no such name",
                "use its address, or start it with --name",
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        foreign = origin is not None and origin.partition("://")[2].lower() != hosts[0].lower()
        linked = headers.get("sec-fetch-mode") == "navigate"  # somebody followed a link
        if foreign or (site not in ("none", "same-origin") and not linked):
            raise Refused(403, "ForeignOrigin", "pages of other sites may not use this server")

    def _annotator(self, tokens: Tokens, headers: Headers, address: str) -> str:
        if not self._failures.may_try(address):
            raise Refused(429, "TooManyFailures", "too many wrong tokens", "wait a minute", {"Retry-After": "60"})
        user, token = credentials(headers.get("authorization", ""))
        name = tokens.annotator(token) if token else None
        if name is None or (user is not None and user != name):
            if token:
                self._failures.add(address)
            # A browser asks for a name and a password then: the token is the password.
            challenge = {"WWW-Authenticate": 'Basic realm="SonoDistill", charset="UTF-8"'}
            raise Refused(401, "Unauthorized", "a token is needed", "send Authorization: Bearer TOKEN", challenge)
        return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str | None:
    """The name in a Host header without its port; None when it is none."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
    else:
        name, _, port = host.partition(":")
        bracket, port = "]", f":{port}" if port else ""
    if not name or not bracket or (port and not (port[0] == ":" and port[1:].isdecimal())):
        return None
    return name.lower().rstrip(".")
