"""What a server says of an error, ours or a stock one, as a sentence for people."""

from __future__ import annotations

import json
from typing import Any

from UltrasoundSegmentLib.backends.model import BackendError

_LONGEST = 1 << 20


class RefusedError(BackendError):
    """The server answered with an error. ``status``: of HTTP; ``error``: its name, "" where the server gives none."""

    def __init__(self, message: str, status: int, error: str = "") -> None:
        super().__init__(message)
        self.status, self.error = status, error


def refused(status: int, content: bytes) -> RefusedError:
    """What a server says of an error, ours or a stock one."""
    name = detail = remedy = ""
    try:
        said = json.loads(content[:_LONGEST])
        if isinstance(said, dict):
            name, detail, remedy = (clean(said.get(key, "")) for key in ("error", "detail", "remedy"))
            detail = detail or clean(said.get("msg", ""))
    except (ValueError, RecursionError):
        pass
    if status == 401 or (status == 403 and not detail):
        return RefusedError("The server does not let you in: give the token that belongs to you.", status, name)
    text = detail or f"error {status}"
    return RefusedError(f"The server refused: {text}{f' ({remedy})' if remedy else ''}.", status, name)


def clean(text: Any) -> str:
    """Text of a server for people: one line of at most 300 characters that can be printed."""
    if not isinstance(text, str):
        return ""
    return "".join(one if one.isprintable() else " " for one in text)[:300].strip().rstrip(".")
