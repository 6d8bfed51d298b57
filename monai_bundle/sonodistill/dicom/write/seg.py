"""Segmentation objects (PS3.3 A.51, A.97) of ultrasound: highdicom's for a still, our own for the frames of a cine."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from sonodistill.dicom.algorithm import Code, Segment
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings
from sonodistill.dicom.source import US_IMAGE
from sonodistill.dicom.write.cine import frame_segmentation
from sonodistill.dicom.write.common import (
    KINDS,
    MANUFACTURER,
    RESEARCH_USE,
    algorithm_identification,
    clean,
    codes,
    evidence,
    instance_number,
    stamp,
)

Kind = Literal["binary", "fractional", "labelmap"]
STAMPS = {"binary": "seg", "fractional": "seg-fractional", "labelmap": "seg-labelmap"}
"""Kinds of ``common.KINDS`` by kind of segmentation: each is another object, in another series."""

BACKGROUND = Code("125040", "DCM", "Background")

_MAX_BYTES = (1 << 32) - 2  # the length of Pixel Data (7FE0,0010) has 32 bits and is even
_MAX_SEGMENTS = 255  # a label map has 8 bits


def segmentation(findings: Findings, kind: Kind = "binary") -> Dataset:
    """The masks as a segmentation object; its frames, also where they are empty, are on the source's pixel grid.

    It has the frames of ``findings.shown``: all of the source, or those that were looked at.

    There is no frame of reference but one that the source names: ultrasound has no position in the patient, and none is
    invented. Frames are tied to those of the source by Derivation Image (PS3.3 C.7.6.16.2.6).

    Args:
        findings: what was found.
        kind: "binary", a bit a pixel; "fractional", probabilities of 8 bits, which ``findings.masks`` has to have kept;
            "labelmap", the number of the segment in each pixel, for segments that do not overlap.

    Errors: ResultError for masks that do not fit the source, results of 4 GiB and more, and label maps of segments that
        overlap.
    """
    _check(findings, kind)
    overlap = _overlap(findings)
    if kind == "labelmap" and overlap:
        raise ResultError(
            "segments overlap, and a label map has one segment a pixel",
            path=findings.source.path,
            remedy='write the segmentation as "binary"',
        )
    # highdicom knows the classes of today's standard alone, and of a cine no more than one frame.
    if findings.source.multiframe or findings.source.sop_class != US_IMAGE:
        ds = frame_segmentation(findings, kind, STAMPS[kind])
    else:
        ds = _still(findings, kind)
    ds.SegmentSequence = ([_background()] if kind == "labelmap" else []) + _descriptions(findings)
    ds.SegmentsOverlap = "YES" if overlap else "NO"
    algorithm = findings.algorithm
    by_people = algorithm.kind != "AUTOMATIC"
    ds.ContentLabel = "SEGMENTATION" if by_people else "AI_SEGMENTATION"
    ds.ContentDescription = f"{'Segmentation' if by_people else 'AI segmentation'}, {RESEARCH_USE}"
    ds.ContentCreatorName = algorithm.people[0] if len(algorithm.people) == 1 else MANUFACTURER
    return ds


def _still(findings: Findings, kind: Kind) -> Dataset:
    from highdicom.seg import Segmentation, SegmentDescription

    masks, algorithm = findings.masks, findings.algorithm
    # (1, H, W, C) as highdicom wants it; its probabilities are floats that it turns into the same steps of 1/255.
    pixels = masks.probability(0).astype(np.float32) / 255 if kind == "fractional" else masks[0].astype(np.uint8)
    ds = Segmentation(
        source_images=[evidence(findings)],
        pixel_array=np.moveaxis(pixels, 0, -1)[np.newaxis],
        segmentation_type=kind.upper(),
        segment_descriptions=[SegmentDescription.from_dataset(each) for each in _descriptions(findings)],
        series_instance_uid=algorithm.series_uid(STAMPS[kind], findings.source),
        series_number=KINDS[STAMPS[kind]][0],
        sop_instance_uid=algorithm.uid(STAMPS[kind], findings.source),
        instance_number=instance_number(findings.source),
        manufacturer=MANUFACTURER,
        manufacturer_model_name=clean(algorithm.name),
        software_versions=clean(algorithm.version),
        device_serial_number=algorithm.serial,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=False,
    )
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = algorithm.uid("dimensions", findings.source, kind)  # theirs is random
    stamp(ds, findings, STAMPS[kind])
    return ds


def _check(findings: Findings, kind: Kind) -> None:
    source, masks = findings.source, findings.masks
    segments, rows, columns = masks.shape
    shown = findings.shown
    if (len(masks), rows, columns) != (len(shown), source.rows, source.columns):
        raise ResultError(
            f"{len(masks)} masks of {rows} x {columns} for {len(shown)} frames of {source.rows} x {source.columns}",
            path=source.path,
        )
    if not shown or list(shown) != sorted({frame for frame in shown if 0 <= frame < source.frames}):
        raise ResultError(f"the masks are not of frames of its {source.frames}, in their order", path=source.path)
    if not 0 < segments <= _MAX_SEGMENTS or segments != len(findings.algorithm.segments):
        raise ResultError(f"{segments} masks a frame, {len(findings.algorithm.segments)} segments", path=source.path)
    pixels = len(masks) * rows * columns
    size = {"binary": segments * pixels // 8, "fractional": segments * pixels, "labelmap": pixels}[kind]
    if size > _MAX_BYTES:
        raise ResultError(
            f"the segmentation would have {size / 2**30:.1f} GiB, and DICOM ends at 4",
            path=source.path,
            remedy='write it as "binary", or divide the cine',
        )


def _overlap(findings: Findings) -> bool:
    """Whether any pixel is in more than one segment."""
    if findings.masks.shape[0] == 1:
        return False
    return any(bool((frame.sum(axis=0, dtype=np.uint8) > 1).any()) for frame in findings.masks)


def _descriptions(findings: Findings) -> list[Dataset]:
    return [_described(number, each, findings) for number, each in enumerate(findings.algorithm.segments, 1)]


def _described(number: int, segment: Segment, findings: Findings) -> Dataset:
    """An item of Segment Sequence (PS3.3 table C.8.20-4)."""
    item = Dataset()
    item.SegmentNumber = number
    item.SegmentLabel = clean(segment.label) or f"Segment {number}"
    item.SegmentAlgorithmType = findings.algorithm.kind
    if findings.algorithm.kind != "MANUAL":
        item.SegmentAlgorithmName = clean(findings.algorithm.name)
        item.SegmentationAlgorithmIdentificationSequence = [algorithm_identification(findings.algorithm)]
    item.SegmentedPropertyCategoryCodeSequence = [codes(segment.category)]
    item.SegmentedPropertyTypeCodeSequence = [codes(segment.type)]
    if segment.anatomy is not None:
        item.AnatomicRegionSequence = [codes(segment.anatomy)]
    return item


def _background() -> Dataset:
    """Segment 0 of a label map: the pixels of no segment."""
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = 0, "Background"
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = "AUTOMATIC", MANUFACTURER
    item.SegmentedPropertyCategoryCodeSequence = [codes(BACKGROUND)]
    item.SegmentedPropertyTypeCodeSequence = [codes(BACKGROUND)]
    return item
