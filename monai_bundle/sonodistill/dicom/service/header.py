"""Who a file says it is, from its first bytes: enough to queue it, or to refuse it at the door."""

from __future__ import annotations

import io
from dataclasses import dataclass

from pydicom import config
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from sonodistill.dicom.source import ULTRASOUND_CLASSES, is_uid
from sonodistill.errors import SonoDistillError, UnreadableFileError, UnsupportedFormatError

HEAD_BYTES = 2 << 20
"""So many bytes of a file are looked at; the identifiers lie in groups 0008 and 0020, before any pixels."""

_TRANSFER_SYNTAX = 0x00020010
_KEYWORDS = {
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
}
_LAST = max(_KEYWORDS.values())


@dataclass(frozen=True, slots=True)
class Identity:
    """The identifiers of an instance, all well-formed."""

    sop_class: str
    sop_uid: str
    study_uid: str


def identify(head: bytes) -> Identity:
    """The identity of the DICOM file (PS3.10) that begins with these bytes.

    Errors: UnreadableFileError (no DICOM file, malformed, an identifier missing or not one) and UnsupportedFormatError
        (a compressed header). No message holds a value of the file.
    """
    try:
        with config.disable_value_validation():
            found = _identifiers(io.BytesIO(head))
    except SonoDistillError:
        raise
    except InvalidDicomError:
        raise UnreadableFileError("not a DICOM file (it has no DICOM preamble)") from None
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise UnreadableFileError(f"the DICOM header is malformed ({type(error).__name__})") from None
    for keyword, text in found.items():
        if not is_uid(text):
            raise UnreadableFileError(f"its {keyword} is missing or malformed")
    return Identity(found["SOPClassUID"], found["SOPInstanceUID"], found["StudyInstanceUID"])


def check_class(who: Identity) -> None:
    """Refuse what is no ultrasound image, such as our own results when they come back.

    Errors: UnsupportedFormatError.
    """
    if who.sop_class not in ULTRASOUND_CLASSES:
        raise UnsupportedFormatError("its SOP class is no ultrasound image")


def _identifiers(file: io.BytesIO) -> dict[str, str]:
    read_preamble(file, force=False)
    meta = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag > 0x0002FFFF,
        specific_tags=[_TRANSFER_SYNTAX],
    )
    syntax = UID(str(meta.get("TransferSyntaxUID") or ""), validation_mode=config.IGNORE)
    if not is_uid(syntax):
        raise UnreadableFileError("the file meta information states no valid transfer syntax")
    if syntax == DeflatedExplicitVRLittleEndian:  # a few bytes may become any number
        raise UnsupportedFormatError("the transfer syntax Deflated Explicit VR Little Endian is not read")
    known = syntax.is_transfer_syntax and not syntax.is_private
    ds = read_dataset(
        file,
        is_implicit_VR=known and syntax.is_implicit_VR,
        is_little_endian=not known or syntax.is_little_endian,
        stop_when=lambda tag, _vr, _length: tag > _LAST,
        specific_tags=list(_KEYWORDS.values()),
    )
    return {keyword: str(ds.get(keyword) or "") for keyword in _KEYWORDS}
