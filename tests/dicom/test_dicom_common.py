"""What every result has: the patient of its source, who made it and of what, and identifiers that repeat."""

from __future__ import annotations

import logging
import tracemalloc
from dataclasses import replace

import findings_case
import numpy as np
import pytest
from conformance import dciodvfy_errors, dcmftest
from highdicom._standard_utils import get_module_attribute_map
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from sonodistill.dicom.algorithm import Code, Segment
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Masks
from sonodistill.dicom.source import read_source
from sonodistill.dicom.write import modules
from sonodistill.dicom.write.check import check_references
from sonodistill.dicom.write.common import (
    KINDS,
    algorithm_identification,
    base_dataset,
    codes,
    evidence,
    instance_number,
    stamp,
    write_file,
)
from sonodistill.dicom.write.seg import segmentation

STILL = "examples_palette.dcm"


@pytest.fixture
def findings(tmp_path):
    return findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"))


def without_dates(ds: Dataset) -> Dataset:
    """A copy without what tells when it was made."""
    ds = Dataset.from_json(ds.to_json())
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime"):
        delattr(ds, keyword)
    for item in ds.ContributingEquipmentSequence:
        del item.ContributionDateTime
    return ds


def planted(tmp_path):
    """A clip with what a result must not take over, and with what it must."""
    issuer = Dataset()
    issuer.UniversalEntityID = "1.2.3"
    issuer.add_new(Tag(0x00110010), "LO", "PRIVATE")
    issuer.add_new(Tag(0x00111001), "LO", "hidden in an item")
    path = findings_case.clip(
        tmp_path / "us.dcm",
        OtherPatientNames="Former^Name",
        PatientAge="056Y",
        StudyDescription="Breast",
        Laterality="L",
        InstitutionName="Hospital",
        OperatorsName="Operator^One",
        StationName="ROOM1",
        SeriesDescription="left",
        ProtocolName="protocol",
        ImageComments="comments",
        DeviceSerialNumber="SN1",
    )
    ds = dcmread(path)
    ds.IssuerOfPatientIDQualifiersSequence = [issuer]
    ds.add_new(Tag(0x00190010), "LO", "PRIVATE")
    ds.add_new(Tag(0x00191001), "LO", "secret")
    ds.save_as(path)
    return path


@pytest.mark.parametrize(
    ("key", "keywords"),
    [
        ("patient", modules.PATIENT),
        ("general-study", modules.GENERAL_STUDY),
        ("patient-study", modules.PATIENT_STUDY),
    ],
)
def test_the_modules_are_those_of_the_standard(key, keywords):
    standard = {item["keyword"]: item["type"] for item in get_module_attribute_map()[key] if not item["path"]}
    assert set(keywords) - {"EthnicGroup"} == set(standard)  # retired of late
    always = {keyword for keyword, kind in standard.items() if kind in ("1", "2")}
    assert always == modules.REQUIRED & set(keywords)
    assert {keyword for keyword, kind in standard.items() if kind == "1C"} == modules.NEVER_EMPTY & set(keywords)


def test_the_patient_and_the_study_are_copied_and_nothing_else(tmp_path):
    path = planted(tmp_path)
    ds = segmentation(findings_case.random_findings(path))
    source = dcmread(path)
    assert (ds.OtherPatientNames, ds.PatientAge, ds.StudyDescription) == ("Former^Name", "056Y", "Breast")
    assert ds.IssuerOfPatientIDQualifiersSequence[0].UniversalEntityID == "1.2.3"
    assert not [element for element in ds.iterall() if element.tag.is_private]
    text = ds.to_json()
    for keyword in ("InstitutionName", "OperatorsName", "StationName", "ProtocolName", "ImageComments"):
        assert keyword not in ds
        assert str(source[keyword].value) not in text
    assert "Laterality" not in ds
    assert "hidden in an item" not in text
    assert ds.SeriesDescription != source.SeriesDescription
    assert "SN1" not in text
    assert {item.keyword for item in source if item.tag.is_private} == {""}, "the source was changed"
    assert len(source.IssuerOfPatientIDQualifiersSequence[0]) == 3


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", STILL])
def test_a_still_and_a_cine_say_alike_what_made_them(name):
    findings = findings_case.random_findings(findings_case.public_file(name))
    ds, algorithm = segmentation(findings), findings.algorithm
    assert (ds.Manufacturer, ds.ManufacturerModelName) == ("SonoDistill", "breast lesions")
    assert ds.DeviceSerialNumber == algorithm.weights_sha256
    assert list(ds.SoftwareVersions) == list(algorithm.software)
    assert ds.SeriesDescription == "AI breast lesions segments, research use, not for clinical use"
    (equipment,) = ds.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    for said in (algorithm.weights_sha256, algorithm.config_sha256, "Built with DINOv3", "not for clinical use"):
        assert said in equipment.ContributionDescription
    identified = ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.weights_sha256 in identified.AlgorithmParameters
    assert ds.BurnedInAnnotation == "NO"
    assert ds["PatientOrientation"].is_empty
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", STILL, "color-pl.dcm"])
@pytest.mark.parametrize("kind", ["binary", "fractional", "labelmap"])
def test_the_same_findings_give_the_same_object(kind, name):
    path = findings_case.public_file(name)
    first, second = (segmentation(findings_case.random_findings(path, overlap=False), kind) for _ in range(2))
    assert without_dates(first) == without_dates(second)


def test_identifiers_change_with_whatever_changes_the_result(findings, tmp_path):
    algorithm, source = findings.algorithm, findings.source
    other_study = read_source(findings_case.clip(tmp_path / "b.dcm", SOPInstanceUID=source.sop_uid))
    made = [
        replace(findings, algorithm=each)
        for each in (
            algorithm,
            replace(algorithm, weights_sha256="4a" * 32),
            replace(algorithm, settings={"threshold": 0.6}),
            replace(algorithm, version="1.0.1"),
            replace(algorithm, segments=(Segment("Lesion"), Segment("Cyst"))),
        )
    ]
    made += [
        replace(findings, source=other_study),
        findings_case.random_findings(findings_case.clip(tmp_path / "c.dcm", StudyInstanceUID=source.study_uid)),
    ]
    objects = [base_dataset(each, SegmentationStorage, kind) for each in made for kind in KINDS]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({ds[keyword].value for ds in objects}) == len(objects)
    again = base_dataset(findings, SegmentationStorage, "seg")
    assert again.SOPInstanceUID == objects[0].SOPInstanceUID
    assert len(again.SOPInstanceUID) <= 64
    assert again.SOPInstanceUID.is_valid


def test_instances_of_a_series_give_one_series(tmp_path):
    series = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4"}
    first, second = (
        base_dataset(
            findings_case.random_findings(findings_case.clip(tmp_path / f"{n}.dcm", InstanceNumber=n, **series)),
            SegmentationStorage,
            "seg",
        )
        for n in (4, 7)
    )
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert (first.InstanceNumber, second.InstanceNumber) == (4, 7)


def test_a_stamp_can_be_repeated(findings):
    ds = segmentation(findings)
    before = without_dates(ds)
    stamp(ds, findings, "seg")
    assert without_dates(ds) == before


def test_attributes_of_laterality_and_orientation_are_where_they_belong(findings):
    for sop_class, kind, laterality, orientation in (
        (SegmentationStorage, "seg", False, True),
        (ComprehensiveSRStorage, "sr", False, False),
        (GrayscaleSoftcopyPresentationStateStorage, "gsps", True, False),
        (SecondaryCaptureImageStorage, "sc", True, True),
    ):
        ds = base_dataset(findings, sop_class, kind)
        assert ("Laterality" in ds, "PatientOrientation" in ds) == (laterality, orientation)
        assert ds.get("BurnedInAnnotation") == {"seg": "NO", "sc": "YES"}.get(kind)
        assert len(ds.SeriesDescription) <= 64
        assert ("PresentationCreationDate" in ds, "ContentDate" in ds) == (kind == "gsps", kind != "gsps")


@pytest.mark.parametrize(
    ("given", "ratio"),
    [
        ({"PixelAspectRatio": [4, 3], "PixelSpacing": [1, 1]}, [4, 3]),
        ({"PixelSpacing": [0.3, 0.2]}, [3, 2]),
        ({"PixelAspectRatio": [1, 1]}, None),
        ({"PixelAspectRatio": [0, 3]}, None),
        ({"PixelAspectRatio": 4}, None),
        ({"PixelSpacing": [1e200, 1e-200]}, None),
        ({}, None),
    ],
)
def test_pixels_keep_their_shape(given, ratio, tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm", **given))
    for sop_class, kind in ((SegmentationStorage, "seg"), (SecondaryCaptureImageStorage, "sc")):
        assert base_dataset(findings, sop_class, kind).get("PixelAspectRatio") == ratio
    assert "PixelAspectRatio" not in base_dataset(findings, ComprehensiveSRStorage, "sr")


def test_times_are_in_the_time_zone_of_the_source(tmp_path):
    made = {}
    for offset in ("+1200", "-1100", "nonsense", None):
        path = findings_case.clip(tmp_path / "us.dcm", TimezoneOffsetFromUTC=offset)
        made[offset] = segmentation(findings_case.random_findings(path))
    assert made["+1200"].TimezoneOffsetFromUTC == "+1200"
    assert made["+1200"].ContributingEquipmentSequence[0].ContributionDateTime.endswith("+1200")
    assert made["+1200"].ContentDate + made["+1200"].ContentTime > made["-1100"].ContentDate + made["-1100"].ContentTime
    assert "TimezoneOffsetFromUTC" not in made[None]
    assert "TimezoneOffsetFromUTC" not in made["nonsense"]


def test_long_and_odd_texts_fit_their_attributes(tmp_path):
    algorithm = replace(
        findings_case.ALGORITHM,
        name="a\\b\n" + "long " * 40,
        version="v" * 100,
        software=("x" * 80, "tab\there"),
        licence="All of this has to go along. " * 100,
        segments=(
            Segment("l" * 90, type=Code("a-very-long-code-value", "99TEST", "m" * 90)),
            Segment("\\"),
        ),
    )
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"), algorithm=algorithm)
    write_file(segmentation(findings), tmp_path / "seg.dcm")
    assert dciodvfy_errors(tmp_path / "seg.dcm") == []
    ds = dcmread(tmp_path / "seg.dcm")
    assert ds.ManufacturerModelName.startswith("a b long")
    said = " ".join(item.ContributionDescription for item in ds.ContributingEquipmentSequence)
    assert said.count("All of this has to go along.") == 100
    assert ds.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].LongCodeValue == "a-very-long-code-value"
    assert ds.SegmentSequence[1].SegmentLabel == "Segment 2"


def test_values_that_break_their_rules_are_left_out_and_identifiers_kept(tmp_path):
    path = findings_case.clip(
        tmp_path / "us.dcm",
        PatientAge="56 years",
        PatientID="I" * 80,
        StudyDate="1997.04.24",
        StudyTime="14:04:38",
        PatientBirthDate="unknown",
        PatientComments="c" * 20000,
        InstanceNumber=None,
    )
    ds = segmentation(findings_case.random_findings(path))
    assert "PatientAge" not in ds
    assert "PatientComments" not in ds
    assert ds.PatientID == "I" * 80
    assert (ds.StudyDate, ds.StudyTime, ds.InstanceNumber) == ("19970424", "140438", 1)
    assert ds["PatientBirthDate"].is_empty


@pytest.mark.parametrize(("given", "number"), [("12", 12), ("0", 1), ("-4", 1), ("", 1), ("99999999999", 1)])
def test_instance_numbers(given, number, tmp_path):
    source = read_source(findings_case.clip(tmp_path / "us.dcm", InstanceNumber=given))
    assert instance_number(source) == number


@pytest.mark.parametrize("name", [STILL, "examples_ybr_color.dcm"])
def test_no_warning_and_no_log_line_quotes_the_patient(name, tmp_path, caplog, recwarn):
    ds = dcmread(findings_case.public_file(name))
    ds.PatientName, ds.PatientID, ds.PatientSex = "Quoted", "Q" * 70, "Quite wrong"
    ds.PatientAge = "Quoted"
    ds.save_as(tmp_path / "us.dcm")
    recwarn.clear()
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        findings = findings_case.random_findings(tmp_path / "us.dcm")
        write_file(segmentation(findings), tmp_path / "seg.dcm")
        check_references(tmp_path / "seg.dcm", findings)
    said = caplog.text + "".join(str(each.message) for each in recwarn)
    assert "Quoted" not in said
    assert "QQQ" not in said
    assert "Quite" not in said


def test_evidence_has_no_patient(tmp_path):
    source = evidence(findings_case.random_findings(planted(tmp_path)))
    assert "Secret" not in source.to_json()
    assert source["PatientName"].is_empty


def test_files_are_explicit_little_endian_with_a_preamble(tmp_path):
    for name in ("ExplVR_BigEnd.dcm", "gdcm-US-ALOKA-16.dcm", "examples_ybr_color.dcm"):
        path = tmp_path / "seg.dcm"
        write_file(segmentation(findings_case.random_findings(findings_case.public_file(name))), path)
        assert path.read_bytes()[:132] == bytes(128) + b"DICM"
        assert dcmread(path).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
        assert dcmftest(path)
    assert [each.name for each in tmp_path.iterdir()] == ["seg.dcm"]


def test_a_file_that_cannot_be_written_leaves_nothing(findings, tmp_path):
    ds = segmentation(findings)
    ds.PixelData = "no bytes"
    folder = tmp_path / "out"
    with pytest.raises(Exception):  # noqa: B017 - whatever pydicom raises for it
        write_file(ds, folder / "seg.dcm")
    assert list(folder.iterdir()) == []


def test_codes_and_algorithm(findings):
    item = codes(Code("52988006", "SCT", "Lesion"))
    assert (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == ("52988006", "SCT", "Lesion")
    item = algorithm_identification(replace(findings.algorithm, settings={"long": "x" * 20000}))
    assert len(item.AlgorithmParameters) == 10240
    assert item.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"


def _source_class(ds):
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPClassUID = "1.2.3"


def _another(ds):
    ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "1.2.3"


def _frame_of_the_future(ds):
    image = ds.PerFrameFunctionalGroupsSequence[1].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedFrameNumber = 6


def _no_reference(ds):
    del ds.ReferencedSeriesSequence, ds.PerFrameFunctionalGroupsSequence


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_source_class, "another SOP class"),
        (_another, "neither its source nor a result"),
        (_frame_of_the_future, "a frame its source does not have"),
        (_no_reference, "does not refer to its source"),
        (lambda ds: setattr(ds, "AccessionNumber", "7"), "AccessionNumber"),
        (lambda ds: setattr(ds, "PatientName", "Another^One"), "PatientName"),
        (lambda ds: setattr(ds, "SeriesInstanceUID", "1.2.3"), "identifiers"),
    ],
)
def test_a_result_of_someone_or_something_else_is_not_sent(change, said, findings, tmp_path):
    path = tmp_path / "seg.dcm"
    write_file(segmentation(findings), path)
    check_references(path, findings)
    ds = dcmread(path)
    change(ds)
    ds.save_as(path)
    with pytest.raises(ResultError, match=said) as refusal:
        check_references(path, findings)
    assert "Another" not in str(refusal.value)


def test_memory_does_not_hold_the_unpacked_masks(tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm", 40, 256, 256))
    peaks = []
    for frames in (20, 40):
        source = replace(findings.source, frames=frames)
        masks = Masks(2, 256, 256)
        for frame in range(frames):
            masks.append(findings.masks[frame], np.zeros(masks.shape, np.float32))
        tracemalloc.start()
        segmentation(replace(findings, source=source, masks=masks))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    unpacked = 20 * 2 * 256 * 256
    assert peaks[1] - peaks[0] < unpacked / 2
