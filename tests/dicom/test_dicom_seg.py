"""Segmentations: what other programs say of them, and the same masks out as in."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import dicom_factory
import findings_case
import highdicom
import numpy as np
import pytest
from conformance import dcentvfy, dciodvfy_errors, dcmftest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom import dcmread
from pydicom.uid import JPEGBaseline8Bit, generate_uid

from sonodistill.dicom.algorithm import Segment
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings, Masks
from sonodistill.dicom.source import ULTRASOUND_CLASSES, US_IMAGE
from sonodistill.dicom.write.check import check_references, check_segmentation
from sonodistill.dicom.write.cine import pack_bits
from sonodistill.dicom.write.common import write_file
from sonodistill.dicom.write.seg import segmentation

# What the source itself has wrong, and a result cannot put right: frames in a class of single frames, identifiers that
# begin with 999, dates as ACR-NEMA wrote them, which are written today's way.
INHERITED = {
    "OBXXXX1A_2frame.dcm": "Referenced SOP Class that is not multi-frame",
    "OBXXXX1A_expb_2frame.dcm": "Referenced SOP Class that is not multi-frame",
    "color-pl.dcm": "Illegal root for UID",
    "color-px.dcm": "Illegal root for UID",
    "ExplVR_BigEnd.dcm": "versus <19970424>|versus <140438>",
}
KINDS = ("binary", "fractional", "labelmap")


def written(findings: Findings, kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.dcm"
    write_file(segmentation(findings, kind), path)
    return path


def expected(findings: Findings, kind: str) -> np.ndarray:
    """(N, H, W, C), as highdicom gives them."""
    frames = range(len(findings.masks))
    if kind == "fractional":
        found = np.stack([findings.masks.probability(frame) for frame in frames])
    else:
        found = np.stack([findings.masks[frame] for frame in frames]).astype(np.uint8)
    return np.moveaxis(found, 1, -1)


def read_by_highdicom(path: Path, findings: Findings, kind: str) -> np.ndarray:
    """(N, H, W, C)"""
    seg = highdicom.seg.segread(path)
    source = findings.source
    numbers = list(range(1, len(findings.algorithm.segments) + 1))
    options = {"segment_numbers": numbers, "assert_missing_frames_are_empty": False}
    if kind == "fractional":
        options["rescale_fractional"] = False
    if source.multiframe:
        return seg.get_pixels_by_source_frame(source.sop_uid, list(range(1, source.frames + 1)), **options)
    return seg.get_pixels_by_source_instance([source.sop_uid], **options)


def assert_sound(findings: Findings, kind: str, folder: Path) -> Path:
    """It conforms, other programs read it, and the masks are what they were."""
    path = written(findings, kind, folder)
    check_segmentation(path, findings)
    check_references(path, findings)
    np.testing.assert_array_equal(read_by_highdicom(path, findings, kind), expected(findings, kind))
    assert dcmftest(path)
    inherited = re.compile(INHERITED.get(findings.source.path.name, "(?!)"))
    assert [line for line in dcentvfy([findings.source.path, path]) if not inherited.search(line)] == []
    if kind != "labelmap":  # which Debian's dciodvfy, of 2022, does not know
        assert [line for line in dciodvfy_errors(path) if not inherited.search(line)] == []
    return path


@pytest.mark.parametrize("kind", ["binary", "fractional"])
@pytest.mark.parametrize("name", findings_case.PUBLIC)
def test_every_public_ultrasound_image(name, kind, tmp_path):
    path = findings_case.public_file(name)
    if name == "color3d_jpeg_baseline.dcm" and kind == "fractional":
        pytest.skip("its probabilities have 74 MB")
    assert_sound(findings_case.random_findings(path), kind, tmp_path)


def test_no_public_ultrasound_image_is_forgotten():
    for folder in findings_case.FOLDERS:
        for path in folder.rglob("*.dcm"):
            try:
                ds = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            except Exception:  # noqa: BLE001 - files that are damaged on purpose
                continue
            assert str(ds.get("SOPClassUID")) not in ULTRASOUND_CLASSES or path.name in findings_case.PUBLIC


def test_dicom_among_the_shared_data(shared, tmp_path):
    paths = sorted((shared / "data").rglob("*.dcm"))[:20]
    if not paths:
        pytest.skip("there is no DICOM among the shared data")
    for path in paths:
        assert_sound(findings_case.random_findings(path), "binary", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 5])
def test_odd_sizes_and_a_cine_of_one_frame(frames, kind, tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm", frames), overlap=False)
    path = assert_sound(findings, kind, tmp_path)
    ds = dcmread(path)
    assert ds.NumberOfFrames == frames * (1 if kind == "labelmap" else 2)
    first = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert first.ReferencedFrameNumber == 1
    assert "FrameOfReferenceUID" not in ds
    assert "PlanePositionSequence" not in ds.SharedFunctionalGroupsSequence[0]


def test_a_still_that_states_one_frame_is_referred_to_as_a_whole(tmp_path):
    path = findings_case.clip(tmp_path / "us.dcm", 1, SOPClassUID=US_IMAGE)
    findings = findings_case.random_findings(path)
    assert_sound(replace(findings, source=replace(findings.source, multiframe=False)), "binary", tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_still_names_no_frame(kind, tmp_path):
    path = findings_case.public_file("examples_palette.dcm")
    ds = dcmread(assert_sound(findings_case.random_findings(path, overlap=False), kind, tmp_path))
    for item in ds.PerFrameFunctionalGroupsSequence:
        assert "ReferencedFrameNumber" not in item.DerivationImageSequence[0].SourceImageSequence[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)])
def test_what_is_nowhere_keeps_its_segment_and_its_frames(empty, kind, tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"), empty=empty, overlap=False)
    ds = dcmread(assert_sound(findings, kind, tmp_path))
    assert ds.NumberOfFrames == (5 if kind == "labelmap" else 10)
    assert [item.SegmentLabel for item in ds.SegmentSequence][-2:] == ["Lesion", "Shadow"]


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_still(kind, tmp_path):
    path = findings_case.public_file("examples_rgb_color.dcm")
    assert_sound(findings_case.random_findings(path, empty=(0, 1)), kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_one_segment(kind, tmp_path):
    algorithm = replace(findings_case.ALGORITHM, segments=(Segment("Lesion"),))
    for path in (findings_case.clip(tmp_path / "us.dcm"), findings_case.public_file("examples_rgb_color.dcm")):
        ds = dcmread(assert_sound(findings_case.random_findings(path, algorithm=algorithm), kind, tmp_path))
        assert ds.SegmentsOverlap == "NO"


@pytest.mark.parametrize(
    ("character_set", "name"),
    [
        ("ISO_IR 192", "Müller^Łucja^文"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 100", "Müller^Jürgen"),
        (None, "Plain^Name"),
    ],
)
def test_names_survive_in_the_character_set_of_the_source(character_set, name, tmp_path):
    source = findings_case.clip(tmp_path / "us.dcm", SpecificCharacterSet=character_set, PatientName=name)
    ds = dcmread(assert_sound(findings_case.random_findings(source), "binary", tmp_path))
    assert str(ds.PatientName) == name
    assert ds.get("SpecificCharacterSet") == dcmread(source).get("SpecificCharacterSet")


def test_labels_that_the_character_set_of_the_source_lacks_make_it_utf8(tmp_path):
    segments = (Segment("Läsion 病変"), Segment("Schatten"))
    algorithm = replace(findings_case.ALGORITHM, segments=segments)
    source = findings_case.clip(tmp_path / "us.dcm", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    path = written(findings_case.random_findings(source, algorithm=algorithm), "binary", tmp_path)
    assert dciodvfy_errors(path) == []
    ds = dcmread(path)
    assert (ds.SpecificCharacterSet, str(ds.PatientName)) == ("ISO_IR 192", "Müller^Jürgen")
    assert ds.SegmentSequence[0].SegmentLabel == "Läsion 病変"


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_palette.dcm"])
def test_whether_segments_overlap_is_said(name, tmp_path):
    path = findings_case.public_file(name)
    assert segmentation(findings_case.random_findings(path)).SegmentsOverlap == "YES"
    assert segmentation(findings_case.random_findings(path, overlap=False)).SegmentsOverlap == "NO"
    with pytest.raises(ResultError, match="overlap"):
        segmentation(findings_case.random_findings(path), "labelmap")


def test_the_loss_of_the_source_is_told(tmp_path):
    ds = segmentation(findings_case.random_findings(findings_case.public_file("examples_ybr_color.dcm")))
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    ds = segmentation(findings_case.random_findings(findings_case.public_file("examples_jpeg2k.dcm")))
    assert ds.LossyImageCompression == "00" or "LossyImageCompressionMethod" in ds


def test_a_ratio_that_the_source_does_not_tell_is_that_of_its_size(tmp_path):
    image = np.zeros((64, 80), np.uint8)
    ds = dicom_factory.ultrasound(image[None], StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid())
    dicom_factory.encapsulated(ds, JPEGBaseline8Bit, [dicom_factory.jpeg(image)])
    path = dicom_factory.save(ds, tmp_path / "us.dcm")
    ds = segmentation(findings_case.random_findings(path))
    assert ds.LossyImageCompression == "01"
    assert ds.LossyImageCompressionRatio == pytest.approx(64 * 80 / path.stat().st_size, abs=0.01)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
@pytest.mark.parametrize("still", [False, True])
def test_the_frame_of_reference_is_that_of_the_source(still, kind, tmp_path):
    space = generate_uid()
    image = {"SOPClassUID": US_IMAGE, "NumberOfFrames": None} if still else {}
    path = findings_case.clip(tmp_path / "us.dcm", 1 if still else 3, FrameOfReferenceUID=space, **image)
    written_path = assert_sound(findings_case.random_findings(path, overlap=False), kind, tmp_path)
    assert dcmread(written_path).FrameOfReferenceUID == space
    path = findings_case.clip(tmp_path / "us.dcm", 1, FrameOfReferenceUID=None)
    assert "FrameOfReferenceUID" not in segmentation(findings_case.random_findings(path, overlap=False), kind)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.102.1"])
def test_a_video_is_lossy_in_whatever_fragments(syntax, tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"))
    findings.source.ds.file_meta.TransferSyntaxUID = syntax
    ds = segmentation(findings)
    assert (ds.LossyImageCompression, ds.LossyImageCompressionMethod) == ("01", "ISO_14496_10")


def test_the_places_of_the_frames_are_unique(tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"))
    frames = segmentation(findings).PerFrameFunctionalGroupsSequence
    places = {tuple(item.FrameContentSequence[0].DimensionIndexValues) for item in frames}
    assert places == {(segment, frame) for segment in (1, 2) for frame in range(1, 6)}


def test_masks_that_do_not_fit_are_refused(tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"))
    short = Masks(2, 37, 53)
    short.append(np.zeros((2, 37, 53), bool), np.zeros((2, 37, 53), np.float32))
    with pytest.raises(ResultError, match="1 masks of 37 x 53 for 5 frames"):
        segmentation(replace(findings, masks=short))
    with pytest.raises(ResultError, match="2 masks a frame, 1 segments"):
        segmentation(replace(findings, algorithm=replace(findings.algorithm, segments=(Segment("Lesion"),))))


def test_four_gibibytes_are_refused_before_anything_is_made(tmp_path):
    class Many(Masks):
        def __len__(self) -> int:
            return 1 << 20

    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"))
    source = replace(findings.source, frames=1 << 20, rows=128, columns=128)
    with pytest.raises(ResultError, match="GiB"):
        segmentation(replace(findings, source=source, masks=Many(2, 128, 128)))


def altered(path: Path, change) -> Path:
    ds = dcmread(path)
    change(ds)
    ds.save_as(path)
    return path


def _flip(ds):
    ds.PixelData = bytes([ds.PixelData[0] ^ 1]) + ds.PixelData[1:]


def _swap(ds):
    frames = ds.PerFrameFunctionalGroupsSequence
    frames[0], frames[1] = frames[1], frames[0]


def _refer(ds):
    image = ds.PerFrameFunctionalGroupsSequence[3].DerivationImageSequence[0].SourceImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.3"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        _flip,
        _swap,
        _refer,
        lambda ds: setattr(ds, "PixelData", ds.PixelData[:-2]),
        lambda ds: setattr(ds, "PatientID", "another"),
        lambda ds: setattr(ds, "StudyInstanceUID", "1.2.3"),
        lambda ds: setattr(ds, "SOPInstanceUID", "1.2.3"),
        lambda ds: ds.PerFrameFunctionalGroupsSequence.pop(),
        lambda ds: ds.SegmentSequence.pop(),
        lambda ds: delattr(ds, "PerFrameFunctionalGroupsSequence"),
    ],
)
def test_a_segmentation_that_says_something_else_is_not_sent(change, kind, tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"), overlap=False)
    path = written(findings, kind, tmp_path)
    check_segmentation(path, findings)
    with pytest.raises(ResultError):
        check_segmentation(altered(path, change), findings)


def test_a_truncated_segmentation_is_not_sent(tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm"))
    path = written(findings, "binary", tmp_path)
    whole = path.read_bytes()
    for size in (0, 100, 400, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ResultError):
            check_segmentation(path, findings)


@given(
    frames=st.integers(1, 7)
    .flatmap(lambda n: st.tuples(st.just(n), st.integers(1, 11), st.integers(1, 11)))
    .flatmap(lambda shape: arrays.arrays(np.bool_, shape))
)
@settings(max_examples=100, deadline=None)
def test_bits_are_packed_across_frames_without_padding(frames):
    file = io.BytesIO()
    pack_bits(frames, file)
    assert file.getvalue() == np.packbits(frames.ravel(), bitorder="little").tobytes()
