"""One DICOM instance as the PACS side sees it: who and what it is, in its own words, without its pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pydicom import config, dcmread
from pydicom.dataset import FileDataset

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.files import sha256
from sonodistill.frames.dicom import check_dicom

US_IMAGE = "1.2.840.10008.5.1.4.1.1.6.1"
US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"
ULTRASOUND_CLASSES = frozenset({US_IMAGE, US_MULTIFRAME, "1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.1.1.3"})
"""Ultrasound image and multi-frame storage, and their retired forms of 1993."""

_UID = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_LONGEST_HELD = 1 << 12
"""Bytes of a value that stays in memory: scanners keep hundreds of megabytes of raw data before the pixels. Longer ones
are read when they are asked for."""
_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True, slots=True)
class Source:
    """An ultrasound instance that passed every check that needs no decoding.

    Attributes:
        path: the file.
        ds: all of its attributes but the pixel data, the patient's among them; long values are read from the file when
            they are asked for.
        sha256: of the file, hex.
        frames, rows, columns: of the image.
        multiframe: whether a reference to it has to name the frame: its class is one of multi-frame images, be there
            one frame, or it has several although its class has not.
    """

    path: Path
    ds: FileDataset
    sha256: str
    frames: int
    rows: int
    columns: int
    multiframe: bool

    @property
    def study_uid(self) -> str:
        return str(self.ds.StudyInstanceUID)

    @property
    def series_uid(self) -> str:
        return str(self.ds.SeriesInstanceUID)

    @property
    def sop_uid(self) -> str:
        return str(self.ds.SOPInstanceUID)

    @property
    def sop_class(self) -> str:
        return str(self.ds.SOPClassUID)


def read_source(path: str | Path) -> Source:
    """The instance in a file.

    Errors: UnreadableFileError (not DICOM, damaged, an identifier that is missing or malformed) and
        UnsupportedFormatError (not ultrasound, or a kind of ultrasound that is not read).
    """
    path = Path(path)
    header = check_dicom(path)
    try:
        # Values are not validated: pydicom's warnings quote them, and they may be the patient's.
        with config.disable_value_validation():
            ds = dcmread(path, stop_before_pixels=True, defer_size=_LONGEST_HELD)
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise UnreadableFileError(f"the DICOM header is malformed ({type(error).__name__})", path=path) from None
    for keyword in _IDENTIFIERS:
        if not is_uid(str(ds.get(keyword) or "")):
            raise UnreadableFileError(f"its {keyword} is missing or malformed", path=path)
    if str(ds.SOPClassUID) not in ULTRASOUND_CLASSES:
        raise UnsupportedFormatError(f"{ds.SOPClassUID.name} is no ultrasound image", path=path)
    multiframe = str(ds.SOPClassUID).startswith("1.2.840.10008.5.1.4.1.1.3") or header.frames > 1
    return Source(path, ds, sha256(path), header.frames, header.rows, header.columns, multiframe)


def is_uid(text: str) -> bool:
    """Whether it is a UID of PS3.5 chapter 9: digits in components without leading zeros, 64 characters at most."""
    return _UID.fullmatch(text) is not None
