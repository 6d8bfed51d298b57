"""The parts of an HTTP/1.1 request as they arrive, within limits: header lines, and bodies of both framings."""

from __future__ import annotations

from email.message import Message
from typing import BinaryIO, Protocol

_MAX_CHUNK_LINE = 256
_MAX_TRAILERS = 1 << 13


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: HTTP status.
        reason: in a few words of ours.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class GoneError(Exception):
    """The client hung up, or fell silent, before the end of its request."""


class HeaderLines:
    """Reads lines, and no more bytes than ``limit`` in all. Errors: RequestError (431)."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._left = file, limit

    def readline(self, size: int = -1) -> bytes:
        most = self._left + 1
        line = self._file.readline(most if size < 0 else min(size, most))
        self._left -= len(line)
        if self._left < 0:
            raise RequestError(431, "the headers are too large")
        return line


class Body(Protocol):
    """What is left of a request's body."""

    def read(self, size: int) -> bytes:
        """The next bytes, at most ``size``; none at the end. Errors: GoneError, RequestError."""
        ...


def body_of(headers: Message, file: BinaryIO, limit: int) -> Body:
    """The body that the headers announce.

    Args:
        headers: of the request.
        file: positioned behind them.
        limit: bytes a body may have.

    Errors: RequestError (400, 411, 413).
    """
    lengths, codings = headers.get_all("Content-Length", []), headers.get_all("Transfer-Encoding", [])
    # Two statements about where a body ends are how requests are smuggled past a proxy (RFC 9112 6.3).
    if len(lengths) + len(codings) > 1:
        raise RequestError(400, "the length of the body is stated twice")
    if codings:
        if codings[0].strip().lower() != "chunked":
            raise RequestError(411, "no transfer encoding but chunked is read")
        return _Chunked(file, limit)
    if not lengths:
        raise RequestError(411, "the length of the body is not stated")
    text = lengths[0].strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise RequestError(400, "the length of the body is malformed")
    if int(text) > limit:
        raise RequestError(413, f"a body has at most {limit} bytes")
    return _Fixed(file, int(text))


class _Fixed:
    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file, self._left = file, length

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        if size <= 0:
            return b""
        data = _read1(self._file, size)
        self._left -= len(data)
        return data


class _Chunked:
    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._left_in_all = file, limit
        self._left, self._started, self._ended = 0, False, False

    def read(self, size: int) -> bytes:
        if self._ended or size <= 0:
            return b""
        if not self._left:
            self._next_chunk()
            if self._ended:
                return b""
        data = _read1(self._file, min(size, self._left))
        self._left -= len(data)
        return data

    def _next_chunk(self) -> None:
        if self._started and self._line(2):
            raise RequestError(400, "a chunk is longer than it says")
        self._started = True
        digits = self._line(_MAX_CHUNK_LINE).partition(b";")[0].strip()
        if not 0 < len(digits) <= 15 or any(byte not in b"0123456789abcdefABCDEF" for byte in digits):
            raise RequestError(400, "a chunk does not say how long it is")
        self._left = int(digits, 16)
        self._left_in_all -= self._left
        if self._left_in_all < 0:
            raise RequestError(413, "the body is too large")
        if not self._left:
            left = _MAX_TRAILERS
            while line := self._line(left):
                left -= len(line)
            self._ended = True

    def _line(self, limit: int) -> bytes:
        try:
            line = self._file.readline(limit + 2)
        except (OSError, ValueError) as error:
            raise GoneError(type(error).__name__) from None
        if not line:
            raise GoneError("hung up")
        if not line.endswith(b"\n"):
            raise RequestError(400, "a chunk is malformed")
        return line.rstrip(b"\r\n")


def _read1(file: BinaryIO, size: int) -> bytes:
    try:
        data: bytes = file.read1(size)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise GoneError(type(error).__name__) from None
    if not data:
        raise GoneError("hung up")
    return data
