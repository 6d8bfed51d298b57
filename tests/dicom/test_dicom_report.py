"""Structured reports: what other programs say of them, and the same structures out as in."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import findings_case
import measured_case
import numpy as np
import pytest
from conformance import dciodvfy_errors, dcmftest
from dicom_factory import region
from highdicom import sr
from measured_case import measured
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from sonodistill.dicom.algorithm import Code, Segment
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings
from sonodistill.dicom.write.check import check_references
from sonodistill.dicom.write.common import write_file
from sonodistill.dicom.write.measure import structures_of
from sonodistill.dicom.write.report import AREA, FRAME_TIME, LONG_AXIS, SHORT_AXIS, report
from sonodistill.dicom.write.seg import segmentation


def written(findings: Findings, path: Path, seg: Dataset | None = None) -> sr.ComprehensiveSR:
    write_file(report(findings, seg), path)
    return sr.ComprehensiveSR.from_dataset(dcmread(path))


def groups_of(document: sr.ComprehensiveSR) -> list[sr.PlanarROIMeasurementsAndQualitativeEvaluations]:
    return document.content.get_planar_roi_measurement_groups()


def value(group: sr.PlanarROIMeasurementsAndQualitativeEvaluations, name: Code) -> tuple[float, str]:
    (found,) = group.get_measurements(name)
    return found.value, found.unit.value


def comments(items: Dataset) -> list[str]:
    return [item.TextValue for item in items.ContentSequence if item.name == codes.DCM.Comment]


def remarks(document: sr.ComprehensiveSR) -> list[str]:
    return comments(document.content[0].ContentSequence[-1])


def read_by_dcmtk(path: Path) -> str:
    if shutil.which("dsr2html") is None:
        pytest.skip("dsr2html is not installed (apt install dcmtk)")
    html = path.with_suffix(".html")
    done = subprocess.run(["dsr2html", str(path), str(html)], timeout=120, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return html.read_text(encoding="utf-8", errors="replace")


def assert_same(findings: Findings, document: sr.ComprehensiveSR, seg: Dataset | None) -> None:
    """Each structure is there once, with its outline, sizes, frame, and the frame of the segmentation that shows it."""
    source, groups = findings.source, groups_of(document)
    assert len(groups) == len(findings.structures) > 0
    for structure, group in zip(findings.structures, groups, strict=True):
        outline = group.roi.value
        np.testing.assert_array_equal(outline[:-1], structure.contour)
        np.testing.assert_array_equal(outline[-1], outline[0])
        image = group.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert (image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID) == (source.sop_class, source.sop_uid)
        assert image.get("ReferencedFrameNumber") == (structure.frame + 1 if source.multiframe else None)
        sizes = [value(group, name) for name in (AREA, LONG_AXIS, SHORT_AXIS)]
        if structure.area_mm2 is None:
            expected = [structure.pixels, structure.long_axis_pixels, structure.short_axis_pixels]
            assert [unit for _, unit in sizes] == ["{pixels}"] * 3
            assert comments(group[0]) == [f"Sizes are in pixels: {structure.reason}"]
        else:
            expected = [structure.area_mm2, structure.long_axis_mm, structure.short_axis_mm]
            assert [unit for _, unit in sizes] == ["mm2", "mm", "mm"]
        assert [size for size, _ in sizes] == pytest.approx(expected, abs=1e-6)
        times = group.get_measurements(FRAME_TIME)
        assert [time.value for time in times] == pytest.approx(
            [] if findings.times_ms is None else [findings.times_ms[structure.frame]]
        )
        segment = findings.algorithm.segments[structure.segment - 1]
        assert (group.finding_type.value, group.finding_category.value) == (segment.type.value, segment.category.value)
        assert [site.value.value for site in group.finding_sites] == (
            [segment.anatomy.value] if segment.anatomy else []
        )
        if seg is not None:
            (area,) = group.get_measurements(AREA)
            (reference,) = area.referenced_images
            assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
            assert "ReferencedSegmentNumber" not in reference.ReferencedSOPSequence[0]
            shown = seg.PerFrameFunctionalGroupsSequence[reference.referenced_frame_numbers[0] - 1]
            assert shown.SegmentIdentificationSequence[0].ReferencedSegmentNumber == structure.segment
            origin = shown.DerivationImageSequence[0].SourceImageSequence[0]
            assert origin.get("ReferencedFrameNumber", 1) == structure.frame + 1
    uids = {group.tracking_uid for group in groups}
    assert len(uids) == len(groups)


@pytest.mark.parametrize("name", findings_case.PUBLIC)
def test_every_public_ultrasound_image(name, tmp_path):
    findings = measured(findings_case.public_file(name), frames=4)
    seg = segmentation(findings)
    path = tmp_path / "sr.dcm"
    document = written(findings, path, seg)
    assert_same(findings, document, seg)
    check_references(path, findings)
    assert measured_case.faults(path, findings) == []
    assert "Imaging Measurement Report" in read_by_dcmtk(path)


def test_every_public_ultrasound_image_beside_the_checkout(shared, tmp_path):
    files = sorted((shared / "data").rglob("*.dcm"))[:20]
    if not files:
        pytest.skip("there is no DICOM file")
    for number, file in enumerate(files):
        findings = measured(file, frames=2)
        path = tmp_path / f"{number}.dcm"
        assert_same(findings, written(findings, path), None)
        assert dciodvfy_errors(path) == []


@pytest.mark.parametrize(("rows", "columns", "frames"), [(37, 53, 5), (101, 35, 1), (480, 640, 2)])
def test_odd_sizes(rows, columns, frames, tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm", frames, rows, columns))
    seg = segmentation(findings)
    assert_same(findings, written(findings, tmp_path / "sr.dcm", seg), seg)
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


def test_three_segments_with_their_own_codes(tmp_path):
    segments = (
        Segment("Läsion"),
        Segment("Organ", Code("123037004", "SCT", "Anatomical Structure"), Code("10200004", "SCT", "Liver")),
        Segment("own", type=Code("shadow", "99TEST", "Acoustic shadow"), anatomy=Code("76752008", "SCT", "Breast")),
    )
    findings = measured(findings_case.clip(tmp_path / "us.dcm", 2, 120, 160), segments=segments)
    seg = segmentation(findings)
    document = written(findings, tmp_path / "sr.dcm", seg)
    assert_same(findings, document, seg)
    assert groups_of(document)[0].tracking_identifier == "Läsion 1, frame 1"
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 192", "Müller^Zoë"), ("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)
def test_names_in_other_alphabets(charset, name, tmp_path):
    path = findings_case.clip(tmp_path / "us.dcm", 2, 60, 80, SpecificCharacterSet=charset, PatientName=name)
    findings = measured(path)
    assert str(written(findings, tmp_path / "sr.dcm").PatientName) == name
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


def test_millimetres_of_a_known_rectangle(tmp_path):
    regions = [region(0, 0, 199, 119, PhysicalDeltaX=0.0123, PhysicalDeltaY=0.0217)]
    path = findings_case.clip(tmp_path / "us.dcm", 1, 120, 200, SequenceOfUltrasoundRegions=regions, FrameTime=40)
    findings = measured(path, frames=0)
    mask = np.zeros((2, 120, 200), bool)
    mask[0, 30:80, 40:140] = True
    findings = replace(findings, structures=tuple(structures_of(mask, 0, findings.source.ds)))
    (group,) = groups_of(written(findings, tmp_path / "sr.dcm"))
    assert value(group, AREA) == (pytest.approx(5000 * 0.123 * 0.217), "mm2")
    assert value(group, LONG_AXIS) == (pytest.approx((12.3**2 + 10.85**2) ** 0.5), "mm")
    assert value(group, SHORT_AXIS) == (pytest.approx(10.85), "mm")
    assert value(group, FRAME_TIME) == (0, "ms")


def test_a_stale_calibration_reports_pixels_and_the_reason(tmp_path):
    findings = measured(findings_case.public_file("examples_ybr_color.dcm"), frames=1)
    for group in groups_of(written(findings, tmp_path / "sr.dcm")):
        assert value(group, AREA)[1] == "{pixels}"
        assert "stale" in comments(group[0])[0]


def test_nothing_found_is_a_report_that_says_so(tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm"), frames=0)
    path = tmp_path / "sr.dcm"
    document = written(findings, path, segmentation(findings))
    assert groups_of(document) == []
    (group,) = document.content.get_image_measurement_groups()
    assert comments(group[0]) == ["No structure was found."]
    assert "No structure was found." in remarks(document)
    assert dciodvfy_errors(path) == []
    assert dcmftest(path)
    read_by_dcmtk(path)


def test_it_is_marked_preliminary_unverified_and_for_research(tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm", 1, 60, 80))
    document = written(findings, tmp_path / "sr.dcm")
    assert (document.CompletionFlag, document.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert document.PreliminaryFlag == "PRELIMINARY"
    assert "research use" in document.SeriesDescription
    assert any("research use" in line and "verified by nobody" in line for line in remarks(document))
    (observer,) = document.content.get_observer_contexts()
    assert observer.observer_type == codes.DCM.Device
    algorithm = groups_of(document)[0][0].ContentSequence
    stated = {item.TextValue for item in algorithm if item.name == codes.DCM.AlgorithmParameters}
    assert f"weights_sha256={findings.algorithm.weights_sha256}" in stated


def test_the_device_is_the_weights(tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm", 1, 60, 80))
    others = replace(findings, algorithm=replace(findings.algorithm, weights_sha256="aa" * 32))
    devices = [
        written(each, tmp_path / "sr.dcm").content.get_observer_contexts()[0].observer_identifying_attributes.uid
        for each in (findings, findings, others)
    ]
    assert devices[0] == devices[1] != devices[2]


def test_the_same_findings_give_the_same_report(tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm", 2, 60, 80))
    one, two = (written(findings, tmp_path / f"{number}.dcm") for number in (1, 2))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "ContentSequence"):
        assert one[keyword] == two[keyword]


def test_beyond_the_limit_the_largest_are_listed_and_the_rest_counted(tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm", 1, 60, 80))
    many = tuple(replace(findings.structures[0], number=n, pixels=1000 - n) for n in range(1, 13))
    write_file(report(replace(findings, structures=many), limit=5), tmp_path / "sr.dcm")
    document = sr.ComprehensiveSR.from_dataset(dcmread(tmp_path / "sr.dcm"))
    assert [value(group, AREA)[0] for group in groups_of(document)] == [999, 998, 997, 996, 995]
    assert any("7 smaller ones were left out" in line for line in remarks(document))


def test_a_still_of_a_class_without_frames_is_named_without_one(tmp_path):
    path = findings_case.clip(tmp_path / "us.dcm", 1, 60, 80, SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1")
    findings = measured(path)
    document = written(findings, tmp_path / "sr.dcm")
    image = groups_of(document)[0].roi.ContentSequence[0].ReferencedSOPSequence[0]
    assert "ReferencedFrameNumber" not in image
    assert dciodvfy_errors(tmp_path / "sr.dcm") == []


def test_a_segmentation_of_something_else_is_refused(tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm", 3, 60, 80))
    seg = segmentation(findings)
    del seg.PerFrameFunctionalGroupsSequence[1]
    with pytest.raises(ResultError, match="no frame for segment 1 in frame 2"):
        report(findings, seg)


def test_a_label_map_is_referenced_by_its_frames(tmp_path):
    findings = measured(findings_case.clip(tmp_path / "us.dcm", 3, 120, 160))
    seg = segmentation(findings, "labelmap")
    document = written(findings, tmp_path / "sr.dcm", seg)
    for structure, group in zip(findings.structures, groups_of(document), strict=True):
        (area,) = group.get_measurements(AREA)
        assert area.referenced_images[0].referenced_frame_numbers == [structure.frame + 1]


def test_no_warning_quotes_the_patient(tmp_path):
    path = findings_case.clip(tmp_path / "us.dcm", 1, 60, 80, PatientName="Onlyonecomponent", PatientSex="X")
    findings = measured(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(findings)
