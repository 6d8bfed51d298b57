"""Labels of DICOM Segmentations, ours or another's, for the items that they refer to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, SegmentationStorage

from sonodistill.annotate.errors import AnnotationError, InvalidLabelError, TooLargeError
from sonodistill.annotate.exchange.records import Said, check_head, entries, said_in
from sonodistill.annotate.exchange.report import Skipped
from sonodistill.annotate.exchange.seg import FORM, PRIVATE_CREATOR, PRIVATE_ELEMENT, PRIVATE_GROUP
from sonodistill.annotate.exchange.taken import Entry
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import MODEL, Catalogue, Item, Status
from sonodistill.dicom.source import is_uid, read_source
from sonodistill.errors import SonoDistillError
from sonodistill.frames.bounds import MAX_PIXELS, MAX_SIDE

MAX_BYTES = 1 << 30
MAX_FRAMES = 100_000

_CLASSES = (SegmentationStorage, UID("1.2.840.10008.5.1.4.1.1.66.7"))  # and Label Map Segmentation Storage
_NATIVE = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_EVERY_SEGMENT = 0  # of a label map, whose frames hold all segments

_Place = tuple[str, int | None]
"""SOP Instance UID of the source and frame of it, from 1; None where the reference is to an instance as a whole."""


class Instances:
    """The DICOM items of a catalogue by their SOP Instance UID.

    An item of a PACS has it for its id. Of a file the header is read, when its series is asked for.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        items = [item for item in catalogue.items() if item.kind == "dicom"]
        self._found: dict[str, list[Item]] = {item.id: [item] for item in items if is_uid(item.id)}
        self._waiting = [item for item in items if not is_uid(item.id)]

    def of(self, uid: str, series: frozenset[str]) -> list[Item]:
        """The items with a UID that are of these series, or of any where none is named."""
        read = [item for item in self._waiting if not series or not item.series or item.series in series]
        done = {item.id for item in read}
        self._waiting = [item for item in self._waiting if item.id not in done]
        for item in read:
            try:
                source = read_source(self._catalogue.file(item))
            except SonoDistillError:  # it is no ultrasound, or gone: nothing refers to it that could be used
                continue
            self._found.setdefault(source.sop_uid, []).append(item)
        return self._found.get(uid, [])


@dataclass(frozen=True, slots=True)
class _Segmentation:
    """Attributes:
    shape: (H, W).
    names: of the segments.
    numbers: label number, index of the name from 1, by segment number.
    places: index of its frame by source frame and segment.
    said: of frames that it says no more of.
    """

    ds: Dataset
    shape: tuple[int, int]
    names: tuple[str, ...]
    numbers: dict[int, int]
    places: dict[_Place, dict[int, int]]
    bits: int
    said: Said


def read(path: Path, instances: Instances) -> Iterator[Entry | Skipped]:
    """The labels of a binary segmentation or a label map, stored without compression.

    Segments are labels by their names. A frame is labelled if the segmentation has a frame of it. What ours say besides
    is in a private attribute; without it a label has no status, annotator and class, or is a model's prediction where
    the segments are AUTOMATIC.

    Errors: InvalidLabelError, TooLargeError for a file that is none.
    """
    ds = _dataset(path)
    try:
        found = _segmentation(ds)
        series = frozenset(str(each.SeriesInstanceUID) for each in ds.get("ReferencedSeriesSequence") or ())
        records, item_id, names = _kept(ds)
    except AnnotationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever malformed values provoke
        raise InvalidLabelError(f"it lacks what makes a segmentation ({type(error).__name__})", path=path) from None
    # A segment's label lacks what DICOM cannot hold, the names that ours keep do not.
    names = names if len(names) == len(found.names) else found.names
    items: set[str] = set()
    for (uid, number), places in sorted(found.places.items(), key=lambda each: (each[0][0], each[0][1] or 0)):
        what = f"{path.name}, frame {number or 1} of {uid}"
        try:
            item = _item(instances.of(uid, series), item_id)
            items.add(item.id)
            if number is None and item.is_cine:
                raise InvalidLabelError("it does not say which frame of the cine it is of")
            frame = FrameId(item.id, (number or 1) - 1)
            what = str(frame)
            record = records.pop(frame.index, None) if item.id == item_id or len(items) == 1 else None
            said = said_in(record) if record else found.said
            yield Entry(what, what, _mask(found, places), names, said)
        except AnnotationError as error:
            yield Skipped(what, error.message)
    # What has no mask: skipped, or of a class.
    for index, record in records.items() if len(items) == 1 else ():
        what = f"{next(iter(items))}.f{index:05d}"
        try:
            if record.get("mask"):
                raise InvalidLabelError("the segmentation has lost its frame")
            yield Entry(what, what, None, names, said_in(record))
        except AnnotationError as error:
            yield Skipped(what, error.message)


def _dataset(path: Path) -> Dataset:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise TooLargeError(f"it has more than {MAX_BYTES >> 20} MB", path=path)
        # Looked at first: what is deflated or compressed may be as large as it likes.
        meta = read_file_meta_info(path)
        if meta.MediaStorageSOPClassUID not in _CLASSES:
            raise InvalidLabelError("it is no segmentation", path=path)
        if meta.TransferSyntaxUID not in _NATIVE:
            raise InvalidLabelError(
                "it is compressed, deflated or big-endian", path=path, remedy="store it as Explicit VR Little Endian"
            )
        with config.disable_value_validation():
            ds = dcmread(path)
    except AnnotationError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise InvalidLabelError(f"it cannot be read as DICOM ({type(error).__name__})", path=path) from None
    return ds


def _segmentation(ds: Dataset) -> _Segmentation:
    kind, rows, columns, frames = str(ds.SegmentationType), int(ds.Rows), int(ds.Columns), int(ds.NumberOfFrames)
    bits, labelmap = int(ds.BitsAllocated), kind == "LABELMAP"
    if kind not in ("BINARY", "LABELMAP") or bits not in ((8, 16) if labelmap else (1,)):
        raise InvalidLabelError(f"it is a {kind[:20]} segmentation of {bits} bits; binary ones and label maps are read")
    if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE and rows * columns <= MAX_PIXELS):
        raise InvalidLabelError(f"it is {rows} x {columns}")
    groups = ds.PerFrameFunctionalGroupsSequence
    if not 0 < frames <= MAX_FRAMES or len(groups) != frames:
        raise InvalidLabelError(f"it has {frames} frames, and describes {len(groups)}")
    if len(ds.PixelData) < (frames * rows * columns * bits + 7) // 8:
        raise InvalidLabelError(f"it has {len(ds.PixelData)} bytes of pixels, which are too few")
    # Segment 0 of a label map is the background.
    labels = {int(each.SegmentNumber): str(each.SegmentLabel) for each in ds.SegmentSequence}
    numbers = sorted(number for number in labels if number > 0)
    if len(numbers) > 255 or len(labels) != len(ds.SegmentSequence):
        raise InvalidLabelError("it has more than 255 segments, or two of one number")
    shared = ds.SharedFunctionalGroupsSequence[0] if ds.get("SharedFunctionalGroupsSequence") else Dataset()
    places: dict[_Place, dict[int, int]] = {}
    for index, group in enumerate(groups):
        segment = _EVERY_SEGMENT if labelmap else _segment_of(group, shared)
        if places.setdefault(_place(group, shared), {}).setdefault(segment, index) != index:
            raise InvalidLabelError("it has two frames of one segment for one frame of its source")
    names = tuple(labels[number] for number in numbers)
    if len(set(names)) < len(names):
        raise InvalidLabelError("it gives two segments one name")
    at = {number: place for place, number in enumerate(numbers, 1)}
    return _Segmentation(ds, (rows, columns), names, at, places, bits, _said(ds))


def _said(ds: Dataset) -> Said:
    """A prediction of a model where no person had a part in any segment."""
    if any(each.get("SegmentAlgorithmType") != "AUTOMATIC" for each in ds.SegmentSequence):
        return Said()
    name = str(ds.SegmentSequence[0].get("SegmentAlgorithmName") or "")
    return Said(Status.PREDICTED, MODEL, model=name if name.isascii() and name.isprintable() else "")


def _segment_of(group: Dataset, shared: Dataset) -> int:
    found = group.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
    return int(found[0].ReferencedSegmentNumber)


def _place(group: Dataset, shared: Dataset) -> _Place:
    derived = group.get("DerivationImageSequence") or shared.get("DerivationImageSequence")
    images = derived[0].get("SourceImageSequence") if derived else None
    if not images or len(images) != 1:
        raise InvalidLabelError("it does not say which frame of which image each of its frames lies on")
    number = images[0].get("ReferencedFrameNumber")
    if number is not None and (not isinstance(number, int) or number < 1):
        raise InvalidLabelError("one of its frames lies on no frame, or on several")
    return str(images[0].ReferencedSOPInstanceUID), None if number is None else int(number)


def _kept(ds: Dataset) -> tuple[dict[int, dict[str, Any]], str, tuple[str, ...]]:
    """(records by frame from 0, item, label names) of our private attribute; nothing where it is not there."""
    try:
        block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
        said = json.loads(block[PRIVATE_ELEMENT].value)
    except (KeyError, ValueError, TypeError, RecursionError):
        return {}, "", ()
    if not isinstance(said, dict):
        return {}, "", ()
    names = check_head(said, FORM)
    found = entries(said, "frames")
    records = {each["index"]: each for each in found if isinstance(each, dict) and type(each.get("index")) is int}
    if len(records) != len(found) or not all(0 <= index < MAX_FRAMES for index in records):
        raise InvalidLabelError("what it says of its frames is malformed")
    return records, str(said.get("item")), names


def _item(found: list[Item], preferred: str) -> Item:
    if not found:
        raise InvalidLabelError("the image that it refers to is not among the studies")
    named = [item for item in found if item.id == preferred]
    if len(found) > 1 and not named:
        raise InvalidLabelError("several files of the studies have the identifier that it refers to")
    return (named or found)[0]


def _mask(found: _Segmentation, places: dict[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 of the label numbers."""
    mask = np.zeros(found.shape, np.uint8)
    for segment, index in places.items():
        pixels = _frame(found, index)
        if segment == _EVERY_SEGMENT:
            for value in np.unique(pixels[pixels > 0]).tolist():
                if value not in found.numbers:
                    raise InvalidLabelError(f"its label map holds {value}, which is no segment")
                mask[pixels == value] = found.numbers[value]
            continue
        if segment not in found.numbers:
            raise InvalidLabelError(f"it has no segment {segment}")
        if (mask[pixels > 0] > 0).any():
            raise InvalidLabelError("its segments overlap, and a mask has one label a pixel")
        mask[pixels > 0] = found.numbers[segment]
    return mask


def _frame(found: _Segmentation, index: int) -> NDArray:
    """(H, W) of a frame as it is stored."""
    size = found.shape[0] * found.shape[1]
    data = found.ds.PixelData
    if found.bits > 1:
        dtype = np.dtype("u1" if found.bits == 8 else "<u2")
        return np.frombuffer(data, dtype, size, index * size * dtype.itemsize).reshape(found.shape)
    start, stop = index * size, (index + 1) * size
    stored = np.frombuffer(data, np.uint8, (stop + 7) // 8 - start // 8, start // 8)
    return np.unpackbits(stored, bitorder="little")[start % 8 : start % 8 + size].reshape(found.shape)
