"""A segmentation whose frames are tied to the frames of an ultrasound cine, without a frame of reference.

No library writes one: they want positions in the patient. The Segmentation IOD does not (PS3.3 A.51.3: Frame of
Reference is of usage C); Derivation Image says then which frame of which instance a mask lies on, pixel for pixel.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import SegmentationStorage

from sonodistill.dicom.algorithm import Code
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings, Masks
from sonodistill.dicom.source import Source
from sonodistill.dicom.write.common import LABEL_MAP, base_dataset, codes

SEGMENTATION = Code("113076", "DCM", "Segmentation")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")


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
        ds.PixelPaddingValue = 0
    _refer(ds, findings.source)
    uid = findings.algorithm.uid("dimensions", findings.source, kind)
    _index(ds, uid, list(_frames(findings, labelmap=labelmap)), labelmap=labelmap)
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


def _index(ds: Dataset, uid: str, frames: list[Dataset], *, labelmap: bool) -> None:
    """Multi-frame Functional Groups and Dimensions (PS3.3 C.7.6.16, C.7.6.17)."""
    pointers = [("TemporalPositionIndex", "FrameContentSequence")]
    if not labelmap:
        pointers.insert(0, ("ReferencedSegmentNumber", "SegmentIdentificationSequence"))
    ds.DimensionOrganizationSequence = [_organised(uid)]
    ds.DimensionIndexSequence = [_pointer(uid, *each) for each in pointers]
    ds.SharedFunctionalGroupsSequence = [Dataset()]
    places = {tuple(np.atleast_1d(item.FrameContentSequence[0].DimensionIndexValues)) for item in frames}
    if len(places) != len(frames):
        raise ResultError("frames of the segmentation share their place among its dimensions")
    ds.NumberOfFrames = len(frames)
    ds.PerFrameFunctionalGroupsSequence = frames


def _organised(uid: str) -> Dataset:
    item = Dataset()
    item.DimensionOrganizationUID = uid
    return item


def _pointer(uid: str, keyword: str, group: str) -> Dataset:
    item = _organised(uid)
    item.DimensionIndexPointer, item.FunctionalGroupPointer = Tag(keyword), Tag(group)
    return item


def _frames(findings: Findings, *, labelmap: bool) -> Iterator[Dataset]:
    """Items of Per-Frame Functional Groups Sequence, in the order of the pixels."""
    derivations = [_derived(findings.source, frame) for frame in range(1, len(findings.masks) + 1)]
    for segment in [None] if labelmap else range(1, findings.masks.shape[0] + 1):
        for frame, derivation in enumerate(derivations, 1):
            content = Dataset()
            content.TemporalPositionIndex = frame
            content.DimensionIndexValues = frame if segment is None else [segment, frame]
            item = Dataset()
            item.FrameContentSequence = [content]
            item.DerivationImageSequence = [derivation]
            if segment is not None:
                identified = Dataset()
                identified.ReferencedSegmentNumber = segment
                item.SegmentIdentificationSequence = [identified]
            yield item


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
