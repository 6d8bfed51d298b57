"""Real ultrasound files, and senders of them."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_store
from pydicom import examples
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.events import Event
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification
from scp_server import CALLED, CALLER

DATA = Path(data_store.__file__).parent / "data"
STILL = DATA / "US1_J2KR.dcm"
SYNTAXES = {
    "implicit little endian": DATA / "gdcm-US-ALOKA-16.dcm",
    "explicit little endian": DATA / "US1_UNCI.dcm",
    "explicit big endian": DATA / "OBXXXX1A_expb.dcm",
    "RLE": DATA / "OBXXXX1A_rle_2frame.dcm",
    "JPEG baseline": Path(examples.get_path("ybr_color")),
    "JPEG lossless": DATA / "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "JPEG 2000 lossless": STILL,
    "JPEG 2000": DATA / "US1_J2KI.dcm",
}


def associate(port: int, *files: Path, caller: str = CALLER, called: str = CALLED, **options: Any) -> Association:
    ae = AE(caller)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 20
    kinds = {(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) for meta, _ in map(split_dataset, files)}
    contexts = [build_context(Verification), *(build_context(*each) for each in kinds)]
    return ae.associate("127.0.0.1", port, contexts=contexts, ae_title=called, **options)


def store(port: int, *files: Path, **options: Any) -> list[Dataset]:
    """The answers to the C-STOREs of one association."""
    association = associate(port, *files, **options)
    assert association.is_established
    try:
        return [association.send_c_store(file) for file in files]
    finally:
        association.release()


def echoes(port: int) -> bool:
    association = associate(port)
    if not association.is_established:
        return False
    status = association.send_c_echo().get("Status")
    association.release()
    return status == 0


def eventually(holds: Callable[[], bool], seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def data_set(file: Path) -> bytes:
    return file.read_bytes()[split_dataset(file)[1] :]


def send_raw(association: Association, data: bytes, *, uid: str, kind: str = "", whole: bool = True) -> None:
    """A C-STORE-RQ of any data set under any identifiers; its last fragment is left out unless it is to be whole."""
    (context,) = (each for each in association.accepted_contexts if each.abstract_syntax != Verification)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = kind or context.abstract_syntax
    request.AffectedSOPInstanceUID = uid
    request.DataSet = io.BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    parts = list(message.encode_msg(context.context_id, 16384))
    for part in parts if whole else parts[:-1]:
        association.dul.send_pdu(part)


def raw_answer(port: int, *, uid: str, kind: str = "") -> int:
    """The status of a C-STORE of the still under other identifiers; 0xFFFF when the association ends instead."""
    statuses: list[int] = []

    def received(event: Event) -> None:
        statuses.append(event.message.command_set.Status)

    association = associate(port, STILL, evt_handlers=[(evt.EVT_DIMSE_RECV, received)])
    send_raw(association, data_set(STILL), uid=uid, kind=kind)
    assert eventually(lambda: bool(statuses) or not association.is_established)
    association.abort()
    return statuses[0] if statuses else 0xFFFF


def request_pdu(length: int) -> bytes:
    """The start of an A-ASSOCIATE-RQ that states a length."""
    return struct.pack(">BBL", 1, 0, length)
