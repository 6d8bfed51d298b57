"""OpenIGTLink servers (PLUS, 3D Slicer, scanners) as frames.

The messages are pyigtl's, its client is not used: it keeps the last message of a device only and does not count what it
replaces, takes a body of any length, never notices that its peer has gone, and gives a connection 10 ms to come about.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Generator
from threading import Event
from typing import Any
from urllib.parse import unquote, urlsplit

from sonodistill.frames import Frame
from sonodistill.inference.live.igtl_image import to_frame, to_message
from sonodistill.inference.live.source import SourceError

logger = logging.getLogger(__name__)

DEFAULT_PORT = 18944
MAX_BODY = 1 << 26
"""Bytes of a message: a frame of 4K in RGBA takes half of it."""
_HEADER = 58
_VERSIONS = (1, 2)
_CONNECT_S = 5.0
_POLL_S = 0.2
_BACKOFF_S = (0.1, 2.0)
_MAX_OTHERS = 5


class IgtlSource:
    """Images of an OpenIGTLink server; see ``source.Source``.

    A connection that breaks is tried again, more and more slowly, until ``stop`` is set.

    Args:
        address: ``igtl://host[:port][/device]``; without a device it is the first one that sends an image.

    Errors: SourceError when the address is malformed, nobody answers there, or pyigtl is not installed.
    """

    def __init__(self, address: str) -> None:
        self._host, self._port, self._device = _parts(address)
        self._pyigtl = _pyigtl()
        self.address = address
        self.lost = False
        self.reconnects = 0
        self._others: list[str] = []
        try:
            self._socket: socket.socket | None = self._connected()
        except OSError as error:
            raise SourceError(
                f"no OpenIGTLink server answers at {self._host}:{self._port} ({_short(error)})",
                remedy="start the server (PLUS, Slicer's OpenIGTLinkIF) first, and check host, port and firewall",
            ) from error

    @property
    def hint(self) -> str:
        return f"images came from {', '.join(map(repr, self._others))}" if self._others else ""

    def frames(self, stop: Event) -> Generator[Frame, None, None]:
        index, start, pause = 0, 0.0, _BACKOFF_S[0]
        try:
            while not stop.is_set():
                try:
                    if self._socket is None:
                        self._socket = self._connected()
                        self.reconnects += 1
                    while (message := self._image(self._socket, stop)) is not None:
                        self.lost, pause = False, _BACKOFF_S[0]
                        start = start or message.timestamp
                        time_ms = 1000 * (message.timestamp - start) if message.timestamp else None
                        yield to_frame(message, index, time_ms, self.address)
                        index += 1
                except OSError as error:
                    if not self.lost:
                        logger.warning("%s is lost (%s); trying again", self.address, _short(error))
                    self.lost = True
                    self._close()
                    stop.wait(pause)
                    pause = min(2 * pause, _BACKOFF_S[1])
        finally:
            self._close()

    def reply(self, frame: Frame, mask: bytes) -> None:
        """Send the mask as an image of the device ``<device>_mask``. A peer that does not read it is disconnected."""
        connection = self._socket
        if connection is None:
            return
        message = to_message(mask, frame, self._pyigtl.ImageMessage).pack()
        try:
            connection.sendall(message)
        except OSError as error:
            logger.warning("%s does not take the reply (%s)", self.address, _short(error))
            # Half of a message may be sent, so that no other can follow. The receiver sees the end and connects anew.
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                logger.debug("%s was closed already", self.address)

    def _connected(self) -> socket.socket:
        connection = socket.create_connection((self._host, self._port), timeout=_CONNECT_S)
        connection.settimeout(_POLL_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _image(self, connection: socket.socket, stop: Event) -> Any | None:
        """The next image message of the device, or None once ``stop`` is set."""
        while (header := _read(connection, _HEADER, stop)) is not None:
            fields = self._fields(header)
            size, kind, device = fields["body_size"], fields["message_type"], fields["device_name"]
            if size > MAX_BODY:
                raise SourceError(
                    f"{self.address:.100} announces a message of {size} bytes; at most {MAX_BODY} are read",
                    remedy="check that it is an OpenIGTLink server, and let it send smaller images",
                )
            body = _read(connection, size, stop)
            if body is None:
                return None
            if kind != "IMAGE":
                continue
            if self._device is None:
                self._device = device
            if device == self._device:
                return self._unpacked(fields, bytes(body))
            if device not in self._others and len(self._others) < _MAX_OTHERS:
                self._others.append(device)
                logger.info("%s: images of %r are left out", self.address, device)
        return None

    def _fields(self, header: bytearray) -> dict[str, Any]:
        try:
            fields = self._pyigtl.messages.MessageBase.parse_header(bytes(header))
        except ValueError:
            fields = {"header_version": None}
        if fields["header_version"] not in _VERSIONS:
            raise SourceError(
                f"what answers at {self._host}:{self._port} does not speak OpenIGTLink",
                remedy=f"check the port; OpenIGTLink servers listen at {DEFAULT_PORT} by default",
            )
        return fields

    def _unpacked(self, fields: dict[str, Any], body: bytes) -> Any:
        message = self._pyigtl.ImageMessage()
        try:
            message.unpack(fields, body)
        # pyigtl does not check what it takes apart: struct.error, KeyError, ValueError, TypeError, NotImplementedError.
        except Exception as error:
            raise SourceError(
                f"{self.address:.100} sends an image that cannot be read ({type(error).__name__}: {error!s:.100})",
                remedy="send whole 8-bit images, no parts of a larger one",
            ) from error
        return message


def _read(connection: socket.socket, count: int, stop: Event) -> bytearray | None:
    """Exactly ``count`` bytes, or None once ``stop`` is set. Errors: OSError when the connection ends before."""
    data = bytearray(count)
    view, filled = memoryview(data), 0
    while filled < count:
        if stop.is_set():
            return None
        try:
            got = connection.recv_into(view[filled:])
        except TimeoutError:
            continue
        if not got:
            raise ConnectionResetError("closed by the server")
        filled += got
    return data


def _parts(address: str) -> tuple[str, int, str | None]:
    """Host, port and device name of an address."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        host, port = None, 0
    if host is None:
        raise SourceError(
            f"{address!r:.100} names no OpenIGTLink server",
            remedy="write igtl://host:port or igtl://host:port/device, as in igtl://127.0.0.1:18944",
        )
    return host, port, unquote(parts.path).strip("/") or None


def _pyigtl() -> Any:
    try:
        import pyigtl
    except ModuleNotFoundError as error:
        raise SourceError("OpenIGTLink needs pyigtl, which is not installed", remedy="pip install pyigtl") from error
    return pyigtl


def _short(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]
