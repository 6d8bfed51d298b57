"""Reads multipart/related (RFC 2046, 2387) as it arrives: a part is never held whole, and everything has a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.message import Message

from sonodistill.errors import SonoDistillError

_CHUNK = 1 << 18
_MAX_PREAMBLE = 1 << 12
_MAX_BOUNDARY = 200


class MultipartError(SonoDistillError):
    """A multipart body is malformed, ends too early, or has more parts or longer headers than are taken."""


def media_type(header: str | None) -> tuple[str, dict[str, str]]:
    """(media type, its parameters), in lower case but for the parameters' values, of a Content-Type header."""
    message = Message()
    message["Content-Type"] = "".join((header or "").splitlines())
    found = message.get_params(failobj=[]) or [("", "")]
    # A parameter in several parts or with a character set (RFC 2231) is a tuple; none that is read here needs one.
    return found[0][0].strip().lower(), {name.lower(): text for name, text in found[1:] if isinstance(text, str)}


def parts(
    read: Callable[[int], bytes], boundary: str, *, max_parts: int, max_header: int = 1 << 13
) -> Iterator[tuple[dict[str, str], Iterator[bytes]]]:
    """(headers in lower case, pieces of the body) of each part; what is not read of a part is passed over.

    Args:
        read: gives the next bytes, at most as many as it is asked for; none at the end.
        boundary: of the Content-Type header.
        max_parts, max_header: parts, and bytes of one part's headers, at most.

    Errors: MultipartError.
    """
    if not 0 < len(boundary) <= _MAX_BOUNDARY or not (boundary.isascii() and boundary.isprintable()):
        raise MultipartError("the Content-Type has no usable boundary")
    reader = _Reader(read, boundary.encode("ascii"))
    preamble = 0
    for piece in reader.until_boundary():
        preamble += len(piece)
        if preamble > _MAX_PREAMBLE:
            raise MultipartError("the first boundary does not come")
    count = 0
    while not reader.at_end():
        count += 1
        if count > max_parts:
            raise MultipartError(f"there are more than {max_parts} parts")
        headers = reader.headers(max_header)
        body = reader.until_boundary()
        yield headers, body
        for _ in body:
            pass


class _Reader:
    def __init__(self, read: Callable[[int], bytes], boundary: bytes) -> None:
        self._read = read
        self._mark = b"\r\n--" + boundary
        self._held = bytearray(b"\r\n")  # the first boundary has no line before it

    def until_boundary(self) -> Iterator[bytes]:
        keep = len(self._mark) - 1
        while (at := self._held.find(self._mark)) < 0:
            if len(self._held) > keep:
                yield bytes(self._held[:-keep])
                del self._held[:-keep]
            self._more()
        before = bytes(self._held[:at])
        del self._held[: at + len(self._mark)]
        if before:
            yield before

    def at_end(self) -> bool:
        """Whether the boundary that was just read is the last one."""
        while len(self._held) < 2:
            self._more()
        if self._held.startswith(b"--"):
            return True
        if self._line(_MAX_BOUNDARY).strip():
            raise MultipartError("a boundary is followed by something else")
        return False

    def headers(self, limit: int) -> dict[str, str]:
        found: dict[str, str] = {}
        while line := self._line(limit):
            limit -= len(line)
            name, colon, value = line.partition(b":")
            if not colon or not name.strip():
                raise MultipartError("the headers of a part are malformed")
            found[name.strip().lower().decode("latin-1")] = value.strip().decode("latin-1")
        return found

    def _line(self, limit: int) -> bytes:
        while (at := self._held.find(b"\r\n")) < 0:
            if len(self._held) > limit:
                raise MultipartError("the headers of a part are too long")
            self._more()
        if at > limit:
            raise MultipartError("the headers of a part are too long")
        line = bytes(self._held[:at])
        del self._held[: at + 2]
        return line

    def _more(self) -> None:
        data = self._read(_CHUNK)
        if not data:
            raise MultipartError("it ends before its last boundary")
        self._held += data
