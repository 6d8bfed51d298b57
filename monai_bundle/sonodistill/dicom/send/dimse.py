"""Results to a PACS by C-STORE (PS3.4 annex B)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID
from pynetdicom import AE, _config, evt
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import build_context

from sonodistill.dicom.errors import DeliveryError, RefusedDeliveryError
from sonodistill.dicom.settings import DestinationSettings
from sonodistill.dicom.tls import client_context

if TYPE_CHECKING:
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_LOG = logging.getLogger(__name__)
_NOT_SUPPORTED = 0x0122
_REASONS = {
    (1, 3): "it does not know our AE title",
    (1, 7): "it is not called by that AE title",
    (3, 1): "it is congested",
    (3, 2): "it has as many associations as it allows",
}
"""Why an association is rejected (PS3.8 table 9-21), by source and reason."""


class DimseDestination:
    """A Storage SCP.

    Files are sent byte for byte in their own transfer syntax, all of one call over one association.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        self.name = settings.name
        self._settings = settings
        self._tls = None if settings.tls is None else (client_context(settings.tls), settings.host)

    def send(self, paths: Sequence[Path]) -> None:
        """Send DICOM files; 0x0000 and the warnings 0xBxxx are a success.

        Those that can be sent are, also where others are refused.

        Errors: DeliveryError (no connection, association rejected or aborted, no answer in time, 0xA7xx and every
            status that is not known to be final; also a caller it does not know, since somebody will tell it) and
            RefusedDeliveryError (no DICOM file, SOP class or transfer syntax not accepted, 0x0122, 0xA9xx, 0xCxxx).
        """
        files = [_read(path) for path in paths]
        if not files:
            return
        association = self._associate(files)
        try:
            refused = [problem for file in files if (problem := self._store(association, file))]
        finally:
            if association.is_established:
                association.release()
        if refused:
            raise refused[0]

    def close(self) -> None:
        """Nothing is kept open."""

    def _associate(self, files: list[_File]) -> Association:
        settings = self._settings
        # The file as it is, not decoded and encoded again; pynetdicom has no parameter for it.
        _config.STORE_SEND_CHUNKED_DATASET = True
        ae = AE(settings.calling_ae_title)
        ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = settings.timeout_seconds
        try:
            association = ae.associate(
                settings.host,
                settings.port,
                contexts=[build_context(*each) for each in dict.fromkeys((file.kind, file.syntax) for file in files)],
                ae_title=settings.ae_title,
                tls_args=self._tls,
                evt_handlers=[(evt.EVT_CONN_OPEN, _limit_waiting, [settings.timeout_seconds])],
            )
        except (OSError, RuntimeError) as error:  # a host name that does not resolve
            raise DeliveryError(f"{self.name}: no connection ({type(error).__name__})") from error
        if association.is_established:
            return association
        if association.is_rejected:
            answer = cast(A_ASSOCIATE, association.acceptor.primitive)
            found = (answer.result_source or 0, answer.diagnostic or 0)
            raise DeliveryError(f"{self.name}: association rejected, {_REASONS.get(found, f'reason {found}')}")
        if association.rejected_contexts:
            raise RefusedDeliveryError(f"{self.name}: takes none of {', '.join(sorted({f.text for f in files}))}")
        raise DeliveryError(f"{self.name}: no association with {settings.ae_title} at {settings.host}:{settings.port}")

    def _store(self, association: Association, file: _File) -> RefusedDeliveryError | None:
        accepted = {(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in association.accepted_contexts}
        if (file.kind, file.syntax) not in accepted:
            return RefusedDeliveryError(f"{self.name}: does not take {file.text}", path=file.path)
        try:
            answer = association.send_c_store(file.path)
        except (OSError, RuntimeError, ValueError, AttributeError) as error:
            raise DeliveryError(f"{self.name}: not sent ({type(error).__name__})", path=file.path) from error
        # Without a status there was no answer: a PACS that does not know the caller hangs up.
        status = answer.get("Status")
        if status is None:
            raise DeliveryError(f"{self.name}: no answer to a C-STORE", path=file.path)
        if status == 0 or status >> 12 == 0xB:
            if status:
                _LOG.warning("%s: took a file with warning 0x%04X", self.name, status)
            return None
        message = f"{self.name}: answered 0x{status:04X}"
        if status == _NOT_SUPPORTED or status >> 8 == 0xA9 or status >> 12 == 0xC:
            return RefusedDeliveryError(message, path=file.path)
        raise DeliveryError(message, path=file.path)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    kind: str
    syntax: str

    @property
    def text(self) -> str:
        return f"{UID(self.kind).name} in {UID(self.syntax).name}"


def _read(path: Path) -> _File:
    try:
        meta = read_file_meta_info(path)
        return _File(path, str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
    except (OSError, InvalidDicomError, ValueError, AttributeError) as error:
        raise RefusedDeliveryError(f"no DICOM file ({type(error).__name__})", path=path) from None


def _limit_waiting(event: Event, seconds: float) -> None:
    """pynetdicom lets a connected socket wait for ever; a peer that stops reading would hold the sender."""
    cast(Any, event.assoc.dul.socket).socket.settimeout(seconds)
