"""A DICOM Segmentation as masks by frame of the source image; anything else is refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.exchange.errors import MissingPackageError, NotLabelsError

Place = tuple[str, int | None]
"""SOP Instance UID of the source and frame of it, from 1; None where the reference is to an instance as a whole."""

MAX_BYTES = 1 << 30
MAX_FRAMES = 100_000
MAX_PIXELS = 1 << 26

_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_NATIVE = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
_EVERY_SEGMENT = 0  # of a label map, whose frames hold all segments


@dataclass(frozen=True)
class Segmentation:
    """Attributes:
    ds: the pydicom data set.
    shape: (H, W).
    names: of the segments, the label numbers 1, 2, ...
    numbers: label number by segment number.
    places: index of its frame by segment, by frame of the source.
    bits: a pixel is stored in.
    automatic: whether no person had a part in any segment.
    algorithm, creator: what and who made it, or "".
    """

    ds: Any
    shape: tuple[int, int]
    names: tuple[str, ...]
    numbers: dict[int, int]
    places: dict[Place, dict[int, int]]
    bits: int
    automatic: bool
    algorithm: str
    creator: str


def read_segmentation(path: Path) -> Segmentation:
    """Errors: NotLabelsError for anything but an uncompressed binary segmentation or label map; MissingPackageError."""
    try:
        from pydicom import config, dcmread
        from pydicom.filereader import read_file_meta_info
    except ImportError:
        raise MissingPackageError("DICOM cannot be read without pydicom: pip install pydicom.") from None
    name = f"“{path.name}”"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise NotLabelsError(f"{name} has more than {MAX_BYTES >> 20} MB.")
        # Looked at first: what is deflated or compressed may be as large as it likes.
        meta = read_file_meta_info(path)
        if str(meta.get("MediaStorageSOPClassUID")) not in _CLASSES:
            raise NotLabelsError(f"{name} is DICOM, but no segmentation.")
        if str(meta.get("TransferSyntaxUID")) not in _NATIVE:
            raise NotLabelsError(
                f"{name} is compressed, deflated or big-endian: store it as Explicit VR Little Endian."
            )
        with config.disable_value_validation():
            ds = dcmread(path)
    except NotLabelsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise NotLabelsError(f"{name} cannot be read as DICOM ({type(error).__name__}).") from None
    try:
        return _parsed(ds, name)
    except NotLabelsError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever malformed values provoke
        raise NotLabelsError(f"{name} lacks what makes a segmentation ({type(error).__name__}).") from None


def mask_of(found: Segmentation, segments: dict[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 label numbers of a frame of the source. Errors: NotLabelsError for segments that overlap."""
    mask = np.zeros(found.shape, np.uint8)
    for segment, index in segments.items():
        stored = _frame(found, index)
        if segment == _EVERY_SEGMENT:
            for value in np.unique(stored[stored > 0]).tolist():
                if value not in found.numbers:
                    raise NotLabelsError(f"its label map holds {value}, which is no segment")
                mask[stored == value] = found.numbers[value]
            continue
        if segment not in found.numbers:
            raise NotLabelsError(f"it has no segment {segment}")
        if (mask[stored > 0] > 0).any():
            raise NotLabelsError("its segments overlap, and a mask has one label a pixel")
        mask[stored > 0] = found.numbers[segment]
    return mask


def _parsed(ds: Any, name: str) -> Segmentation:
    kind, rows, columns, frames = str(ds.SegmentationType), int(ds.Rows), int(ds.Columns), int(ds.NumberOfFrames)
    bits, labelmap = int(ds.BitsAllocated), kind == "LABELMAP"
    if kind not in ("BINARY", "LABELMAP") or bits not in ((8, 16) if labelmap else (1,)):
        raise NotLabelsError(
            f"{name} is a {kind[:20]} segmentation of {bits} bits; binary ones and label maps are read."
        )
    if rows < 1 or columns < 1 or rows * columns > MAX_PIXELS:
        raise NotLabelsError(f"{name} is {rows} x {columns} pixels.")
    groups = ds.PerFrameFunctionalGroupsSequence
    if not 0 < frames <= MAX_FRAMES or len(groups) != frames:
        raise NotLabelsError(f"{name} has {frames} frames, and describes {len(groups)}.")
    if len(ds.PixelData) < (frames * rows * columns * bits + 7) // 8:
        raise NotLabelsError(f"{name} has {len(ds.PixelData)} bytes of pixels, which are too few.")
    # Segment 0 of a label map is the background.
    labels = {int(each.SegmentNumber): str(each.SegmentLabel) for each in ds.SegmentSequence}
    numbers = sorted(number for number in labels if number > 0)
    names = tuple(labels[number] for number in numbers)
    if not 0 < len(numbers) <= 255 or len(labels) != len(ds.SegmentSequence) or len(set(names)) < len(names):
        raise NotLabelsError(f"{name} has no segments, more than 255, or two of one number or name.")
    shared = ds.get("SharedFunctionalGroupsSequence") or [{}]
    places: dict[Place, dict[int, int]] = {}
    for index, group in enumerate(groups):
        segment = _EVERY_SEGMENT if labelmap else _segment(group, shared[0])
        if places.setdefault(_place(group, shared[0], name), {}).setdefault(segment, index) != index:
            raise NotLabelsError(f"{name} has two frames of one segment for one frame of its source.")
    made = [str(each.get("SegmentAlgorithmType") or "") for each in ds.SegmentSequence if int(each.SegmentNumber) > 0]
    algorithm = str(ds.SegmentSequence[-1].get("SegmentAlgorithmName") or "")[:64]
    creator = str(ds.get("ContentCreatorName") or "")[:64]
    automatic = all(each == "AUTOMATIC" for each in made)
    table = {number: place for place, number in enumerate(numbers, 1)}
    return Segmentation(ds, (rows, columns), names, table, places, bits, automatic, algorithm, creator)


def _segment(group: Any, shared: Any) -> int:
    found = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
    return int(found[0].ReferencedSegmentNumber)


def _place(group: Any, shared: Any, name: str) -> Place:
    derived = group.get("DerivationImageSequence") or shared.get("DerivationImageSequence")
    images = derived[0].get("SourceImageSequence") if derived else None
    if not images or len(images) != 1:
        raise NotLabelsError(f"{name} does not say which frame of which image each of its frames lies on.")
    number = images[0].get("ReferencedFrameNumber")
    if number is not None and (not isinstance(number, int) or number < 1):
        raise NotLabelsError(f"One of the frames of {name} lies on no frame, or on several.")
    return str(images[0].ReferencedSOPInstanceUID), None if number is None else int(number)


def _frame(found: Segmentation, index: int) -> NDArray[Any]:
    """(H, W) of a frame as it is stored."""
    size, data = found.shape[0] * found.shape[1], found.ds.PixelData
    if found.bits > 1:
        dtype = np.dtype("u1" if found.bits == 8 else "<u2")
        return np.frombuffer(data, dtype, size, index * size * dtype.itemsize).reshape(found.shape)
    start = index * size
    stored = np.frombuffer(data, np.uint8, (start + size + 7) // 8 - start // 8, start // 8)
    return np.unpackbits(stored, bitorder="little")[start % 8 : start % 8 + size].reshape(found.shape)
