"""Real ultrasound files, and senders of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_store
from pydicom import examples
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
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
