"""The data set of a C-STORE, on its way into a file."""

from __future__ import annotations

import contextlib
import errno
import logging
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydicom.uid import UID
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from sonodistill.dicom.errors import NoRoomError
from sonodistill.dicom.service.intake import Intake
from sonodistill.dicom.source import is_uid

if TYPE_CHECKING:
    from pynetdicom.association import Association

_LOG = logging.getLogger(__name__)
_BUFFER = 1 << 20
_FINAL = (0xC000, 0xA900, 0x0122)
"""Statuses after which a sender does not come again."""


class Incoming(BytesIO):
    """The data set of a C-STORE-RQ, which goes to a file of the intake as it arrives.

    pynetdicom would collect it in memory; its own way to a file (STORE_RECV_CHUNKED_DATASET) writes to the system's
    temporary folder, without a bound, and leaves the file there when the sender hangs up.

    Attributes:
        path: the file; None before the first byte, and where there is a ``refusal``.
        refusal: (status, comment) to answer with.
    """

    def __init__(self, message: DIMSEMessage, association: Association, intake: Intake, limit: int) -> None:
        super().__init__()
        self.path: Path | None = None
        self.refusal: tuple[int, str] | None = None
        self._message, self._association, self._intake, self._limit = message, association, intake, limit
        self._entered: AbstractContextManager[Path] | None = None
        self._file: BinaryIO | None = None
        self._bytes = 0

    def write(self, data: Any) -> int:
        """Append; what cannot be kept is counted and dropped, so that the sender gets an answer."""
        self._bytes += len(data)
        if self.refusal is None:
            try:
                if self._file is None:
                    self._open()
                if self._bytes > self._limit:
                    self._refuse(0xC000, "larger than the limit")
                elif self._file is not None:
                    self._file.write(data)
            except Exception as error:  # noqa: BLE001 - an exception would end the thread that reads the connection
                self._refuse(*failure_status(error))
        return len(data)

    def finish(self) -> None:
        """Everything is in the file."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._refuse(*failure_status(error))
            self._file = None

    def discard(self) -> None:
        """Remove the file, unless the intake has taken it, and take no more; more than once is harmless."""
        self.refusal = self.refusal or (0xC001, "incomplete")
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if self._entered is not None:
            entered, self._entered = self._entered, None
            entered.__exit__(None, None, None)
        self.path = None

    def _open(self) -> None:
        command = self._message.command_set
        instance, kind = str(command.get("AffectedSOPInstanceUID", "")), str(command.get("AffectedSOPClassUID", ""))
        contexts = {each.context_id: each for each in self._association.accepted_contexts}
        context = contexts.get(self._message.context_id)
        if not is_uid(instance):
            return self._refuse(0xA900, "malformed SOP Instance UID")
        if context is None or kind != context.abstract_syntax:
            return self._refuse(0x0122, "SOP class differs from the presentation context")
        if not self._intake.has_room():
            return self._refuse(0xA700, "no room")
        self._entered = self._intake.incoming()
        self.path = self._entered.__enter__()
        self._file = self.path.open("wb", buffering=_BUFFER)
        meta = create_file_meta(
            sop_class_uid=UID(kind), sop_instance_uid=UID(instance), transfer_syntax=context.transfer_syntax[0]
        )
        self._file.write(b"\0" * 128 + b"DICM" + encode_file_meta(meta))

    def _refuse(self, status: int, comment: str) -> None:
        self.refusal = (status, comment)
        self.discard()
        if status in _FINAL:
            self._intake.turn_away(comment, via="dimse", peer=str(self._association.requestor.ae_title).strip())


def failure_status(error: BaseException) -> tuple[int, str]:
    """(status, comment) for a C-STORE that failed: 0xA700 where the disk is full, else 0xC001."""
    if isinstance(error, NoRoomError) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return 0xA700, "no room"
    _LOG.error("an instance could not be taken: %s", type(error).__name__)
    return 0xC001, "internal error"
