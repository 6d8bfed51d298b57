"""Writes the structured report of an instance: TID 1500 in a Comprehensive SR, a group for each measured structure."""

from __future__ import annotations

from uuid import NAMESPACE_OID, uuid5

import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as terms
from pydicom.uid import ComprehensiveSRStorage

from sonodistill.dicom.algorithm import Algorithm, Code
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings, Structure
from sonodistill.dicom.source import US_IMAGE, US_MULTIFRAME, Source
from sonodistill.dicom.write.common import MANUFACTURER, RESEARCH_USE, base_dataset, clean, evidence
from sonodistill.dicom.write.measure import LIMIT, MIN_PIXELS

LIMIT_OF_GROUPS = 400
"""Structures that a report lists."""

AREA, LONG_AXIS, SHORT_AXIS = terms.SCT.Area, terms.SCT.LongAxis, terms.SCT.ShortAxis
# The standard has no concept for the time of a frame since the first.
FRAME_TIME = sr.CodedConcept("frame-time", "99SONODISTILL", "Time since first frame")
_PIXELS = sr.CodedConcept("{pixels}", "UCUM", "pixels")
_EVALUATIONS = sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")

_NOTHING = "No structure was found."
_DECIMALS = 6
# Segment (from 1) and frame of the source (from 1) to frame of the segmentation (from 1).
_SegmentFrames = dict[tuple[int, int], int]
_EVERY_SEGMENT = 0  # of a label map, whose frames hold all segments


def report(findings: Findings, segmentation: Dataset | None = None, *, limit: int = LIMIT_OF_GROUPS) -> Dataset:
    """The report (PS3.16 TID 1500) of the structures of an instance.

    Each is a group of TID 1410: its outline as a closed polyline (SCOORD) on the frame of the source; area, long and
    short axis in mm2 and mm, or in pixels with the reason as a comment; time of the frame where the source states it.
    As TID 1410 has either a region or a segment, the frame of the segmentation is named as the image from which the
    area was taken (TID 1419, TID 320).

    An instance without structures gets a group of TID 1501 that says so. The report is preliminary and unverified.

    Args:
        findings: what to report.
        segmentation: the segmentation of the same findings, for the references; its pixels are not read.
        limit: of structures; of more the largest are listed, and the others counted in the report.

    Errors: ResultError for a segmentation that lacks a frame a structure is in.
    """
    source, algorithm = findings.source, findings.algorithm
    listed = largest(findings, limit)
    # Built once: every group holds the same items.
    identification = _identification(algorithm)
    frames = {} if segmentation is None else _frames_of(segmentation)
    groups = [_group(findings, each, identification, segmentation, frames) for each in listed]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(algorithm)),
        procedure_reported=terms.SCT.DiagnosticUltrasonography,
        imaging_measurements=groups or [_nothing_found(findings, identification)],
        title=terms.DCM.ImagingMeasurementReport,
        # highdicom does not know the retired classes of ultrasound.
        referenced_images=[evidence(findings)] if source.sop_class in (US_IMAGE, US_MULTIFRAME) else None,
    )
    content[0].ContentSequence.append(_remarks(findings, len(listed)))
    ds = base_dataset(findings, ComprehensiveSRStorage, "sr")
    # highdicom's own class for the document copies and searches the tree several times over: seconds for a long cine.
    for element in content[0]:
        ds.add(element)
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.PerformedProcedureCodeSequence, ds.ReferencedPerformedProcedureStepSequence = [], []
    cited: list[Dataset] = [source.ds] if segmentation is None or not groups else [source.ds, segmentation]
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(source, cited)]
    ds.CodingSchemeIdentificationSequence = [_scheme()]
    return ds


def largest(findings: Findings, limit: int = LIMIT_OF_GROUPS) -> list[Structure]:
    """The largest structures, in the order of their frames."""
    chosen = sorted(findings.structures, key=lambda each: -each.pixels)[:limit]
    return sorted(chosen, key=lambda each: (each.frame, each.segment, each.number))


def tracking(findings: Findings, structure: Structure) -> tuple[str, str]:
    """Tracking ID and UID of a structure, by which report and outlines name the same one."""
    label = clean(findings.algorithm.segments[structure.segment - 1].label)
    frame, segment, number = structure.frame + 1, structure.segment, structure.number
    uid = findings.algorithm.uid("tracking", findings.source, str(frame), str(segment), str(number))
    return f"{label} {number}, frame {frame}", uid


def _group(
    findings: Findings,
    structure: Structure,
    identification: sr.AlgorithmIdentification,
    segmentation: Dataset | None,
    frames: _SegmentFrames,
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    source, algorithm = findings.source, findings.algorithm
    segment = algorithm.segments[structure.segment - 1]
    identifier, uid = tracking(findings, structure)
    image = sr.SourceImageForRegion(source.sop_class, source.sop_uid, frame_reference(source, structure.frame))
    # Not by the constructor of ImageRegion, which does not know the retired classes of ultrasound either.
    region = sr.ScoordContentItem(
        terms.DCM.ImageRegion,
        sr.GraphicTypeValues.POLYLINE,
        closed(structure.contour),
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    region.ContentSequence = sr.ContentSequence([image])
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid, identifier=identifier),
        referenced_region=sr.ImageRegion.from_dataset(region, copy=False),
        finding_category=_concept(segment.category),
        finding_type=_concept(segment.type),
        finding_sites=[sr.FindingSite(_concept(segment.anatomy))] if segment.anatomy else None,
        algorithm_id=identification,
        measurements=[*_sizes(structure, _area_from(structure, segmentation, frames)), *_time(findings, structure)],
    )
    if structure.reason:
        said = "Sizes are in pixels" if structure.area_mm2 is None else "Note"
        group[0].ContentSequence.append(_comment(f"{said}: {structure.reason}"))
    return group


def frame_reference(source: Source, frame: int) -> list[int] | None:
    """Referenced Frame Number (0008,1160) of a frame counted from 0; None where a reference shall not have one.

    It belongs to classes of multi-frame images. An image of another class that has several frames all the same needs it
    to be understood.
    """
    return [frame + 1] if source.frames > 1 or (source.sop_class != US_IMAGE and source.multiframe) else None


def closed(contour: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N + 1, 2): the contour with its first point again at the end, by which a polyline is closed (C.18.6.1.2)."""
    return np.concatenate((contour, contour[:1]))


def _sizes(structure: Structure, area_from: list[sr.SourceImageForMeasurement] | None) -> list[sr.Measurement]:
    """Area, long and short axis: in millimetres where all are known so, else in pixels."""
    area, long, short = structure.area_mm2, structure.long_axis_mm, structure.short_axis_mm
    units = [terms.UCUM.SquareMillimeter, terms.UCUM.Millimeter, terms.UCUM.Millimeter]
    if area is None or long is None or short is None:
        area, long, short = structure.pixels, structure.long_axis_pixels, structure.short_axis_pixels
        units = [_PIXELS] * 3
    sources = (area_from, None, None)
    return [
        sr.Measurement(name, round(float(value), _DECIMALS), unit, referenced_images=images)
        for name, value, unit, images in zip(
            (AREA, LONG_AXIS, SHORT_AXIS), (area, long, short), units, sources, strict=True
        )
    ]


def _time(findings: Findings, structure: Structure) -> list[sr.Measurement]:
    if findings.times_ms is None:
        return []
    time = round(float(findings.times_ms[structure.frame]), _DECIMALS)
    return [sr.Measurement(FRAME_TIME, time, terms.UCUM.Millisecond)]


def _area_from(
    structure: Structure, segmentation: Dataset | None, frames: _SegmentFrames
) -> list[sr.SourceImageForMeasurement] | None:
    if segmentation is None:
        return None
    frame = structure.frame + 1
    number = frames.get((structure.segment, frame)) or frames.get((_EVERY_SEGMENT, frame))
    if number is None:
        raise ResultError(f"the segmentation has no frame for segment {structure.segment} in frame {frame}")
    return [sr.SourceImageForMeasurement(segmentation.SOPClassUID, segmentation.SOPInstanceUID, [number])]


def _frames_of(segmentation: Dataset) -> _SegmentFrames:
    frames = {}
    for number, item in enumerate(segmentation.PerFrameFunctionalGroupsSequence, start=1):
        identified = item.get("SegmentIdentificationSequence")
        segment = identified[0].ReferencedSegmentNumber if identified else _EVERY_SEGMENT
        derived = item.get("DerivationImageSequence")
        # A reference to a single-frame image names no frame.
        frame = derived[0].SourceImageSequence[0].get("ReferencedFrameNumber", 1) if derived else 1
        frames[int(segment), int(frame)] = number
    return frames


def _nothing_found(
    findings: Findings, identification: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    source = findings.source
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=findings.algorithm.uid("tracking", source, "none"), identifier="whole instance"
        ),
        algorithm_id=identification,
        source_images=[sr.SourceImageForMeasurementGroup(source.sop_class, source.sop_uid)],
    )
    group[0].ContentSequence.append(_comment(_NOTHING))
    return group


def _remarks(findings: Findings, listed: int) -> sr.ContainerContentItem:
    """What the reader of the whole report has to know (TID 1500, Qualitative Evaluations)."""
    found = len(findings.structures)
    lines = [
        f"Computed by {clean(findings.algorithm.name)}, verified by nobody: {RESEARCH_USE}.",
        f"{found} structures were measured in {findings.source.frames} frames." if found else _NOTHING,
        f"Not measured: regions of fewer than {MIN_PIXELS} pixels, and all but the {LIMIT} largest of a segment in a "
        "frame.",
        "Area excludes holes; the long and short axes are the largest and smallest caliper diameter of the outline.",
    ]
    if listed < found:
        lines.insert(2, f"Listed are the {listed} largest; {found - listed} smaller ones were left out.")
    container = sr.ContainerContentItem(_EVALUATIONS, relationship_type=sr.RelationshipTypeValues.CONTAINS)
    container.ContentSequence = sr.ContentSequence([_comment(line) for line in lines])
    return container


def _comment(text: str) -> sr.TextContentItem:
    return sr.TextContentItem(terms.DCM.Comment, text, sr.RelationshipTypeValues.CONTAINS)


def _observer(algorithm: Algorithm) -> sr.ObserverContext:
    return sr.ObserverContext(
        observer_type=terms.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=f"2.25.{uuid5(NAMESPACE_OID, algorithm.weights_sha256).int}",
            name=clean(algorithm.name),
            manufacturer_name=MANUFACTURER,
            model_name=clean(algorithm.name),
            serial_number=algorithm.weights_sha256,
        ),
    )


def _identification(algorithm: Algorithm) -> sr.AlgorithmIdentification:
    parameters = [f"weights_sha256={algorithm.weights_sha256}", f"config_sha256={algorithm.config_sha256}"]
    return sr.AlgorithmIdentification(clean(algorithm.name), clean(algorithm.version), parameters)


def _concept(code: Code) -> sr.CodedConcept:
    return sr.CodedConcept(code.value, code.scheme, clean(code.meaning))


def _evidence(source: Source, cited: list[Dataset]) -> Dataset:
    """All instances that the content names (PS3.3 C.17.2.3), each in a series of its own."""
    study = Dataset()
    study.StudyInstanceUID = source.study_uid
    study.ReferencedSeriesSequence = []
    for instance in cited:
        series, item = Dataset(), Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = instance.SOPClassUID, instance.SOPInstanceUID
        series.SeriesInstanceUID = instance.SeriesInstanceUID
        series.ReferencedSOPSequence = [item]
        study.ReferencedSeriesSequence.append(series)
    return study


def _scheme() -> Dataset:
    """The private coding scheme (PS3.3 C.12.1.1.1)."""
    item = Dataset()
    item.CodingSchemeDesignator = FRAME_TIME.scheme_designator
    item.CodingSchemeName = f"{MANUFACTURER} codes"
    item.CodingSchemeResponsibleOrganization = MANUFACTURER
    return item
