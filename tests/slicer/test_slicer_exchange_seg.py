"""Labels of a DICOM cine as DICOM Segmentation, and such files back onto the frames that they are of."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("pydicom")
pytest.importorskip("sonodistill.dicom.write.seg", reason="needs sonodistill[dicom]")

import pydicom
from pydicom import examples
from slicer_cines import cine_of, square
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange.exports import export
from UltrasoundSegmentLib.exchange.records import frame_id
from UltrasoundSegmentLib.exchange.seg_load import load_dicom_seg
from UltrasoundSegmentLib.frames.dicom_cine import load_dicom
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

SIZE = (240, 320)
PATH = examples.get_path("ybr_color")
UID = str(pydicom.dcmread(PATH, stop_before_pixels=True).SOPInstanceUID)


@pytest.fixture
def cine(scene):
    return load_dicom(PATH, scene)


@pytest.fixture
def store(cine):
    store = MaskStore.of(cine, ["lesion", "cyst"])
    rng = np.random.default_rng(4)
    store.write(2, rng.integers(0, 3, SIZE).astype(np.uint8), Status.ACCEPTED, annotator="anna")
    store.write(7, square(SIZE, 30, 40, 60, 2), Status.EDITED, annotator="ben")
    store.write(11, np.zeros(SIZE, np.uint8), Status.ACCEPTED, annotator="anna")
    store.write(29, square(SIZE, 10, 10, 20), Status.ACCEPTED, annotator="anna")
    store.write(5, square(SIZE, 10, 10, 20), Status.SKIPPED, annotator="anna")
    return store


def exported(cine, store, out, statuses=(Status.ACCEPTED, Status.EDITED, Status.SKIPPED)):
    (file,) = export(cine, store, out, "dicom_seg", statuses).files
    return file


def changed(file, out, change):
    ds = pydicom.dcmread(file)
    change(ds)
    ds.save_as(out, enforce_file_format=True)
    return out


def test_every_mask_comes_back_to_its_frame_with_what_was_said(cine, store, tmp_path, scene):
    file = exported(cine, store, tmp_path)
    before = [(store.mask(index), store.info(index)) for index in range(cine.count)]
    assert load_dicom_seg(file, cine)[2].unchanged == [frame_id(cine, index) for index in (2, 7, 11, 29, 5)]
    scene.Clear(True)
    other = load_dicom(PATH, scene)
    found_cine, found, report = load_dicom_seg(file, scene)
    assert found_cine.browser is other.browser
    assert found.labels == ("lesion", "cyst")
    assert sorted(report.written) == [frame_id(other, index) for index in (2, 5, 7, 11, 29)]
    assert report.skipped == []
    for index, (mask, info) in enumerate(before):
        assert found.info(index) == {**info, "time": pytest.approx(info["time"], abs=2e-3)}
        if info["status"] is not Status.SKIPPED:
            np.testing.assert_array_equal(found.mask(index), mask)


def test_the_file_is_a_segmentation_of_those_frames(cine, store, tmp_path):
    ds = pydicom.dcmread(exported(cine, store, tmp_path))
    assert ds.SOPClassUID.name == "Segmentation Storage"
    assert (ds.Rows, ds.Columns, ds.NumberOfFrames) == (*SIZE, 2 * 4)
    assert [each.SegmentLabel for each in ds.SegmentSequence] == ["lesion", "cyst"]
    images = [each.DerivationImageSequence[0].SourceImageSequence[0] for each in ds.PerFrameFunctionalGroupsSequence]
    assert [image.ReferencedFrameNumber for image in images] == [3, 8, 12, 30] * 2
    assert {image.ReferencedSOPInstanceUID for image in images} == {UID}
    assert "clip" not in str(ds)


@pytest.mark.parametrize(
    ("statuses", "model", "kind"),
    [
        ([Status.ACCEPTED], "", "MANUAL"),
        ([Status.ACCEPTED, Status.EDITED], "net 3", "SEMIAUTOMATIC"),
        ([Status.ACCEPTED, Status.PREDICTED], "", "SEMIAUTOMATIC"),
        ([Status.PREDICTED, Status.PROPAGATED], "net 3", "AUTOMATIC"),
    ],
)
def test_it_says_how_much_of_it_people_did(cine, tmp_path, statuses, model, kind):
    store = MaskStore.of(cine, ["lesion"])
    for index, status in enumerate(statuses):
        who = "anna" if status.by_person else ""
        store.write(index, square(SIZE, 5, 5, 9), status, annotator=who, model=model)
    ds = pydicom.dcmread(exported(cine, store, tmp_path, statuses))
    assert ds.SegmentSequence[0].SegmentAlgorithmType == kind
    if kind == "MANUAL":
        assert ds.ContentCreatorName == "anna"
        assert "SegmentAlgorithmName" not in ds.SegmentSequence[0]


def test_frames_that_it_does_not_have_stay_as_they_are(cine, store, tmp_path):
    file = exported(cine, store, tmp_path, [Status.EDITED])
    mine = square(SIZE, 1, 1, 5)
    store.write(0, mine, Status.EDITED, annotator="carla")
    store.clear(7)
    report = load_dicom_seg(file, cine, store)[2]
    assert report.written == [frame_id(cine, 7)]
    np.testing.assert_array_equal(store.mask(0), mine)
    assert store.status(8) is Status.EMPTY


def test_a_persons_label_is_not_replaced(cine, store, tmp_path):
    file = exported(cine, store, tmp_path)
    mine = square(SIZE, 1, 1, 5)
    store.write(7, mine, Status.EDITED, annotator="carla")
    report = load_dicom_seg(file, cine, store)[2]
    assert [what for what, _ in report.skipped] == [frame_id(cine, 7)]
    np.testing.assert_array_equal(store.mask(7), mine)


def test_without_what_ours_say_besides_it_is_a_persons_draft_or_a_models(cine, store, tmp_path, scene):
    file = exported(cine, store, tmp_path)

    def strip(ds):
        ds.remove_private_tags()

    def automatic(ds):
        strip(ds)
        for each in ds.SegmentSequence:
            each.SegmentAlgorithmType, each.SegmentAlgorithmName = "AUTOMATIC", "their net"

    for change, status, model in ((strip, Status.EDITED, ""), (automatic, Status.PREDICTED, "their net")):
        for index in range(cine.count):
            store.clear(index)
        load_dicom_seg(changed(file, tmp_path / "changed.dcm", change), cine, store)
        assert [index for index, each in enumerate(store.statuses()) if each is status] == [2, 7, 11, 29]
        assert store.info(2)["model"] == model


def test_a_segmentation_of_another_image_is_refused_by_its_uid(cine, store, tmp_path):
    file = exported(cine, store, tmp_path)

    def elsewhere(ds):
        for each in ds.PerFrameFunctionalGroupsSequence:
            each.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"

    before = store.statuses()
    with pytest.raises(SegmentError, match=r"1\.2\.3\.4"):
        load_dicom_seg(changed(file, tmp_path / "x.dcm", elsewhere), cine, store)
    with pytest.raises(SegmentError, match="not open"):
        load_dicom_seg(tmp_path / "x.dcm", cine.scene)
    assert store.statuses() == before


def test_a_frame_that_the_cine_does_not_have_is_left_out(cine, store, tmp_path):
    file = exported(cine, store, tmp_path)

    def beyond(ds):
        ds.remove_private_tags()
        for each in ds.PerFrameFunctionalGroupsSequence:
            image = each.DerivationImageSequence[0].SourceImageSequence[0]
            if image.ReferencedFrameNumber == 30:
                image.ReferencedFrameNumber = 31

    for index in range(cine.count):
        store.clear(index)
    report = load_dicom_seg(changed(file, tmp_path / "x.dcm", beyond), cine, store)[2]
    assert len(report.written) == 3
    assert ["of frame 31" in reason for _, reason in report.skipped] == [True]


def _no_groups(ds):
    del ds.PerFrameFunctionalGroupsSequence


def _short(ds):
    ds.PixelData = ds.PixelData[:100]


def _fractional(ds):
    ds.SegmentationType, ds.BitsAllocated = "FRACTIONAL", 8


def _many(ds):
    ds.NumberOfFrames = 9


def _rows(ds):
    ds.Rows, ds.Columns = ds.Columns, ds.Rows


def _twins(ds):
    ds.SegmentSequence[1].SegmentLabel = "lesion"


def _overlapping(ds):
    ds.remove_private_tags()
    for each in ds.PerFrameFunctionalGroupsSequence:
        each.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1


@pytest.mark.parametrize("change", [_no_groups, _short, _fractional, _many, _rows, _twins, _overlapping])
def test_a_malformed_segmentation_is_refused_and_changes_nothing(cine, store, tmp_path, change):
    file = changed(exported(cine, store, tmp_path), tmp_path / "x.dcm", change)
    before = [store.info(index) for index in range(cine.count)]
    with pytest.raises(SegmentError, match="x.dcm"):
        load_dicom_seg(file, cine, store)
    assert [store.info(index) for index in range(cine.count)] == before


@pytest.mark.parametrize("name", ["image", "text", "torn", "nothing"])
def test_what_is_no_segmentation_is_refused_by_name(cine, store, tmp_path, name):
    path = tmp_path / "given.dcm"
    whole = exported(cine, store, tmp_path)
    if name == "image":
        path.write_bytes(Path(PATH).read_bytes())
    elif name == "text":
        path.write_text("no DICOM at all" * 100)
    elif name == "torn":
        path.write_bytes(Path(whole).read_bytes()[:3000])
    with pytest.raises(SegmentError, match="given.dcm"):
        load_dicom_seg(path, cine, store)


def test_highdicoms_segmentation_of_a_still_is_read(scene, tmp_path):
    """Of a single frame highdicom writes one, which has a frame for each segment that is not empty."""
    hd = pytest.importorskip("highdicom")
    from pydicom.sr.codedict import codes

    source = pydicom.dcmread(PATH)
    source.SOPClassUID = source.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.6.1"
    pixels = source.pixel_array[0]
    del source.NumberOfFrames, source.FrameTime, source.FrameIncrementPointer
    source.PhotometricInterpretation, source.PlanarConfiguration = "RGB", 0
    source.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    source.PixelData = np.ascontiguousarray(pixels).tobytes()
    source["PixelData"].is_undefined_length = False
    source.save_as(tmp_path / "still.dcm", enforce_file_format=True)
    described = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.Tissue, codes.SCT.Tissue, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in enumerate(("lesion", "cyst"), 1)
    ]
    mask = square(SIZE, 20, 30, 50, 2)
    for keyword in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyTime", "StudyDate"):
        if keyword not in source:
            setattr(source, keyword, "")
    segmentation = hd.seg.Segmentation(
        [source], mask[np.newaxis], "BINARY", described, hd.UID(), 1, hd.UID(), 1, "maker", "model", "1", "1"
    )
    segmentation.save_as(tmp_path / "seg.dcm")
    cine = load_dicom(tmp_path / "still.dcm", scene)
    _, store, report = load_dicom_seg(tmp_path / "seg.dcm", cine)
    assert report.skipped == []
    assert store.labels == ("lesion", "cyst")
    np.testing.assert_array_equal(store.mask(0), mask)
    assert store.status(0) is Status.EDITED


def test_an_export_stopped_between_its_steps_leaves_no_file(cine, store, tmp_path):
    from UltrasoundSegmentLib.exchange.exports import export_steps

    for count in (1, 4):
        steps = export_steps(cine, store, tmp_path / "out", "dicom_seg")
        for _ in range(count):
            next(steps)
        steps.close()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_cine_of_no_dicom_file_cannot_be_exported(scene, tmp_path):
    cine = cine_of(scene)
    store = MaskStore.of(cine, ["lesion"])
    store.write(0, square((48, 64), 1, 1, 4), Status.ACCEPTED, annotator="anna")
    with pytest.raises(SegmentError, match="not opened from a DICOM file"):
        export(cine, store, tmp_path / "out", "dicom_seg")
    cine.set_attribute("file", str(PATH))
    with pytest.raises(SegmentError, match="another image"):
        export(cine, store, tmp_path / "out", "dicom_seg")
    cine.set_attribute("file", str(tmp_path / "gone.dcm"))
    with pytest.raises(SegmentError, match="gone"):
        export(cine, store, tmp_path / "out", "dicom_seg")
    assert not (tmp_path / "out").exists()


def test_without_the_package_files_are_read_and_writing_says_what_to_install(cine, store, tmp_path, monkeypatch):
    file = exported(cine, store, tmp_path)
    for name in [name for name in sys.modules if name == "sonodistill" or name.startswith("sonodistill.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sonodistill", None)
    with pytest.raises(SegmentError, match=r"pip install sonodistill\[dicom\]"):
        export(cine, store, tmp_path / "again", "dicom_seg")
    assert len(load_dicom_seg(file, cine, store)[2].unchanged) == 5
