"""Writes the structured report of an instance: TID 1500 in a Comprehensive SR, a group for each measured structure."""

from __future__ import annotations

from uuid import NAMESPACE_OID, uuid5

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as terms
from pydicom.uid import ComprehensiveSRStorage

from sonodistill.dicom.algorithm import Algorithm
from sonodistill.dicom.findings import Findings, Structure
from sonodistill.dicom.source import US_IMAGE, US_MULTIFRAME, Source
from sonodistill.dicom.write.common import MANUFACTURER, RESEARCH_USE, base_dataset, clean, evidence
from sonodistill.dicom.write.encoded import (
    elements,
    encodings_of,
    item,
    sequence,
    set_sequence,
)
from sonodistill.dicom.write.groups import (
    AREA,
    FRAME_TIME,
    LONG_AXIS,
    SHORT_AXIS,
    Groups,
    closed,
    comment,
    frame_reference,
    tracking,
)
from sonodistill.dicom.write.measure import LIMIT, MIN_PIXELS

__all__ = [
    "AREA",
    "FRAME_TIME",
    "LIMIT_OF_GROUPS",
    "LONG_AXIS",
    "SHORT_AXIS",
    "closed",
    "frame_reference",
    "largest",
    "report",
    "tracking",
]

LIMIT_OF_GROUPS = 400
"""Structures that a report lists."""

_EVALUATIONS = sr.CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")

_NOTHING = "No structure was found."


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
    ds = base_dataset(findings, ComprehensiveSRStorage, "sr")
    identification = _identification(algorithm)
    groups = Groups(findings, segmentation, identification, encodings_of(ds))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(algorithm)),
        procedure_reported=terms.SCT.DiagnosticUltrasonography,
        imaging_measurements=[groups.model(listed[0]) if listed else _nothing_found(findings, identification)],
        title=terms.DCM.ImagingMeasurementReport,
        # highdicom does not know the retired classes of ultrasound.
        referenced_images=[evidence(findings)] if source.sop_class in (US_IMAGE, US_MULTIFRAME) else None,
    )
    content[0].ContentSequence.append(_remarks(findings, len(listed)))
    # highdicom's own class for the document copies and searches the tree several times over: seconds for a long cine.
    for element in content[0]:
        ds.add(element)
    if listed:
        _set_groups(ds, [groups.encoded(each) for each in listed])
    ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    ds.PerformedProcedureCodeSequence, ds.ReferencedPerformedProcedureStepSequence = [], []
    cited: list[Dataset] = [source.ds] if segmentation is None or not listed else [source.ds, segmentation]
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(source, cited)]
    ds.CodingSchemeIdentificationSequence = [_scheme()]
    return ds


def largest(findings: Findings, limit: int = LIMIT_OF_GROUPS) -> list[Structure]:
    """The largest structures, in the order of their frames."""
    chosen = sorted(findings.structures, key=lambda each: -each.pixels)[:limit]
    return sorted(chosen, key=lambda each: (each.frame, each.segment, each.number))


def _set_groups(ds: Dataset, groups: list[bytes]) -> None:
    """Put encoded groups in the place of the model in the report's Imaging Measurements."""
    encodings, parts = encodings_of(ds), []
    for part in ds.ContentSequence:
        if part.ConceptNameCodeSequence[0].CodeValue == terms.DCM.ImagingMeasurements.value:
            del part.ContentSequence  # the last of its elements
            parts.append(item(elements(part, encodings) + sequence("ContentSequence", groups)))
        else:
            parts.append(item(elements(part, encodings)))
    set_sequence(ds, "ContentSequence", parts)


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
    group[0].ContentSequence.append(comment(_NOTHING))
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
    if findings.warning:
        lines.insert(1, f"Warning: {findings.warning}.")
    container = sr.ContainerContentItem(_EVALUATIONS, relationship_type=sr.RelationshipTypeValues.CONTAINS)
    container.ContentSequence = sr.ContentSequence([comment(line) for line in lines])
    return container


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
