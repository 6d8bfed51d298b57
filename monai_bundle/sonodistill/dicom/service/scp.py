"""C-STORE SCP: ultrasound from callers that are known, written to the spool as it arrives, never decoded."""

from __future__ import annotations

import ctypes
import ipaddress
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import Verification, register_uid, uid_to_service_class  # type: ignore[attr-defined]

from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.service.connection import MAX_PDU, Bounds, Handler, Server
from sonodistill.dicom.service.incoming import Incoming, failure_status
from sonodistill.dicom.service.intake import Intake, Outcome
from sonodistill.dicom.settings import Scp
from sonodistill.dicom.source import ULTRASOUND_CLASSES
from sonodistill.dicom.tls import server_context
from sonodistill.frames.dicom import TRANSFER_SYNTAXES

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_LOG = logging.getLogger(__name__)
_COMMENT = 64
_STACK_BYTES = 1 << 19
_DRAIN_SECONDS = 10.0
_ABORT_SECONDS = 0.2
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a sender may be silent, in seconds.

    Attributes:
        greeting: until it has asked for an association, and until it has closed one that was rejected.
        silence: within an association, and in the middle of a message.
    """

    greeting: float = 10.0
    silence: float = 60.0


def serve_scp(
    settings: Scp,
    intake: Intake,
    stop: threading.Event,
    *,
    max_file_bytes: int,
    ready: Callable[[int], None],
    timeouts: Timeouts = Timeouts(),
) -> None:
    """Listen until ``stop`` is set; associations get ten seconds to end then.

    Ultrasound storage (PS3.4 annex B) in every transfer syntax that is read, and Verification. A C-STORE is answered
    with 0x0000 where the instance is a job now or was one before, 0xA700 where there is no room, 0xA900 where the
    intake refused it or its UID is malformed, 0xC000 where it is larger than allowed, and 0xC001 after any failure;
    the Error Comment says which. Associations are rejected for callers that are not in ``settings.allow``, under
    another called AE title than ours, and above the maximum.

    For a process of its own: settings of pynetdicom and pydicom that hold for a whole process are changed.

    Args:
        intake: is called from several threads at once.
        max_file_bytes: of a data set.
        ready: is called with the port once connections are taken.

    Errors: ServiceConfigError (certificates, allow list, an address that cannot be listened at).
    """
    callers = Callers(settings.allow)
    context = None if settings.tls is None else server_context(settings.tls)
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    _config.ENFORCE_UID_CONFORMANCE = True
    ae = AE(settings.ae_title)
    ae.maximum_pdu_size = MAX_PDU
    ae.require_called_aet = True
    ae.acse_timeout, ae.dimse_timeout, ae.network_timeout = timeouts.greeting, timeouts.silence, timeouts.silence
    ae.add_supported_context(Verification)
    # Without two video syntaxes of which pydicom does not know that they are some.
    syntaxes = sorted(each for each in TRANSFER_SYNTAXES if UID(each).is_transfer_syntax)
    for kind in ULTRASOUND_CLASSES:
        if uid_to_service_class(kind) is not StorageServiceClass:  # the retired ones, whose C-STOREs it would abort
            register_uid(kind, f"Retired{kind.replace('.', '_')}", StorageServiceClass)
        ae.add_supported_context(kind, syntaxes)
    bounds = Bounds(
        connections=4 * settings.max_associations + 16,
        greeting=timeouts.greeting,
        silence=timeouts.silence,
        file_bytes=max_file_bytes,
    )
    # Connections are bounded by the server and associations by _requested: pynetdicom would count idle connections.
    ae.maximum_associations = bounds.connections + 1
    # pydicom's warnings would quote values of what arrives.
    with config.disable_value_validation():
        try:
            server = ae.make_server(
                (settings.host, settings.port),
                ssl_context=context,
                evt_handlers=[
                    (evt.EVT_REQUESTED, _requested, [callers, settings.max_associations]),
                    (evt.EVT_C_STORE, _stored, [intake]),
                ],
                server_class=Server,
                request_handler=Handler,
                bounds=bounds,
                intake=intake,
            )
        except OSError as error:
            raise ServiceConfigError(f"cannot listen at {settings.host}:{settings.port} ({error.strerror})") from None
        _run(cast(Server, server), stop, ready)


def limit_memory(megabytes: int) -> None:
    """Bound the address space of this process, if the system can; to be called before there are threads.

    The C library's memory pools and the stacks of threads reserve much more than they use, and would take up the
    bound: both are made smaller.
    """
    if sys.platform != "linux":
        return
    import resource

    threading.stack_size(_STACK_BYTES)
    try:
        ctypes.CDLL(None).mallopt(-8, 2)  # M_ARENA_MAX
    except (AttributeError, OSError):  # another C library than glibc
        _LOG.debug("this C library has no mallopt")
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = megabytes << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit if most == resource.RLIM_INFINITY else min(limit, most), most))


class Callers:
    """Who may send.

    Args:
        allow: AE titles, each optionally with the address or network it has to come from: "PACS@10.0.0.0/24".

    Errors: ServiceConfigError (an address that is none).
    """

    def __init__(self, allow: tuple[str, ...]) -> None:
        self._networks: dict[str, list[_Network | None]] = {}
        for text in allow:
            title, at, address = text.partition("@")
            try:
                network = ipaddress.ip_network(address.strip(), strict=False) if at else None
            except ValueError:
                raise ServiceConfigError(
                    f"scp.allow: {text}: {address} is no IP address or network", remedy='write "TITLE@10.0.0.5"'
                ) from None
            self._networks.setdefault(title.strip(), []).append(network)

    def allows(self, title: str, address: str) -> bool:
        """Whether a caller of this AE title and IP address may send."""
        found = ipaddress.ip_address(address.partition("%")[0])
        found = getattr(found, "ipv4_mapped", None) or found
        return any(network is None or found in network for network in self._networks.get(title.strip(), ()))


def _run(server: Server, stop: threading.Event, ready: Callable[[int], None]) -> None:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        ready(server.server_address[1])
        stop.wait()
    finally:
        server.ae._servers.append(server)  # its shutdown removes it from there, where start_server has put it
        server.shutdown()
        thread.join()
        until = time.monotonic() + _DRAIN_SECONDS
        while _established(server) and time.monotonic() < until:
            time.sleep(0.05)
        for association in _established(server):
            association.abort(block=False)
        time.sleep(_ABORT_SECONDS if server.connections else 0)
        server.hang_up()


def _established(server: Server) -> list[Association]:
    return [each for each in server.active_associations if each.is_established]


def _requested(event: Event, callers: Callers, most: int) -> None:
    """Reject an association that is not to be; runs before pynetdicom negotiates."""
    association = event.assoc
    reason = (2, 3, 2)  # transient: local limit exceeded
    try:
        title = str(cast(A_ASSOCIATE, association.requestor.primitive).calling_ae_title)
        if not callers.allows(title, association.requestor.address):
            # The title is a stranger's text.
            _LOG.warning("association rejected: unknown caller %.16r at %s", title, association.requestor.address)
            reason = (1, 1, 3)  # permanent: calling AE title not recognised
        elif len(_established(cast(Server, association._server))) < most:
            return
    except Exception as error:  # noqa: BLE001 - pynetdicom goes on after an exception, as if nothing spoke against it
        _LOG.error("association rejected: %s", type(error).__name__)
    association.acse.send_reject(*reason)
    association.kill()


def _stored(event: Event, intake: Intake) -> Dataset:
    """The answer to a C-STORE whose data set is in a file."""
    incoming = cast(C_STORE, event.request).DataSet
    try:
        if not isinstance(incoming, Incoming):
            return _answer(0xC001, "no data set")
        incoming.finish()
        if incoming.refusal is not None or incoming.path is None:
            return _answer(*(incoming.refusal or (0xC000, "no data set")))
        receipt = intake.accept(incoming.path, via="dimse", peer=str(event.assoc.requestor.ae_title).strip())
        if receipt.outcome is Outcome.REFUSED:
            # The reason stays here: it may name files, and comments are shown to people elsewhere.
            return _answer(0xA900, f"refused, job {receipt.job}")
        return _answer(0x0000)
    except Exception as error:  # noqa: BLE001 - whatever happened, the sender gets an answer
        return _answer(*failure_status(error))
    finally:
        if isinstance(incoming, Incoming):
            incoming.discard()


def _answer(status: int, comment: str = "") -> Dataset:
    answer = Dataset()
    answer.Status = status
    if comment:
        answer.ErrorComment = comment[:_COMMENT]
        _LOG.warning("C-STORE answered 0x%04X: %s", status, comment)
    return answer
