"""The groups of a report: the structures, each with its outline, sizes and references (PS3.16 TID 1410)."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as terms
from pydicom.valuerep import DS

from sonodistill.dicom.algorithm import Code
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings, Structure
from sonodistill.dicom.source import US_IMAGE, Source
from sonodistill.dicom.write.common import clean
from sonodistill.dicom.write.encoded import Mould, in_first, items_of, number, padded, text

AREA, LONG_AXIS, SHORT_AXIS = terms.SCT.Area, terms.SCT.LongAxis, terms.SCT.ShortAxis
# The standard has no concept for the time of a frame since the first.
FRAME_TIME = sr.CodedConcept("frame-time", "99SONODISTILL", "Time since first frame")
_PIXELS = sr.CodedConcept("{pixels}", "UCUM", "pixels")

_DECIMALS = 6
# Segment (from 1) and frame of the source (from 1) to frame of the segmentation (from 1).
_SegmentFrames = dict[tuple[int, int], int]
_EVERY_SEGMENT = 0  # of a label map, whose frames hold all segments

# In the places of the values of a structure; none of them is anything else in a group.
_IDENTIFIER, _UID, _REASON = "#identifier", "2.25.1", "#reason"
_FRAME, _SEGMENTATION_FRAME = 1, 2
_NUMBERS = (1.5, 2.5, 3.5, 4.5)
_TIME = 3  # among the numbers
_CONTOUR = np.array([[1, 2], [3, 4]], np.float32)


class Groups:
    """The groups (TID 1410) of structures: highdicom makes one of each sort, the others are filled into its mould."""

    def __init__(
        self,
        findings: Findings,
        segmentation: Dataset | None,
        identification: sr.AlgorithmIdentification,
        encodings: list[str],
    ) -> None:
        self._findings, self._segmentation, self._identification = findings, segmentation, identification
        self._encodings = encodings
        self._frames = {} if segmentation is None else _frames_of(segmentation)
        self._moulds: dict[tuple[object, ...], Mould] = {}

    def encoded(self, structure: Structure) -> bytes:
        """The group of a structure as an item of Content Sequence."""
        source, model = self._findings.source, _model(structure)
        sort = model.segment, _sizes(model)[0][1].value, model.reason
        mould = self._moulds.get(sort)
        if mould is None:
            # What depends on the segmentation, the source or the times is in all groups of a report or in none.
            held = {
                "identifier": ("TextValue", _IDENTIFIER),
                "uid": ("UID", _UID),
                "contour": ("GraphicData", closed(_CONTOUR).ravel().tolist()),
                **{f"number {at}": ("NumericValue", value) for at, value in enumerate(_NUMBERS)},
                **{f"float {at}": ("FloatingPointValue", value) for at, value in enumerate(_NUMBERS)},
            }
            if self._findings.times_ms is None:
                del held[f"number {_TIME}"], held[f"float {_TIME}"]
            if frame_reference(source, 0):
                held["frame"] = "ReferencedFrameNumber", _FRAME
            if self._segmentation is not None:
                held["segmentation frame"] = "ReferencedFrameNumber", _SEGMENTATION_FRAME
            if structure.reason:
                held["reason"] = "TextValue", _reason(model)
            mould = self._moulds[sort] = Mould(self.model(structure)[0], held, self._encodings)
        return mould.filled(self._values(structure))

    def _values(self, structure: Structure) -> dict[str, bytes]:
        identifier, uid = tracking(self._findings, structure)
        values = {
            "identifier": text(identifier, self._encodings),
            "uid": padded(uid.encode("ascii"), b"\0"),
            "contour": closed(structure.contour).astype("<f4").tobytes(),
            "frame": number(structure.frame + 1),
        }
        numbers = [value for value, _ in _sizes(structure)] + _time(self._findings, structure)
        for at, value in enumerate(numbers):
            values[f"number {at}"], values[f"float {at}"] = (
                number(DS(value, auto_format=True)),
                struct.pack("<d", value),
            )
        if self._segmentation is not None:
            values["segmentation frame"] = number(self._segmentation_frame(structure))
        if structure.reason:
            values["reason"] = text(_reason(structure), self._encodings)
        return values

    def _segmentation_frame(self, structure: Structure) -> int:
        frame = structure.frame + 1
        found = self._frames.get((structure.segment, frame)) or self._frames.get((_EVERY_SEGMENT, frame))
        if found is None:
            raise ResultError(f"the segmentation has no frame for segment {structure.segment} in frame {frame}")
        return found

    def model(self, structure: Structure) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
        """A group of the same sort as that of a structure, with placeholders for values."""
        source, algorithm, structure = self._findings.source, self._findings.algorithm, _model(structure)
        segment = algorithm.segments[structure.segment - 1]
        frame = frame_reference(source, structure.frame) and [_FRAME]
        image = sr.SourceImageForRegion(source.sop_class, source.sop_uid, frame)
        # Not by the constructor of ImageRegion, which does not know the retired classes of ultrasound either.
        region = sr.ScoordContentItem(
            terms.DCM.ImageRegion,
            sr.GraphicTypeValues.POLYLINE,
            closed(structure.contour),
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        region.ContentSequence = sr.ContentSequence([image])
        area_from, seg = None, self._segmentation
        if seg is not None:
            area_from = [sr.SourceImageForMeasurement(seg.SOPClassUID, seg.SOPInstanceUID, [_SEGMENTATION_FRAME])]
        measurements = [
            sr.Measurement(name, value, unit, referenced_images=images)
            for name, (_, unit), value, images in zip(
                (AREA, LONG_AXIS, SHORT_AXIS), _sizes(structure), _NUMBERS, (area_from, None, None), strict=False
            )
        ]
        if self._findings.times_ms is not None:
            measurements.append(sr.Measurement(FRAME_TIME, _NUMBERS[_TIME], terms.UCUM.Millisecond))
        group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=_UID, identifier=_IDENTIFIER),
            referenced_region=sr.ImageRegion.from_dataset(region, copy=False),
            finding_category=_concept(segment.category),
            finding_type=_concept(segment.type),
            finding_sites=[sr.FindingSite(_concept(segment.anatomy))] if segment.anatomy else None,
            algorithm_id=self._identification,
            measurements=measurements,
        )
        if structure.reason:
            group[0].ContentSequence.append(comment(_reason(structure)))
        return group


def _model(structure: Structure) -> Structure:
    """What stands for a structure in the model of its sort."""
    return replace(structure, contour=_CONTOUR, reason=_REASON if structure.reason else None)


def _reason(structure: Structure) -> str:
    return f"{'Sizes are in pixels' if structure.area_mm2 is None else 'Note'}: {structure.reason}"


def tracking(findings: Findings, structure: Structure) -> tuple[str, str]:
    """Tracking ID and UID of a structure, by which report and outlines name the same one."""
    label = clean(findings.algorithm.segments[structure.segment - 1].label)
    frame, segment, number = structure.frame + 1, structure.segment, structure.number
    uid = findings.algorithm.uid("tracking", findings.source, str(frame), str(segment), str(number))
    return f"{label} {number}, frame {frame}", uid


def frame_reference(source: Source, frame: int) -> list[int] | None:
    """Referenced Frame Number (0008,1160) of a frame counted from 0; None where a reference shall not have one.

    It belongs to classes of multi-frame images. An image of another class that has several frames all the same needs it
    to be understood.
    """
    return [frame + 1] if source.frames > 1 or (source.sop_class != US_IMAGE and source.multiframe) else None


def closed(contour: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N + 1, 2): the contour with its first point again at the end, by which a polyline is closed (C.18.6.1.2)."""
    return np.concatenate((contour, contour[:1]))


def _sizes(structure: Structure) -> list[tuple[float, sr.CodedConcept]]:
    """Area, long and short axis with their units: in millimetres where all are known so, else in pixels."""
    area, long, short = structure.area_mm2, structure.long_axis_mm, structure.short_axis_mm
    units = [terms.UCUM.SquareMillimeter, terms.UCUM.Millimeter, terms.UCUM.Millimeter]
    if area is None or long is None or short is None:
        area, long, short = structure.pixels, structure.long_axis_pixels, structure.short_axis_pixels
        units = [_PIXELS] * 3
    return [(round(float(value), _DECIMALS), unit) for value, unit in zip((area, long, short), units, strict=True)]


def _time(findings: Findings, structure: Structure) -> list[float]:
    """Of its frame since the first, in ms; nothing where the source does not say."""
    return [] if findings.times_ms is None else [round(float(findings.times_ms[structure.frame]), _DECIMALS)]


def _frames_of(segmentation: Dataset) -> _SegmentFrames:
    frames = {}
    for place, item in enumerate(items_of(segmentation, "PerFrameFunctionalGroupsSequence"), start=1):
        segment = in_first(item, "SegmentIdentificationSequence", "ReferencedSegmentNumber")
        frame = in_first(item, "DerivationImageSequence", "SourceImageSequence", "ReferencedFrameNumber")
        # A reference to a single-frame image names no frame.
        frames[int.from_bytes(segment, "little") if segment else _EVERY_SEGMENT, int(frame or 1)] = place
    return frames


def comment(text: str) -> sr.TextContentItem:
    return sr.TextContentItem(terms.DCM.Comment, text, sr.RelationshipTypeValues.CONTAINS)


def _concept(code: Code) -> sr.CodedConcept:
    return sr.CodedConcept(code.value, code.scheme, clean(code.meaning))
