"""A multipart answer taken apart within bounds; the module of the standard library that did it is gone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from UltrasoundSegmentLib.backends.model import BackendError

_PARTS, _HEADER = 8, 8 << 10
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.I)
_NAME = re.compile(r'(?:^|[;\s])name="([^"]{0,100})"', re.I)
_FILE = re.compile(r'filename="([^"]{0,300})"', re.I)


@dataclass(frozen=True)
class Part:
    """Attributes: name; file: as it is called, "" for a field; content."""

    name: str
    file: str
    content: bytes


def parse(body: bytes, content_type: str) -> dict[str, Part]:
    """Parts by name, the first of each. Errors: BackendError."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise _damaged()
    mark = b"--" + (found.group(1) or found.group(2)).encode("latin-1", "replace")
    if not body.startswith(mark):
        start = body.find(b"\r\n" + mark)
        if start < 0:
            raise _damaged()
        body = body[start + 2 :]
    parts: dict[str, Part] = {}
    at = len(mark)
    for _ in range(_PARTS + 1):
        if body[at : at + 2] == b"--":
            return parts
        end = body.find(b"\r\n" + mark, at)
        begin = body.find(b"\r\n\r\n", at, at + _HEADER)
        if body[at : at + 2] != b"\r\n" or end < 0 or begin < 0 or begin > end:
            raise _damaged()
        header = body[at:begin].decode("latin-1")
        name, file = _NAME.search(header), _FILE.search(header)
        part = Part(name.group(1) if name else "", file.group(1) if file else "", body[begin + 4 : end])
        parts.setdefault(part.name, part)
        at = end + 2 + len(mark)
    raise BackendError("The server's answer has more parts than are accepted.")


def _damaged() -> BackendError:
    return BackendError("The server's answer is damaged: ask again, or look at the server's log.")
