"""What every result object says alike: whose it is, what made it, and that it is for research."""

from __future__ import annotations

import json
import re
import textwrap
from copy import deepcopy
from datetime import datetime, timedelta, timezone
from pathlib import Path

from pydicom import config
from pydicom.charset import python_encoding
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pydicom.valuerep import validate_value

from sonodistill.dicom.algorithm import Algorithm, Code
from sonodistill.dicom.findings import Findings
from sonodistill.dicom.source import Source, is_uid
from sonodistill.dicom.write.aspect import aspect_ratio
from sonodistill.dicom.write.lossy import copy_lossy
from sonodistill.dicom.write.modules import IDENTIFYING, NEVER_EMPTY, PATIENT_AND_STUDY, REQUIRED
from sonodistill.files import atomic_path

LABEL_MAP = UID("1.2.840.10008.5.1.4.1.1.66.7")
"""Label Map Segmentation Storage, which pydicom does not name yet."""

MANUFACTURER = "SonoDistill"
RESEARCH_USE = "research use, not for clinical use"
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")

# Series Number (0020,0011), Modality (0008,0060) and what the series shows, by kind of result.
KINDS = {
    "seg": (9001, "SEG", "segments"),
    "seg-fractional": (9002, "SEG", "probabilities"),
    "seg-labelmap": (9003, "SEG", "label map"),
    "sr": (9004, "SR", "measures"),
    "gsps": (9005, "PR", "outlines"),
    "sc": (9006, "OT", "preview"),
}

_LO, _SH, _ST, _LT = 64, 16, 1024, 10240  # characters a value may have, PS3.5 table 6.2-1
_SEGMENTATIONS = frozenset({SegmentationStorage, LABEL_MAP})
_PICTURES = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    }
)
_OLD_SEPARATORS = {"DA": ".", "TM": ":"}
_TEXT_VRS = frozenset(["AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UT"])


def base_dataset(findings: Findings, sop_class: str, kind: str) -> Dataset:
    """A new object of a SOP class, stamped: only its own modules are missing.

    Args:
        findings: what it will tell of.
        sop_class: SOP Class UID.
        kind: a key of ``KINDS``.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = sop_class
    stamp(ds, findings, kind)
    return ds


@config.disable_value_validation()  # pydicom's warnings quote values, and these are the patient's
def stamp(ds: Dataset, findings: Findings, kind: str) -> None:
    """Write whose the object is, what made it and from what; replaces what is there. Safe to repeat.

    The Patient, General Study and Patient Study modules are the source's (PS3.3 C.7.1.1, C.7.2.1, C.7.2.2), and nothing
    else of it but its character set, time zone, InstanceNumber and what its lossy compression lost. Identifiers are
    those of ``Algorithm.uid``: the same findings give the same object but for its dates.

    Args:
        ds: of ours, or of highdicom; has its SOPClassUID.
        findings: what it tells of.
        kind: a key of ``KINDS``.
    """
    source, algorithm = findings.source, findings.algorithm
    _set_character_set(ds, findings)
    for element in subject(source):
        ds.add(element)
    number, modality, shows = KINDS[kind]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(algorithm.uid(kind, source))
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.SeriesInstanceUID = algorithm.series_uid(kind, source)
    ds.SeriesNumber, ds.Modality = number, modality
    ds.InstanceNumber = instance_number(source)
    by = "AI " if algorithm.kind == "AUTOMATIC" else ""
    room = _LO - len(f"{by} {shows}, {RESEARCH_USE}")
    ds.SeriesDescription = f"{by}{clean(algorithm.name, room)} {shows}, {RESEARCH_USE}"
    _stamp_equipment(ds, algorithm)
    _stamp_times(ds, findings, kind)
    _stamp_image(ds, source)


def subject(source: Source) -> Dataset:
    """The Patient, General Study and Patient Study modules of the source, without private attributes.

    A value that breaks the rules of its VR is left out, or left empty where every object has the attribute; the names
    and numbers that receivers match by are kept as they are.
    """
    copied = Dataset()
    with config.disable_value_validation():
        for keyword in PATIENT_AND_STUDY:
            element = _element(source.ds, keyword)
            if element is not None and element.VR in _OLD_SEPARATORS:
                # ACR-NEMA wrote 1997.04.24 and 14:04:38, which PS3.5 6.2 lets readers understand and nobody write.
                element.value = str(element.value or "").replace(_OLD_SEPARATORS[element.VR], "")
            if element is not None and (_is_valid(element) or keyword in IDENTIFYING):
                copied.add(element)
            elif keyword in REQUIRED:
                setattr(copied, keyword, None)
    return copied


@config.disable_value_validation()
def evidence(findings: Findings) -> Dataset:
    """The source as highdicom's constructors take it, without the patient, whose name their warnings quote.

    What they make of it has to be stamped, which puts the patient in.
    """
    source = findings.source
    ds = Dataset()
    for keyword in REQUIRED:
        setattr(ds, keyword, None)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.StudyInstanceUID, ds.SeriesInstanceUID = source.study_uid, source.series_uid
    ds.SOPClassUID, ds.SOPInstanceUID = source.sop_class, source.sop_uid
    ds.Modality, ds.InstanceNumber = "US", instance_number(source)
    ds.Rows, ds.Columns = source.rows, source.columns
    if source.multiframe:
        ds.NumberOfFrames = source.frames
    copy_lossy(ds, source)
    return ds


def write_file(ds: Dataset, path: str | Path) -> None:
    """Write as a file of PS3.10, atomically; Explicit VR Little Endian unless its pixels are compressed.

    Errors: OSError.
    """
    if "TransferSyntaxUID" not in ds.file_meta or not ds.file_meta.TransferSyntaxUID.is_compressed:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with atomic_path(path) as temporary, config.disable_value_validation():
        ds.save_as(temporary, enforce_file_format=True)


def codes(code: Code) -> Dataset:
    """An item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    # More than 16 characters do not fit into Code Value (0008,0100).
    setattr(item, "CodeValue" if len(code.value) <= _SH else "LongCodeValue", code.value)
    item.CodingSchemeDesignator = clean(code.scheme, _SH)
    item.CodeMeaning = clean(code.meaning)
    return item


def algorithm_identification(algorithm: Algorithm) -> Dataset:
    """An item of an algorithm identification sequence (PS3.3 table 10-19)."""
    item = Dataset()
    item.AlgorithmFamilyCodeSequence = [codes(ARTIFICIAL_INTELLIGENCE)]
    item.AlgorithmName = clean(algorithm.name)
    item.AlgorithmVersion = clean(algorithm.version)
    settings = json.dumps(dict(algorithm.settings), sort_keys=True)
    weights = f"weights_sha256={algorithm.weights_sha256}," if algorithm.weights_sha256 else ""
    item.AlgorithmParameters = f"{weights}config_sha256={algorithm.config_sha256},settings={settings}"[:_LT]
    item.AlgorithmSource = MANUFACTURER
    return item


def clean(text: str, length: int = _LO) -> str:
    """The text as one value of an attribute: no backslash or control character, ``length`` characters at most."""
    return re.sub(r"[\x00-\x1f\x7f\\]", " ", text).strip()[:length].strip()


def instance_number(source: Source) -> int:
    """Instance Number (0020,0013) of the source; 1 where it has none that can be used."""
    try:
        number = int(source.ds.get("InstanceNumber") or 1)
    except (TypeError, ValueError, OverflowError):
        return 1
    return number if 1 <= number < 1 << 31 else 1


def _element(ds: Dataset, keyword: str) -> DataElement | None:
    try:
        element = deepcopy(ds[keyword]) if keyword in ds else None
        if element is not None and element.VR == "SQ":
            for item in element.value:
                item.remove_private_tags()
    except Exception:  # noqa: BLE001 - a value that cannot be read at all; pydicom raises whatever it provokes
        return None
    return element


def _is_valid(element: DataElement) -> bool:
    if element.is_empty:
        return element.keyword not in NEVER_EMPTY
    if element.VR not in _TEXT_VRS:
        return True
    try:
        for value in element.value if element.VM > 1 else [element.value]:
            validate_value(element.VR, value, config.RAISE)
    except Exception:  # noqa: BLE001 - the message quotes the value
        return False
    return True


def _set_character_set(ds: Dataset, findings: Findings) -> None:
    """The source's, so that names keep their bytes; UTF-8 where it is unknown, or may not hold our texts."""
    algorithm = findings.algorithm
    ours = [algorithm.name, algorithm.version, algorithm.licence, *algorithm.software, *algorithm.people]
    for segment in algorithm.segments:
        ours += [segment.label, segment.category.meaning, segment.type.meaning]
        ours += [segment.anatomy.meaning] if segment.anatomy else []
    stated = findings.source.ds.get("SpecificCharacterSet") or ""
    names = [stated] if isinstance(stated, str) else [str(each or "") for each in stated]
    if not all(text.isascii() for text in ours) or not all(each in python_encoding for each in names):
        names = ["ISO_IR 192"]
    ds.pop("SpecificCharacterSet", None)
    if any(names):  # without one, the values are ASCII
        ds.SpecificCharacterSet = names if len(names) > 1 else names[0]


def _stamp_equipment(ds: Dataset, algorithm: Algorithm) -> None:
    """General Equipment (PS3.3 C.7.5.1) and the SOP Common module's account of it (C.12.1.1.5)."""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = clean(algorithm.name)
    ds.SoftwareVersions = [clean(each) for each in algorithm.software] or clean(algorithm.version)
    ds.DeviceSerialNumber = algorithm.serial
    about = f"Configuration SHA-256 {algorithm.config_sha256}. {RESEARCH_USE.capitalize()}. {algorithm.licence}"
    if algorithm.weights_sha256:
        about = f"Weights SHA-256 {algorithm.weights_sha256}. {about}"
    if algorithm.people:
        about = f"Segmented by {clean(', '.join(algorithm.people), _ST)}. {about}"
    ds.ContributingEquipmentSequence = []
    for text in textwrap.wrap(about, _ST):  # a long notice of a licence is continued in a further item
        item = Dataset()
        item.Manufacturer, item.ManufacturerModelName = ds.Manufacturer, ds.ManufacturerModelName
        item.DeviceSerialNumber, item.SoftwareVersions = ds.DeviceSerialNumber, ds.SoftwareVersions
        item.ContributionDescription = text
        item.PurposeOfReferenceCodeSequence = [codes(PROCESSING_EQUIPMENT)]
        ds.ContributingEquipmentSequence.append(item)


def _stamp_times(ds: Dataset, findings: Findings, kind: str) -> None:
    """Dates of the making, in the source's time zone where it states one, else in local time."""
    offset = str(findings.source.ds.get("TimezoneOffsetFromUTC") or "")
    now = datetime.now().astimezone()
    ds.pop("TimezoneOffsetFromUTC", None)
    if re.fullmatch(r"[+-](0\d|1[0-4])[0-5]\d", offset):
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        now = now.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))
        ds.TimezoneOffsetFromUTC = offset
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S.%f")
    ds.InstanceCreationDate, ds.InstanceCreationTime = date, time
    if kind == "gsps":
        ds.PresentationCreationDate, ds.PresentationCreationTime = date, time
    else:
        ds.ContentDate, ds.ContentTime = date, time
    for item in ds.ContributingEquipmentSequence:
        item.ContributionDateTime = now.strftime("%Y%m%d%H%M%S.%f%z")


def _stamp_image(ds: Dataset, source: Source) -> None:
    ds.pop("Laterality", None)
    space = str(source.ds.get("FrameOfReferenceUID") or "")
    if ds.SOPClassUID in _SEGMENTATIONS and is_uid(space):  # one that the source has is kept (PS3.3 A.51.1)
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = space, None
    if ds.SOPClassUID in _PICTURES or ds.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage:
        ds.Laterality = None  # type 2C: unknown, of a body part that may be paired
    if ds.SOPClassUID in _SEGMENTATIONS or ds.SOPClassUID in _PICTURES:
        ds.PatientOrientation = None
        # A picture repeats the source's pixels, where text is found in spite of what its own attribute says.
        ds.BurnedInAnnotation = "NO" if ds.SOPClassUID in _SEGMENTATIONS else "YES"
        if ratio := aspect_ratio(source):
            ds.PixelAspectRatio = ratio
        copy_lossy(ds, source)
