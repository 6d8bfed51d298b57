"""Requests to an ASGI app without a server: from any address, as slow and as large as a test wants them."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

APP = Path(__file__).resolve().parents[2] / "monailabel_app"
HERE = ("127.0.0.1", 50000)
AWAY = ("192.0.2.7", 50000)


def import_lib() -> None:
    """Make ``lib`` of the app importable, as MONAI Label does."""
    if str(APP) not in sys.path:
        sys.path.insert(0, str(APP))


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)


@dataclass
class Gate:
    """In a body: where the client stops, which sets ``reached``, until it may ``go`` on."""

    reached: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


def ask(
    app: Any,
    path: str = "/",
    method: str = "GET",
    *,
    client: tuple[str, int] | None = HERE,
    server: tuple[str, int] = ("127.0.0.1", 8000),
    scheme: str = "http",
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes | float | Gate] = (),
) -> Answer:
    """One request; a number in the body is a pause in seconds, an endless one by the end of the test's patience."""
    answer, parts, ended = Answer(), list(body), False
    path, _, query = path.partition("?")
    given = {"host": f"{server[0]}:{server[1]}", **{key.lower(): value for key, value in (headers or {}).items()}}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in given.items()],
        "client": client,
        "server": server,
        "state": {},
    }

    async def receive() -> dict[str, Any]:
        nonlocal ended
        while parts and not isinstance(parts[0], bytes):
            pause = parts.pop(0)
            if isinstance(pause, Gate):
                pause.reached.set()
                await asyncio.to_thread(pause.go.wait, 15)
            else:
                await asyncio.sleep(pause)
        if ended:
            await asyncio.sleep(3600)  # as a client that waits for its answer
        part = parts.pop(0) if parts else b""
        ended = not parts
        return {"type": "http.request", "body": part, "more_body": not ended}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not answer.status, "answered twice"
            answer.status = message["status"]
            answer.headers = [(key.decode(), value.decode("latin-1")) for key, value in message["headers"]]
        else:
            answer.body += message.get("body", b"")

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 20))
    return answer
