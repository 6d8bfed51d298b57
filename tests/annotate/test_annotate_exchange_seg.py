"""Labels as DICOM Segmentation: what independent programs say of them, and segmentations of other programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import exchange_case as case
import findings_case
import numpy as np
import pytest
from conformance import dcentvfy, dciodvfy_errors, dcmftest
from orthanc import orthanc
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, generate_uid

from sonodistill.annotate.exchange import export, import_labels
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import MODEL, Status
from sonodistill.annotate.remote.catalogue import WebCatalogue
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Masks
from sonodistill.dicom.write.check import check_references, check_segmentation
from sonodistill.dicom.write.common import write_file
from sonodistill.dicom.write.seg import segmentation

highdicom = pytest.importorskip("highdicom", reason="highdicom is not installed (pip install sonodistill[dicom])")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Iterator:
    found = case.studies(tmp_path_factory.mktemp("exchange"))
    yield found
    found.close()


@pytest.fixture
def labels(tmp_path) -> Iterator:
    found = case.store(tmp_path)
    yield found
    found.close()


@pytest.fixture
def empty(tmp_path) -> Iterator:
    (tmp_path / "empty").mkdir()
    found = case.store(tmp_path / "empty")
    yield found
    found.close()


def written(catalogue, labels, item, out):
    report = export(catalogue, labels, out, "seg", statuses=case.EVERY)
    assert report.skipped == []
    return out / f"{item.id}.dcm"


def frames_of(path):
    return dcmread(path).PerFrameFunctionalGroupsSequence


@pytest.mark.parametrize("name", ["ybr", "palette"])
def test_highdicom_reads_the_labelled_frames_and_no_others(catalogue, labels, name, tmp_path):
    item = case.named(catalogue, name)
    frames = [2, 3, 17] if item.is_cine else [0]
    for index in frames:
        case.say(catalogue, labels, item, index, seed=index)
    if item.is_cine:
        labels.save(FrameId(item.id, 9), np.zeros((240, 320), bool), status=Status.ACCEPTED, annotator="alice")
        frames = [2, 3, 9, 17]
    path = written(catalogue, labels, item, tmp_path / "out")
    seg = highdicom.seg.segread(path)
    uid = str(dcmread(item.path, stop_before_pixels=True).SOPInstanceUID)
    assert seg.NumberOfFrames == 2 * len(frames)
    assert [seg.get_segment_description(number).segment_label for number in (1, 2)] == list(case.NAMES)
    options = {"combine_segments": True, "assert_missing_frames_are_empty": True}
    if item.is_cine:
        found = seg.get_pixels_by_source_frame(uid, [index + 1 for index in frames], **options)
    else:
        found = seg.get_pixels_by_source_instance([uid], **options)
    for pixels, index in zip(found, frames, strict=True):
        assert np.array_equal(pixels, labels.get(FrameId(item.id, index)).mask)
    if item.is_cine:
        with pytest.raises(ValueError, match="frame"):
            seg.get_pixels_by_source_frame(uid, [30], combine_segments=True)
        referred = [frame.DerivationImageSequence[0].SourceImageSequence[0] for frame in frames_of(path)]
        assert {image.ReferencedFrameNumber for image in referred} == {index + 1 for index in frames}
    assert dcmftest(path)
    assert dciodvfy_errors(path) == []
    assert dcentvfy([item.path, path]) == []


@pytest.mark.parametrize(
    ("more", "kind", "algorithm"),
    [
        ({}, "MANUAL", None),
        ({"model": "interactive 3"}, "SEMIAUTOMATIC", "interactive 3"),
        ({"status": Status.PROPAGATED}, "SEMIAUTOMATIC", "annotation"),
        ({"status": Status.PREDICTED, "annotator": MODEL, "model": "segmentation 1"}, "AUTOMATIC", "segmentation 1"),
    ],
)
def test_who_drew_it_is_said(catalogue, labels, more, kind, algorithm, tmp_path):
    item = case.named(catalogue, "ybr")
    case.say(catalogue, labels, item, 1, **more)
    path = written(catalogue, labels, item, tmp_path / "out")
    ds = dcmread(path)
    for segment in ds.SegmentSequence:
        assert (segment.SegmentAlgorithmType, segment.get("SegmentAlgorithmName")) == (kind, algorithm)
        assert ("SegmentationAlgorithmIdentificationSequence" in segment) == (kind != "MANUAL")
    assert ds.ContentCreatorName == ("SonoDistill" if kind == "AUTOMATIC" else "alice")
    assert ds.SeriesDescription.startswith("AI ") == (kind == "AUTOMATIC")
    assert "Weights" not in ds.ContributingEquipmentSequence[0].ContributionDescription
    assert ds.PatientID == dcmread(item.path, stop_before_pixels=True).PatientID
    assert item.name.encode() not in path.read_bytes()
    assert dciodvfy_errors(path) == []


def test_other_masks_are_another_object_of_the_same_series(catalogue, labels, tmp_path):
    item = case.named(catalogue, "ybr")
    case.say(catalogue, labels, item, 1)
    first = dcmread(written(catalogue, labels, item, tmp_path / "first"))
    again = dcmread(written(catalogue, labels, item, tmp_path / "again"))
    case.say(catalogue, labels, item, 1, seed=4)
    changed = dcmread(written(catalogue, labels, item, tmp_path / "changed"))
    assert first.SOPInstanceUID == again.SOPInstanceUID != changed.SOPInstanceUID
    assert first.SeriesInstanceUID == changed.SeriesInstanceUID


def test_what_is_no_ultrasound_instance_or_has_no_mask_is_skipped(catalogue, labels, tmp_path):
    cine, still = case.named(catalogue, "ybr"), case.named(catalogue, "still")
    case.say(catalogue, labels, still, 0)
    labels.save(FrameId(cine.id, 0), None, status=Status.SKIPPED, annotator="alice")
    report = export(catalogue, labels, tmp_path / "out", "seg", statuses=case.EVERY)
    assert report.written == []
    reasons = dict(report.skipped)
    assert "no DICOM instance" in reasons[str(FrameId(still.id, 0))]
    assert "none of its frames has a mask" in reasons[str(FrameId(cine.id, 0))]
    assert list((tmp_path / "out").iterdir()) == []


def test_without_the_private_attribute_masks_and_frames_remain(catalogue, labels, empty, tmp_path):
    item = case.named(catalogue, "ybr")
    case.say(catalogue, labels, item, 1, classification="benign")
    labels.save(FrameId(item.id, 2), None, status=Status.SKIPPED, annotator="alice")
    path = written(catalogue, labels, item, tmp_path / "out")
    ds = dcmread(path)
    ds.remove_private_tags()
    ds.save_as(path)
    (skipped,) = import_labels(catalogue, empty, path, annotator=None).skipped
    assert "nobody is named" in skipped.reason
    report = import_labels(catalogue, empty, path, annotator="bob")
    assert (report.written, report.skipped) == ([str(FrameId(item.id, 1))], [])
    label = empty.get(FrameId(item.id, 1))
    assert np.array_equal(label.mask, labels.get(FrameId(item.id, 1)).mask)
    assert (label.row.status, label.row.classification) == (Status.EDITED, "")


def positioned(path):
    """A copy of a cine with made-up positions, as highdicom wants them, under the UIDs of the cine."""
    ds = dcmread(path)
    ds.FrameOfReferenceUID = generate_uid()
    orientation, measures = highdicom.PlaneOrientationSequence("PATIENT", (1, 0, 0, 0, 1, 0)), [1.0, 1.0]
    shared = Dataset()
    shared.PlaneOrientationSequence = orientation
    shared.PixelMeasuresSequence = highdicom.PixelMeasuresSequence(measures, 1.0)
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for index in range(int(ds.NumberOfFrames)):
        frame = Dataset()
        frame.PlanePositionSequence = highdicom.PlanePositionSequence("PATIENT", (0, 0, index))
        ds.PerFrameFunctionalGroupsSequence.append(frame)
    return ds


def identification(by: str):
    if by == "MANUAL":
        return None
    family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    return highdicom.AlgorithmIdentificationSequence("somebody's model", family, "1")


def of_highdicom(source, pixels, kind: str, labels=case.NAMES, by: str = "MANUAL"):
    code = highdicom.sr.CodedConcept("52988006", "SCT", "Lesion")
    descriptions = [
        highdicom.seg.SegmentDescription(number, name, code, code, by, identification(by))
        for number, name in enumerate(labels, 1)
    ]
    return highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="somebody",
        manufacturer_model_name="something",
        software_versions="1",
        device_serial_number="1",
    )


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("name", ["ybr", "palette"])
def test_segmentations_of_highdicom(catalogue, empty, name, kind, tmp_path):
    item = case.named(catalogue, name)
    shape = case.shape_of(catalogue, item)
    pixels = np.zeros((item.frames, *shape), np.uint8)
    drawn = [4, 11] if item.is_cine else [0]
    for index in drawn:
        pixels[index] = case.blobs(shape, index)
    of_highdicom(positioned(item.path) if item.is_cine else dcmread(item.path), pixels, kind).save_as(
        tmp_path / "hd.dcm"
    )
    report = import_labels(catalogue, empty, tmp_path / "hd.dcm", annotator="bob", status=Status.ACCEPTED)
    assert (report.written, report.skipped) == ([str(FrameId(item.id, index)) for index in drawn], [])
    for index in drawn:
        assert np.array_equal(empty.get(FrameId(item.id, index)).mask, pixels[index])


def test_what_a_model_made_elsewhere_is_a_prediction_here_until_a_person_says_otherwise(catalogue, empty, tmp_path):
    item = case.named(catalogue, "palette")
    pixels = case.blobs(case.shape_of(catalogue, item))[np.newaxis]
    names = [name.upper() for name in case.NAMES]
    of_highdicom(dcmread(item.path), pixels, "BINARY", names, by="AUTOMATIC").save_as(tmp_path / "hd.dcm")
    assert import_labels(catalogue, empty, tmp_path / "hd.dcm", annotator="bob").skipped == []
    row = empty.get(FrameId(item.id, 0)).row
    assert (row.status, row.annotator, row.model) == (Status.PREDICTED, MODEL, "somebody's model")
    import_labels(catalogue, empty, tmp_path / "hd.dcm", annotator="bob", status=Status.ACCEPTED)
    row = empty.get(FrameId(item.id, 0)).row
    assert (row.status, row.annotator) == (Status.ACCEPTED, "bob")
    assert np.array_equal(empty.get(FrameId(item.id, 0)).mask, pixels[0])


@pytest.mark.parametrize("kind", ["binary", "fractional", "labelmap"])
def test_some_frames_of_a_clip_in_every_kind_of_segmentation(kind, tmp_path):
    findings = findings_case.random_findings(findings_case.clip(tmp_path / "us.dcm", 6), overlap=False)
    masks = Masks(2, 37, 53, keep_probabilities=True)
    for frame in (1, 4):
        masks.append(findings.masks[frame], findings.masks.probability(frame) / np.float32(255))
    some = replace(findings, masks=masks, frames=(1, 4))
    path = tmp_path / "seg.dcm"
    write_file(segmentation(some, kind), path)
    check_segmentation(path, some)
    check_references(path, some)
    seg = highdicom.seg.segread(path)
    options = {"segment_numbers": [1, 2], **({"rescale_fractional": False} if kind == "fractional" else {})}
    found = seg.get_pixels_by_source_frame(findings.source.sop_uid, [2, 5], **options)
    for pixels, frame in zip(found, (1, 4), strict=True):
        expected = findings.masks.probability(frame) if kind == "fractional" else findings.masks[frame]
        assert np.array_equal(np.moveaxis(pixels, -1, 0), expected)
    assert kind == "labelmap" or dciodvfy_errors(path) == []
    with pytest.raises(ResultError, match="not those of the source"):
        check_segmentation(path, replace(some, frames=(1, 3)))
    for frames in ((4, 1), (1, 6), (1, 1), ()):
        with pytest.raises(ResultError):
            segmentation(replace(some, frames=frames), kind)


def test_a_clip_that_is_there_twice_and_one_that_is_not_there(labels, empty, tmp_path):
    catalogue = case.studies(tmp_path)
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 1)
    path = written(catalogue, labels, cine, tmp_path / "out")
    copy = catalogue.studies / "copy.dcm"
    copy.write_bytes(cine.path.read_bytes())
    catalogue.refresh()
    assert import_labels(catalogue, empty, path, annotator=None).written == [str(FrameId(cine.id, 1))]
    ds = dcmread(path)
    ds.remove_private_tags()
    ds.save_as(path)
    (skipped,) = import_labels(catalogue, empty, path, annotator="bob").skipped
    assert "several files" in skipped.reason
    copy.unlink()
    cine.path.unlink()
    catalogue.refresh()
    (skipped,) = import_labels(catalogue, empty, path, annotator="bob").skipped
    assert "not among the studies" in skipped.reason
    catalogue.close()


def test_the_item_is_found_where_the_studies_have_other_folders(catalogue, labels, empty, tmp_path):
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 1)
    path = written(catalogue, labels, cine, tmp_path / "out")
    (tmp_path / "studies" / "elsewhere").mkdir(parents=True)
    (tmp_path / "studies" / "elsewhere" / "renamed.dcm").write_bytes(cine.path.read_bytes())
    other = type(catalogue)(tmp_path / "studies", tmp_path / "work")
    (item,) = other.items()
    assert item.id != cine.id
    report = import_labels(other, empty, path, annotator=None)
    assert (report.written, report.skipped) == ([str(FrameId(item.id, 1))], [])
    assert empty.get(FrameId(item.id, 1)).row.status is Status.ACCEPTED
    other.close()


def test_malformed_segmentations_are_refused_with_a_reason(catalogue, labels, empty, tmp_path):
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 1)
    path = written(catalogue, labels, cine, tmp_path / "out")

    def reason(change) -> str:
        ds = dcmread(path)
        change(ds)
        ds.save_as(tmp_path / "changed.dcm")
        report = import_labels(catalogue, empty, tmp_path / "changed.dcm", annotator="bob", replace=True)
        assert report.written == []
        return report.skipped[0].reason

    def frames(ds, number: int):
        return ds.PerFrameFunctionalGroupsSequence[number].DerivationImageSequence[0].SourceImageSequence[0]

    assert "too few" in reason(lambda ds: setattr(ds, "PixelData", bytes(10)))
    assert "describes 2" in reason(lambda ds: setattr(ds, "NumberOfFrames", 400))
    assert "FRACTIONAL" in reason(lambda ds: setattr(ds, "SegmentationType", "FRACTIONAL"))
    assert "lacks" in reason(lambda ds: delattr(ds, "SegmentSequence"))
    assert "lacks" in reason(lambda ds: delattr(ds, "Rows"))
    assert "no frame, or on several" in reason(lambda ds: setattr(frames(ds, 0), "ReferencedFrameNumber", [1, 2]))
    assert "which frame" in reason(lambda ds: [delattr(frames(ds, n), "ReferencedFrameNumber") for n in (0, 1)])
    assert "no frame 98" in reason(lambda ds: [setattr(frames(ds, n), "ReferencedFrameNumber", 99) for n in (0, 1)])
    assert "the frame (240, 320)" in reason(lambda ds: [setattr(ds, "Rows", 320), setattr(ds, "Columns", 240)])
    assert "no label 'kidney'" in reason(
        lambda ds: [ds.remove_private_tags(), setattr(ds.SegmentSequence[0], "SegmentLabel", "kidney")]
    )
    assert "no segmentation" in import_labels(catalogue, empty, cine.path, annotator="bob").skipped[0].reason


def test_what_could_unfold_to_any_size_is_not_opened(catalogue, labels, empty, tmp_path):
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, labels, cine, 1)
    ds = dcmread(written(catalogue, labels, cine, tmp_path / "out"))
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(tmp_path / "deflated.dcm")
    (skipped,) = import_labels(catalogue, empty, tmp_path / "deflated.dcm", annotator="bob").skipped
    assert "deflated" in skipped.reason


def test_labels_that_the_character_set_of_the_source_lacks(empty, tmp_path):
    (tmp_path / "studies").mkdir()
    findings_case.clip(tmp_path / "studies" / "us.dcm", 3, SpecificCharacterSet="ISO_IR 100", PatientName="Müller")
    catalogue = type(case.studies(tmp_path / "other"))(tmp_path / "studies", tmp_path / "work")
    (item,) = catalogue.items()
    names = ("Läsion 病変", "a\\b")
    (tmp_path / "named").mkdir()
    labels = case.store(tmp_path / "named", names)
    labels.save(FrameId(item.id, 2), case.blobs((37, 53)), status=Status.ACCEPTED, annotator="alice")
    path = written(catalogue, labels, item, tmp_path / "out")
    assert dciodvfy_errors(path) == []
    assert dcmread(path).SegmentSequence[0].SegmentLabel == names[0]
    (tmp_path / "again").mkdir()
    again = case.store(tmp_path / "again", names)
    assert import_labels(catalogue, again, path, annotator=None).skipped == []
    case.assert_same(labels, again)
    for each in (labels, again, catalogue):
        each.close()


def test_through_a_pacs_and_back(labels, empty, tmp_path):
    with orthanc(tmp_path, settings={"AuthenticationEnabled": False}) as pacs:
        pacs.upload(findings_case.public_file("examples_ybr_color.dcm"))
        catalogue = WebCatalogue(pacs.web, tmp_path / "instances")
        (item,) = catalogue.items()
        case.say(catalogue, labels, item, 2, classification="benign")
        labels.save(FrameId(item.id, 5), None, status=Status.SKIPPED, annotator="alice")
        path = written(catalogue, labels, item, tmp_path / "out")
        catalogue.store([path])
        uid = dcmread(path, stop_before_pixels=True).SOPInstanceUID
        (stored,) = pacs.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": uid}})
        (tmp_path / "fetched.dcm").write_bytes(pacs.file(stored))
        report = import_labels(catalogue, empty, tmp_path / "fetched.dcm", annotator=None)
        assert (len(report.written), report.skipped) == (2, [])
        case.assert_same(labels, empty)
        catalogue.close()
