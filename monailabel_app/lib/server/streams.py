"""The bodies of requests, bounded while they come, and the headers of every answer."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Send

from lib.server.errors import Refused, answer
from lib.server.limits import Limits

_VIEWER = ("/ohif/", "/static/")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"
# The viewer compiles WebAssembly, makes workers of blobs, and styles inline; it may talk to this server alone.
_VIEWER_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' blob: data:; object-src 'none'; base-uri 'self'; "
    "frame-ancestors 'self'"
)


class Body:
    """``receive`` that stops what is too large or too slow; ``refusal`` says which then."""

    def __init__(self, receive: Receive, limit: int, limits: Limits) -> None:
        self._receive, self._limit, self._limits = receive, limit, limits
        self._began, self._size, self._whole = time.monotonic(), 0, False
        self.refusal: Refused | None = None

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()  # waits for the client to go
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        limits = self._limits
        left = self._began + limits.body_seconds + self._size / limits.bytes_per_second - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, min(limits.idle_seconds, left)))
        except asyncio.TimeoutError:
            self.refusal = Refused(408, "TooSlow", "the body did not come in time", "send it again")
            return {"type": "http.disconnect"}
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            self.refusal = too_large(self._limit)
            return {"type": "http.disconnect"}
        self._whole = not message.get("more_body", False)
        return message


class Answering:
    """``send`` that adds the headers of every answer, and answers for a body that was stopped."""

    def __init__(self, send: Send, path: str) -> None:
        self._send, self._viewer = send, path.startswith(_VIEWER)
        self.begun, self.body, self._instead = False, None, False

    body: Body | None

    async def __call__(self, message: Message) -> None:
        if self._instead:
            return
        if message["type"] == "http.response.start":
            if self.body is not None and self.body.refusal is not None:
                self._instead = True
                await self.refuse(self.body.refusal)
                return
            self.begun = True
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers["X-Frame-Options"] = "SAMEORIGIN"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
            headers["Content-Security-Policy"] = _VIEWER_POLICY if self._viewer else _POLICY
            headers["Cache-Control"] = "no-cache" if self._viewer else "no-store"
        await self._send(message)

    async def refuse(self, refusal: Refused) -> None:
        """Answer, and close: what is left of the body is not wanted."""
        headers = {**(refusal.headers or {}), "Connection": "close"}
        response = answer(refusal.status_code, refusal.error, str(refusal.detail), refusal.remedy, headers=headers)
        wrapped = Answering(self._send, "")
        self.begun = True
        await response({"type": "http", "method": "GET", "headers": []}, _nothing, wrapped)


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def too_large(limit: int) -> Refused:
    return Refused(413, "TooLargeError", f"at most {limit} bytes may be sent here", "send less")
