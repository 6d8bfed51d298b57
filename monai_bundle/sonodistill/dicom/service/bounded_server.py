"""A TCP server with a thread a connection, few of them, each of which has to end in time."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
import time
from dataclasses import dataclass
from typing import Any

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may take.

    Attributes:
        connections: at once; others wait in the listening queue.
        header_bytes: of the request line and all headers.
        header_seconds: until they are complete, the TLS handshake included.
        idle_seconds: without a byte.
        body_seconds: to wait for a body, and one more for each ``bytes_per_second`` that arrived.
        body_bytes: of a request.
        file_bytes: of one instance.
    """

    connections: int = 16
    header_bytes: int = 16 << 10
    header_seconds: float = 10.0
    idle_seconds: float = 10.0
    body_seconds: float = 30.0
    bytes_per_second: int = 16 << 10
    body_bytes: int = 4 << 30
    file_bytes: int = 1 << 30


class BoundedServer(socketserver.TCPServer):
    """Serves ``connections`` clients at a time; the others wait in the listening queue, and are not refused.

    Args:
        address: (host, port).
        handler: class of the handlers, as of ``socketserver``.
        limits: for clients.

    Attributes:
        limits: the same.
        stopping: set it before ``shutdown``.
    """

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler], limits: Limits
    ) -> None:
        self.limits, self.stopping = limits, False
        self._slots = threading.BoundedSemaphore(limits.connections)
        self._lock = threading.Lock()
        self._deadlines: dict[int, tuple[socket.socket, float]] = {}
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        while not self._slots.acquire(timeout=0.2):
            self.end_overdue()
            if self.stopping:
                self.shutdown_request(request)
                return
        self.allow(request, self.limits.header_seconds)
        threading.Thread(target=self._serve, args=(request, client_address), name="http-client", daemon=True).start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        number = request.fileno()
        try:
            self.finish_request(request, client_address)
        except Exception as error:  # noqa: BLE001 - a client does not end the server
            _LOG.debug("a connection ended early (%s)", type(error).__name__)
        finally:
            with self._lock:
                held, _ = self._deadlines.pop(number, (request, 0.0))
            self.shutdown_request(held)
            self._slots.release()

    def service_actions(self) -> None:
        self.end_overdue()

    def allow(self, sock: socket.socket, seconds: float) -> None:
        """The connection ends so many seconds from now, unless it is over by then."""
        with self._lock:
            self._deadlines[sock.fileno()] = sock, time.monotonic() + seconds

    def end_overdue(self, *, everything: bool = False) -> None:
        """End the connections whose time is over."""
        now = time.monotonic()
        with self._lock:
            for sock, deadline in self._deadlines.values():
                if everything or now > deadline:
                    with contextlib.suppress(OSError):
                        # Not SSLSocket.shutdown, which makes it a plain socket under the thread that reads it.
                        socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def open_connections(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._deadlines)
