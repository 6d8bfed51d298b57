"""Requests that a server is to refuse, and how it says so."""

from __future__ import annotations

import http.client
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

ESCAPES = [
    "../x",
    "..",
    "/etc/passwd",
    "a/../../b",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/x",
    "a%00b",
    "x" * 300,
    "C:\\x",
    "~root",
    ".hidden",
    "%0d%0aX-Evil:1",
    "\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}",
]
INSIDE = re.compile(r'Traceback|File "|site-packages|\.py"|<html|sqlite3|line \d+')


def png(shape=(240, 320), value=0) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(np.full(shape, value, np.uint8)).save(file, "PNG")
        return file.getvalue()


def noise() -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(np.random.default_rng(0).integers(0, 2, (240, 320), np.uint8)).save(file, "PNG")
        return file.getvalue()


def raw(server, method, target, headers=None, body=None) -> tuple[int, dict[str, str], bytes]:
    """A request whose target is sent as it is; no client of ours would."""
    parts = urlsplit(server.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            if value is not None:
                connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
    finally:
        connection.close()


def refused(server, status, headers, body, among=range(400, 500)):
    """It is a refusal as JSON, which says nothing of the inside of the server."""
    text = body.decode(errors="replace")
    assert status in among, (status, text[:500])
    said = json.loads(text)
    assert set(said) >= {"error", "detail", "remedy"}
    assert not INSIDE.search(text), text
    for folder in (server.studies, server.work, server.work.parent):
        assert str(folder) not in text
    assert not any(name.startswith("access-control-") for name in headers)
    assert headers["x-content-type-options"] == "nosniff"
    return said


def refused_request(server, method, path, among=range(400, 500), **more):
    response = server.request(method, path, **more)
    headers = {key.lower(): value for key, value in response.headers.items()}
    return refused(server, response.status_code, headers, response.content, among)


@contextmanager
def nothing_saved(server) -> Iterator[None]:
    def state():
        files = sorted(
            str(path) for path in server.work.parent.rglob("*") if path.is_file() and ".sqlite" not in path.name
        )
        outside = [path for path in files if not path.startswith((f"{server.work}/", f"{server.work.parent}/server-"))]
        return server.get("/sonodistill/progress")["revision"], outside

    before = state()
    yield
    assert state() == before


def frame(server) -> str:
    return f"{server.item('cine')}.f00003"
