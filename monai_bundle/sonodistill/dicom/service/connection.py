"""What pynetdicom leaves unbounded in a listening server: connections, PDUs, and how long either may take.

Some of it can only be reached through attributes that pynetdicom does not document; each such place says so, and the
tests of the SCP fail where one has moved.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pynetdicom import evt
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from sonodistill.dicom.service.incoming import Incoming
from sonodistill.dicom.service.intake import Intake

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event
    from pynetdicom.pdu_primitives import P_DATA

_LOG = logging.getLogger(__name__)
MAX_PDU = 1 << 17
"""Bytes of a P-DATA-TF PDU that we ask for."""
_LONGEST_PDU = 1 << 18
"""Also an A-ASSOCIATE-RQ with 128 presentation contexts of 30 transfer syntaxes each is shorter."""
_LONGEST_COMMAND = 1 << 16
_MESSAGES_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of a server.

    Attributes:
        connections: at once, be they associations or not.
        greeting: seconds until a connection has become an association.
        silence: seconds without a byte.
        file_bytes: of a data set.
    """

    connections: int
    greeting: float
    silence: float
    file_bytes: int


class _Provider(DIMSEServiceProvider):
    """Reads messages: data sets to files, commands within bounds."""

    def __init__(self, association: Association, new: Callable[[DIMSEMessage], Incoming]) -> None:
        super().__init__(association)
        self._new = new
        self._open: list[Incoming] = []

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a fragment; a message that is malformed or too long, or one too many unanswered, ends the association.

        Runs in the thread that reads the connection, which an exception would end without a word to the sender.
        """
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = self._new(self.message)
            self._open = [*(each for each in self._open if each.path is not None), self.message.data_set]
        try:
            if self.message.encoded_command_set.tell() > _LONGEST_COMMAND or self.msg_queue.qsize() > _MESSAGES_AHEAD:
                raise ValueError("more than a sender may send")
            super().receive_primitive(primitive)
        except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
            _LOG.warning("a DICOM message was malformed: %s", type(error).__name__)
            # The event of an invalid PDU; pynetdicom does the same where it finds a message invalid.
            self.dul.event_queue.put("Evt19")

    def discard(self) -> None:
        for each in self._open:
            each.discard()


class _Socket(AssociationSocket):
    """A connection whose PDUs are neither longer nor slower than is useful."""

    def recv(self, nr_bytes: int) -> bytearray:
        """The next bytes, all or up to where the peer hung up; called with the length that a PDU's header states.

        Errors: OSError (longer than any useful PDU) and TimeoutError, whereupon pynetdicom closes the connection.
        """
        if nr_bytes > _LONGEST_PDU:
            raise OSError(errno.EMSGSIZE, f"a PDU of {nr_bytes} bytes")
        connection = cast(socket.socket, self.socket)
        silence = self.assoc.network_timeout or 0
        greeted = self.assoc.requestor.primitive is not None
        until = time.monotonic() + (silence if greeted else self.assoc.acse_timeout or 0)
        read, at = bytearray(nr_bytes), 0
        with memoryview(read) as view:
            while at < nr_bytes:
                # For what remains: bytes can come one by one. Zero would mean not to wait at all.
                connection.settimeout(max(until - time.monotonic(), 1e-3))
                count = connection.recv_into(view[at:])
                if not count:
                    break
                at += count
        connection.settimeout(silence)  # of what is sent
        return read[:at] if at < nr_bytes else read


class Server(ThreadedAssociationServer):
    """A server that hands each connection to a thread before a byte of it is read, TLS handshake included."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *arguments: Any, bounds: Bounds, intake: Intake, **options: Any) -> None:
        self.bounds, self.intake = bounds, intake
        self.connections: set[Handler] = set()
        super().__init__(*arguments, **options)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = cast(socket.socket, self.socket).accept()
        if self.ssl_context is not None:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver's
        """Whether there is a place for one more connection; closed at once where not."""
        return len(self.connections) < self.bounds.connections

    def hang_up(self) -> None:
        """Close every connection."""
        for each in list(self.connections):
            each.hang_up()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's
        """Instead of a traceback on the terminal."""
        _LOG.warning("a connection was dropped before it became an association")


class Handler(RequestHandler):
    """One connection, from its first byte until nothing of it is left."""

    server: Server
    association: Association | None = None

    def setup(self) -> None:
        self.server.connections.add(self)

    def handle(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self._shake_hands(self.request)
        self.request.settimeout(self.server.bounds.silence)
        association = self.association = self._create_association()
        # pynetdicom has no parameter for the class of its socket, nor for that of its message reader.
        association.dul.socket.__class__ = _Socket  # type: ignore[union-attr, assignment]
        association.dimse = _Provider(
            association,
            lambda message: Incoming(message, association, self.server.intake, self.server.bounds.file_bytes),
        )
        association.bind(evt.EVT_CONN_CLOSE, _let_go)
        association.start()
        association.join()

    def finish(self) -> None:
        self.server.connections.discard(self)
        if self.association is not None:
            self.association.dul.kill_dul()
        self.hang_up()
        if self.association is not None:
            self.association.dul.join(self.server.bounds.silence)
            cast(_Provider, self.association.dimse).discard()

    def _shake_hands(self, connection: ssl.SSLSocket) -> None:
        """TLS handshake; a timeout of the socket would be for each of its reads, and bytes can come one by one."""
        late = threading.Timer(self.server.bounds.greeting, self.hang_up)
        late.daemon = True
        late.start()
        try:
            connection.do_handshake()
        finally:
            late.cancel()

    def hang_up(self) -> None:
        """Close the connection; the threads that use it end."""
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_RDWR)
        self.request.close()


def _let_go(event: Event) -> None:
    """A peer that hangs up without a word: pynetdicom would wait for its request until the timeout."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(cast(Any, None))  # which is what a timeout gives
