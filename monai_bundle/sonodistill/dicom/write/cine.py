"""A segmentation whose frames are tied to the frames of an ultrasound cine, without a frame of reference.

No library writes one: they want positions in the patient. The Segmentation IOD does not (PS3.3 A.51.3: Frame of
Reference is of usage C); Derivation Image says then which frame of which instance a mask lies on, pixel for pixel.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from sonodistill.dicom.algorithm import Code
from sonodistill.dicom.findings import Findings, Masks
from sonodistill.dicom.source import Source
from sonodistill.dicom.write.common import LABEL_MAP, base_dataset, codes
from sonodistill.dicom.write.encoded import Mould, encodings_of, number, set_sequence

SEGMENTATION = Code("113076", "DCM", "Segmentation")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")

_EVERY_SEGMENT = 0  # of a label map, whose frames hold all segments
_FRAME, _SEGMENT, _PLACE = 1, 1, [1, 1]  # in the model of a frame's item


def frame_segmentation(findings: Findings, kind: str, stamp: str) -> Dataset:
    """All of a segmentation object but its segments' descriptions.

    Args:
        findings: what was found; the masks fit the source.
        kind: "binary", "fractional" or "labelmap".
        stamp: key of ``common.KINDS``.
    """
    labelmap = kind == "labelmap"
    masks = findings.masks
    ds = base_dataset(findings, LABEL_MAP if labelmap else SegmentationStorage, stamp)
    ds.ImageType = ["DERIVED", "PRIMARY"]
    ds.SegmentationType = kind.upper()
    ds.Rows, ds.Columns = masks.shape[1:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.PresentationLUTShape = "IDENTITY"
    ds.BitsAllocated = ds.BitsStored = 1 if kind == "binary" else 8
    ds.HighBit = ds.BitsStored - 1
    if kind == "fractional":
        ds.SegmentationFractionalType, ds.MaximumFractionalValue = "PROBABILITY", 255
    if labelmap:
        ds.add_new("PixelPaddingValue", "US", 0)
    _refer(ds, findings.source)
    uid = findings.algorithm.uid("dimensions", findings.source, kind)
    _index(ds, uid, findings, labelmap=labelmap)
    ds.PixelData = _pixels(masks, kind)
    ds["PixelData"].VR = "OB"
    return ds


def pack_bits(frames: Iterable[NDArray[np.bool_]], file: BinaryIO) -> None:
    """Append frames, a bit a pixel, the first in the lowest bit, without padding between frames (PS3.5 8.1.1).

    Args:
        frames: of any shape, bool.
        file: to write to.
    """
    rest = np.zeros(0, np.bool_)
    for frame in frames:
        bits = np.concatenate([rest, frame.ravel()]) if rest.size else frame.ravel()
        whole = bits.size - bits.size % 8
        file.write(np.packbits(bits[:whole], bitorder="little").tobytes())
        rest = bits[whole:].copy()
    file.write(np.packbits(rest, bitorder="little").tobytes())


def _pixels(masks: Masks, kind: str) -> bytes:
    """Pixel Data, by segment and frame; one frame is unpacked at a time."""
    file = io.BytesIO()
    if kind == "binary":
        order = ((segment, frame) for segment in range(masks.shape[0]) for frame in range(len(masks)))
        pack_bits((masks[frame][segment] for segment, frame in order), file)
    elif kind == "fractional":
        for segment in range(masks.shape[0]):
            for frame in range(len(masks)):
                file.write(masks.probability(frame)[segment].tobytes())
    else:
        numbers = np.arange(1, masks.shape[0] + 1, dtype=np.uint8)[:, np.newaxis, np.newaxis]
        for mask in masks:
            file.write((mask * numbers).max(axis=0).tobytes())
    file.write(b"\0" * (file.tell() % 2))
    return file.getvalue()


def _refer(ds: Dataset, source: Source) -> None:
    """Common Instance Reference (PS3.3 C.12.2)."""
    instance = Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = source.sop_class, source.sop_uid
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ReferencedInstanceSequence = [instance]
    ds.ReferencedSeriesSequence = [series]


def _index(ds: Dataset, uid: str, findings: Findings, *, labelmap: bool) -> None:
    """Multi-frame Functional Groups and Dimensions (PS3.3 C.7.6.16, C.7.6.17)."""
    pointers = [("TemporalPositionIndex", "FrameContentSequence")]
    if not labelmap:
        pointers.insert(0, ("ReferencedSegmentNumber", "SegmentIdentificationSequence"))
    ds.DimensionOrganizationSequence = [_organised(uid)]
    ds.DimensionIndexSequence = [_pointer(uid, *each) for each in pointers]
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    segments = [_EVERY_SEGMENT] if labelmap else list(range(1, findings.masks.shape[0] + 1))
    ds.NumberOfFrames = len(segments) * len(findings.masks)
    set_sequence(ds, "PerFrameFunctionalGroupsSequence", _frames(findings, segments, encodings_of(ds)))


def _organised(uid: str) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = uid
    return item


def _pointer(uid: str, keyword: str, group: str) -> Dataset:
    item = _organised(uid)
    item.DimensionIndexPointer, item.FunctionalGroupPointer = Tag(keyword), Tag(group)
    return item


def _frames(findings: Findings, segments: list[int], encodings: list[str]) -> Iterator[bytes]:
    """Items of Per-Frame Functional Groups Sequence, in the order of the pixels, encoded."""
    labelmap = segments == [_EVERY_SEGMENT]
    content = Dataset()
    content.TemporalPositionIndex, content.DimensionIndexValues = _FRAME, _PLACE
    model = Dataset()
    model.FrameContentSequence = [content]
    model.DerivationImageSequence = [_derived(findings.source, _FRAME)]
    slots = {"frame": ("TemporalPositionIndex", _FRAME), "place": ("DimensionIndexValues", _PLACE)}
    if findings.source.multiframe:
        slots["source frame"] = "ReferencedFrameNumber", _FRAME
    if not labelmap:
        identified = Dataset()
        identified.ReferencedSegmentNumber = _SEGMENT
        model.SegmentIdentificationSequence = [identified]
        slots["segment"] = "ReferencedSegmentNumber", _SEGMENT
    mould = Mould(model, slots, encodings)
    for segment in segments:
        for place, frame in enumerate(findings.shown, start=1):
            yield mould.filled(
                {
                    "frame": struct.pack("<L", place),
                    "place": struct.pack("<L", place) if labelmap else struct.pack("<LL", segment, place),
                    "source frame": number(frame + 1),
                    "segment": struct.pack("<H", segment),
                }
            )


def _derived(source: Source, frame: int) -> Dataset:
    """An item of Derivation Image Sequence (PS3.3 C.7.6.16.2.6); only a multi-frame image is referred to by frame."""
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.sop_class, source.sop_uid
    if source.multiframe:
        image.ReferencedFrameNumber = frame
    image.PurposeOfReferenceCodeSequence = [codes(SOURCE_IMAGE)]
    image.SpatialLocationsPreserved = "YES"
    item = Dataset()
    item.SourceImageSequence = [image]
    item.DerivationCodeSequence = [codes(SEGMENTATION)]
    return item
