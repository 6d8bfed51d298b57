"""Read a result back from its file, before it leaves, and refuse one that does not say what was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings
from sonodistill.dicom.write.common import KINDS, LABEL_MAP, subject
from sonodistill.dicom.write.encoded import flat, in_first, items_of
from sonodistill.dicom.write.modules import PATIENT_AND_STUDY

_SUBJECT = ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")
_SEGMENTATION_KINDS = ("seg", "seg-fractional", "seg-labelmap")
_ALL = 0  # in place of a segment's number: a frame of a label map shows every segment

_CLASS, _UID, _FRAMES = Tag("ReferencedSOPClassUID"), Tag("ReferencedSOPInstanceUID"), Tag("ReferencedFrameNumber")
_SOP = "ReferencedSOPClassUID", "ReferencedSOPInstanceUID"
_SOURCE_IMAGE = "DerivationImageSequence", "SourceImageSequence"
_COPIED = {Tag(keyword) for keyword in PATIENT_AND_STUDY}

_Places = dict[tuple[int, int], int]


class _Reference(NamedTuple):
    uid: str
    sop_class: str
    frames: tuple[int, ...]


def check_segmentation(path: str | Path, findings: Findings) -> None:
    """Refuse a segmentation that is not of the source's patient, or whose masks are not what was found, bit for bit.

    Args:
        path: of a file that holds what ``segmentation`` made, of whichever kind.
        findings: what it has to say.

    Errors: ResultError.
    """
    path = Path(path)
    ds = _read(path)
    _check_identity(ds, findings, _SEGMENTATION_KINDS, path)
    try:
        difference = _difference(ds, findings)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        difference = f"it lacks what makes a segmentation ({type(error).__name__})"
    if difference:
        raise ResultError(difference, path=path)


def check_references(path: str | Path, findings: Findings) -> None:
    """Refuse a result of any kind that is not of the source's patient, or refers to what is not its source or a result.

    Errors: ResultError.
    """
    path = Path(path)
    ds = _read(path)
    _check_identity(ds, findings, tuple(KINDS), path)
    source, algorithm = findings.source, findings.algorithm
    results = {algorithm.uid(kind, source) for kind in KINDS}
    referred = set()
    try:
        for referenced in _references(ds):
            referred.add(referenced.uid)
            if referenced.uid == source.sop_uid:
                _check_source(referenced, findings, path)
            elif referenced.uid not in results:
                raise ResultError("it refers to an object that is neither its source nor a result", path=path)
    except ValueError as error:
        raise ResultError(f"it is not encoded as it should be: {error}", path=path) from None
    if source.sop_uid not in referred:
        raise ResultError("it does not refer to its source", path=path)


def _read(path: Path) -> FileDataset:
    try:
        with config.disable_value_validation():
            return dcmread(path)
    except Exception as error:  # noqa: BLE001 - whatever pydicom raises for what was written
        raise ResultError(f"it cannot be read back ({type(error).__name__})", path=path) from None


def _check_identity(ds: FileDataset, findings: Findings, kinds: tuple[str, ...], path: Path) -> None:
    source, algorithm = findings.source, findings.algorithm
    expected = subject(source)
    with config.disable_value_validation():
        wrong = [name for name in _SUBJECT if str(ds.get(name) or "") != str(expected.get(name) or "")]
    if wrong:
        raise ResultError(f"its {', '.join(wrong)} is not the source's", path=path)
    uids = {(algorithm.uid(kind, source), algorithm.series_uid(kind, source)) for kind in kinds}
    if (ds.get("SOPInstanceUID"), ds.get("SeriesInstanceUID")) not in uids:
        raise ResultError("its identifiers are not those of a result of these findings", path=path)
    if ds.file_meta.get("MediaStorageSOPInstanceUID") != ds.SOPInstanceUID:
        raise ResultError("the identifier of the file is not that of the object", path=path)


def _check_source(referenced: _Reference, findings: Findings, path: Path) -> None:
    """A reference to the source: by its class, and by frames it has where it has several."""
    source = findings.source
    if referenced.sop_class != source.sop_class:
        raise ResultError("it gives its source another SOP class", path=path)
    numbers = referenced.frames
    if numbers and not (source.multiframe and all(1 <= each <= source.frames for each in numbers)):
        raise ResultError(f"it refers to a frame its source does not have: {numbers[:8]}", path=path)


def _references(ds: Dataset) -> Iterator[_Reference]:
    """All that items refer to, but those of the source's Patient and Study modules."""
    for tag in ds.keys() - _COPIED:
        if ds.get_item(tag).VR != "SQ":
            continue
        for each in flat(items_of(ds, tag)):
            if uid := each.get(_UID):
                frames = tuple(int(part) for part in each[_FRAMES].split(b"\\")) if each.get(_FRAMES) else ()
                yield _Reference(_uid(uid), _uid(each.get(_CLASS, b"")), frames)


def _uid(value: bytes) -> str:
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _difference(ds: Dataset, findings: Findings) -> str | None:
    """What a segmentation says that was not found."""
    segments, rows, columns = findings.masks.shape
    kind, labelmap = str(ds.SegmentationType), ds.SegmentationType == "LABELMAP"
    if ds.SOPClassUID != (LABEL_MAP if labelmap else SegmentationStorage) or (ds.Rows, ds.Columns) != (rows, columns):
        return f"it is a {kind} segmentation of {ds.Rows} x {ds.Columns} in the wrong SOP class, or of the wrong size"
    described = [int(item.SegmentNumber) for item in ds.SegmentSequence]
    if described != list(range(0 if labelmap else 1, segments + 1)):
        return f"it describes the segments {described}"
    places = _places(ds, findings)
    numbers = [_ALL] if labelmap else range(1, segments + 1)
    if set(places) != {(number, frame + 1) for number in numbers for frame in findings.shown}:
        return "its frames are not those of the source, each once in each segment"
    bits = 1 if kind == "BINARY" else 8
    size = (len(places) * rows * columns * bits + 7) // 8
    if ds.BitsAllocated != bits or len(ds.PixelData) != size + size % 2:
        return f"it has {len(ds.PixelData)} bytes of pixels"
    pixels = np.frombuffer(ds.PixelData, np.uint8)
    for index, frame in enumerate(each + 1 for each in findings.shown):
        for number, expected in _expected(kind, findings, index):
            if not np.array_equal(_frame(pixels, places[number, frame], rows * columns, bits), expected.ravel()):
                return f"frame {frame} of segment {number} is not what was found"
    return None


def _places(ds: Dataset, findings: Findings) -> _Places:
    """Index of each frame of the segmentation by the segment and the frame of the source it says it shows."""
    source, labelmap = findings.source, ds.SegmentationType == "LABELMAP"
    # highdicom shares what is alike in all frames, as it is in the only one.
    shared = items_of(ds, "SharedFunctionalGroupsSequence")[0]
    named = "SegmentIdentificationSequence", "ReferencedSegmentNumber"
    places: _Places = {}
    for index, item in enumerate(items_of(ds, "PerFrameFunctionalGroupsSequence")):
        said = tuple(_uid(in_first(item, *_SOURCE_IMAGE, keyword)) for keyword in _SOP)
        if said != (source.sop_class, source.sop_uid):
            raise ValueError("another source")
        segment = in_first(item, *named) or in_first(shared, *named)
        number = _ALL if labelmap else int.from_bytes(segment, "little")
        place = number, int(in_first(item, *_SOURCE_IMAGE, "ReferencedFrameNumber")) if source.multiframe else 1
        if place in places:
            raise ValueError("twice")
        places[place] = index
    if len(places) != int(ds.NumberOfFrames):
        raise ValueError("not all frames")
    return places


def _expected(kind: str, findings: Findings, index: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Number of the segment, and (H, W) uint8 of what its frame has to be, of the mask at ``index``."""
    masks = findings.masks
    if kind == "FRACTIONAL":
        yield from enumerate(masks.probability(index), 1)
    elif kind == "BINARY":
        yield from enumerate(masks[index].view(np.uint8), 1)
    else:
        labels = np.zeros(masks.shape[1:], np.uint8)
        for number, mask in enumerate(masks[index], 1):
            labels[mask] = number
        yield _ALL, labels


def _frame(pixels: NDArray[np.uint8], index: int, size: int, bits: int) -> NDArray[np.uint8]:
    """(size,) uint8 of a frame in Pixel Data."""
    start, stop = index * size * bits, (index + 1) * size * bits
    stored = pixels[start // 8 : (stop + 7) // 8]
    if bits == 8:
        return stored
    return np.unpackbits(stored, bitorder="little")[start % 8 : start % 8 + size]
