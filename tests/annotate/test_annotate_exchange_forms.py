"""What other programs find in the exported PNG, NIfTI and COCO files, and what is made of theirs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator

import cv2
import exchange_case as case
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from sonodistill.annotate.exchange import export, import_labels, rle
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Status

MASKS = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))
WITHOUT_COCO = "pycocotools is not installed (pip install pycocotools)"


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory) -> Iterator:
    found = case.studies(tmp_path_factory.mktemp("exchange"))
    yield found
    found.close()


@pytest.fixture
def labels(catalogue, tmp_path) -> Iterator:
    """Frames 0, 3 (empty) and 4 (skipped) of the cine, 2 of the volume, and the still."""
    found = case.store(tmp_path)
    cine = case.named(catalogue, "ybr")
    case.say(catalogue, found, cine, 0, classification="benign")
    found.save(FrameId(cine.id, 3), np.zeros((240, 320), bool), status=Status.ACCEPTED, annotator="alice")
    found.save(FrameId(cine.id, 4), None, status=Status.SKIPPED, annotator="alice")
    case.say(catalogue, found, case.named(catalogue, "volume"), 2)
    case.say(catalogue, found, case.named(catalogue, "still"), 0)
    yield found
    found.close()


@pytest.fixture
def empty(tmp_path) -> Iterator:
    (tmp_path / "empty").mkdir()
    found = case.store(tmp_path / "empty")
    yield found
    found.close()


def written(catalogue, labels, tmp_path, form: str, **more):
    export(catalogue, labels, tmp_path / form, form, statuses=case.EVERY, **more)
    return tmp_path / form


# PNG


def test_the_index_says_what_each_frame_is(catalogue, labels, tmp_path):
    folder = written(catalogue, labels, tmp_path, "png")
    said = json.loads((folder / "labels.json").read_text())
    assert (said["labels"], said["classes"]) == (list(case.NAMES), list(case.CLASSES))
    records = {record["frame"]: record for record in said["frames"]}
    cine = case.named(catalogue, "ybr")
    first = records[f"{cine.id}.f00000"]
    assert (first["name"], first["index"], first["status"]) == ("ybr_color.dcm", 0, "accepted")
    assert (first["annotator"], first["classification"], first["time_ms"]) == ("alice", "benign", 0.0)
    assert first["saved"].startswith("20")
    frame = catalogue.frame(FrameId(cine.id, 0))
    assert first["mm_per_pixel"] == (frame.mm_per_pixel and list(frame.mm_per_pixel))
    assert records[f"{case.named(catalogue, 'still').id}.f00000"]["mm_per_pixel"] is None
    assert "no physical scale" in records[f"{case.named(catalogue, 'still').id}.f00000"]["calibration_note"]
    assert records[f"{cine.id}.f00004"]["mask"] is None
    assert not (folder / "index.csv").exists()  # it would name images that are not there
    mask = cv2.imread(str(folder / first["mask"]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, labels.get(FrameId(cine.id, 0)).mask)


def test_the_folder_can_be_trained_on(catalogue, labels, tmp_path):
    labelled = pytest.importorskip("sonodistill_training.corpus.labelled")
    folder = written(catalogue, labels, tmp_path, "png", images=True)
    frames = labelled.read_labelled(folder)
    assert len(frames) == 4  # not the skipped one
    cine, volume = case.named(catalogue, "ybr"), case.named(catalogue, "volume")
    by_name = {frame.image.stem: frame for frame in frames}
    first = by_name[f"{cine.id}.f00000"]
    assert (first.label, first.group) == ("benign", cine.group)
    image = cv2.imread(str(first.image), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(image, catalogue.frame(FrameId(cine.id, 0)).image)
    spacing = catalogue.frame(FrameId(cine.id, 0)).mm_per_pixel
    assert first.mm_per_pixel == (spacing and pytest.approx(spacing[0], rel=0.01))
    assert by_name[f"{volume.id}.f00002"].mm_per_pixel is None  # its pixels are not square
    with (folder / "index.csv").open() as file:
        assert next(csv.reader(file)) == ["file", "mask", "label", "group", "split", "mm_per_pixel"]


# NIfTI


@pytest.mark.parametrize("name", ["ybr", "volume", "still"])
def test_nibabel_and_simpleitk_read_the_volumes(catalogue, labels, name, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    item = case.named(catalogue, name)
    path = written(catalogue, labels, tmp_path, "nifti") / f"{item.id}.nii.gz"
    index = 2 if name == "volume" else 0
    expected = labels.get(FrameId(item.id, index)).mask
    image = nibabel.load(path)
    values = np.asanyarray(image.dataobj)
    assert (values.dtype, values.shape) == (np.uint8, (*expected.T.shape, item.frames))
    assert np.array_equal(values[:, :, index].T, expected)
    assert values.sum() == expected.sum()
    spacing = catalogue.frame(FrameId(item.id, index)).mm_per_pixel
    assert image.header.get_xyzt_units()[0] == ("mm" if spacing else "unknown")
    assert image.header.get_zooms()[:2] == pytest.approx(tuple(reversed(spacing)) if spacing else (1, 1))
    read = sitk.ReadImage(str(path))
    assert np.array_equal(sitk.GetArrayFromImage(read)[index], expected)
    if name == "volume":  # it lies on its source
        source = sitk.ReadImage(str(item.path))
        assert read.GetSize() == source.GetSize()
        assert read.GetSpacing() == pytest.approx(case.SPACING)
        assert read.GetOrigin() == pytest.approx(source.GetOrigin())
        assert read.GetDirection() == pytest.approx(source.GetDirection())
        assert image.affine == pytest.approx(nibabel.load(item.path).affine)
    else:
        assert read.GetDirection() == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))


def test_the_sidecar_tells_empty_frames_from_those_nobody_looked_at(catalogue, labels, tmp_path):
    cine = case.named(catalogue, "ybr")
    said = json.loads((written(catalogue, labels, tmp_path, "nifti") / f"{cine.id}.json").read_text())
    assert [(record["index"], record["mask"]) for record in said["frames"]] == [(0, True), (3, True), (4, False)]
    assert (said["file"], said["shape"]) == (f"{cine.id}.nii.gz", [30, 240, 320])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_volumes_that_nibabel_wrote(catalogue, empty, kind, suffix, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    cine = case.named(catalogue, "ybr")
    values = np.zeros((320, 240, 30), kind)
    values[:, :, 7] = case.blobs((240, 320)).T
    path = tmp_path / f"{cine.id}.{suffix}"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    report = import_labels(catalogue, empty, path, annotator="bob")
    assert (report.written, report.skipped) == ([f"{cine.id}.f00007"], [])  # nothing is known of the others
    found = empty.get(FrameId(cine.id, 7))
    assert np.array_equal(found.mask, case.blobs((240, 320)))
    assert (found.row.status, found.row.annotator) == (Status.EDITED, "bob")


def test_a_frame_painted_in_an_exported_volume_is_taken_over(catalogue, labels, empty, tmp_path):
    cine = case.named(catalogue, "ybr")
    path = written(catalogue, labels, tmp_path, "nifti") / f"{cine.id}.nii.gz"
    image = sitk.ReadImage(str(path))
    image[10:20, 30:40, 8] = 2
    image[10:20, 30:40, 4] = 1  # which was skipped
    sitk.WriteImage(image, str(path))
    report = import_labels(catalogue, empty, path, annotator="bob")
    assert report.written == [f"{cine.id}.f0000{index}" for index in (0, 3, 4, 8)]
    assert np.argwhere(empty.get(FrameId(cine.id, 8)).mask == 2).tolist()[0] == [30, 10]
    assert empty.get(FrameId(cine.id, 8)).row.status is Status.EDITED
    assert empty.get(FrameId(cine.id, 4)).row.status is Status.EDITED


def test_scaled_values_and_other_byte_orders_are_understood(catalogue, empty, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    still = case.named(catalogue, "still")
    mask = case.blobs((40, 50))
    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nibabel.Nifti1Image(2 * mask.T[:, :, None].astype(np.int16), np.eye(4), header)
    image.header.set_slope_inter(0.5, 0)
    path = tmp_path / f"{still.id}.nii"
    nibabel.save(image, path)
    read = nibabel.load(path)
    assert (read.header.endianness, np.unique(read.dataobj).tolist()) == (">", [0, 1, 2])
    assert import_labels(catalogue, empty, path, annotator="bob").skipped == []
    assert np.array_equal(empty.get(FrameId(still.id, 0)).mask, mask)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((50, 40, 1), 0.5, np.float32), "no label numbers"),
        (np.full((50, 40, 1), -1, np.int16), "no label numbers"),
        (np.full((50, 40, 1), np.nan, np.float32), "no label numbers"),
        (np.full((50, 40, 1), 3, np.uint8), "names no label"),
        (np.ones((40, 50, 1), np.uint8), "the frame (40, 50)"),
        (np.ones((50, 40, 2), np.uint8), "has 2 frames, the item 1"),
        (np.ones((50, 40, 1, 2), np.uint8), "no stack of frames"),
        (np.ones((50, 40, 1), np.complex64), "which no label is"),
    ],
)
def test_volumes_that_hold_no_labels_of_the_item(catalogue, empty, values, reason, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / f"{case.named(catalogue, 'still').id}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    report = import_labels(catalogue, empty, path, annotator="bob")
    assert report.written == []
    assert reason in report.skipped[0].reason


# COCO


@given(mask=MASKS)
@settings(max_examples=60, deadline=None)
def test_run_lengths_and_outlines_are_exact(mask):
    assert np.array_equal(rle.decode(rle.encode(mask), mask.shape), mask)
    rebuilt = np.zeros_like(mask)
    for region in rle.regions(mask, 1000):
        left, top, width, height = region.box
        if region.outline is None:
            rebuilt[top : top + height, left : left + width] |= region.part
        else:
            filled = rle.fill(region.outline, mask.shape)
            assert region.pixels == filled.sum() == region.part.sum()
            rebuilt |= filled
    assert np.array_equal(rebuilt, mask)
    assert len(rle.regions(mask, 0)) == int(mask.any())


@given(mask=MASKS)
@settings(max_examples=60, deadline=None)
def test_pycocotools_decodes_the_same(mask):
    coco = pytest.importorskip("pycocotools.mask", reason=WITHOUT_COCO)
    ours = rle.encode(mask)
    theirs = coco.frPyObjects(ours, *mask.shape)
    assert np.array_equal(coco.decode(theirs), mask)
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(rle.decode({**packed, "counts": packed["counts"].decode()}, mask.shape), mask)
    for region in rle.regions(mask, 1000):
        if region.outline:
            filled = coco.decode(coco.frPyObjects([region.outline], *mask.shape))[:, :, 0]
            assert np.array_equal(filled, rle.fill(region.outline, mask.shape))


def test_pycocotools_reads_the_file(catalogue, labels, tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason=WITHOUT_COCO)
    from pycocotools import mask as masks

    read = coco.COCO(str(written(catalogue, labels, tmp_path, "coco", images=True) / "annotations.json"))
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == list(case.NAMES)
    kinds = set()
    for image in read.loadImgs(read.getImgIds()):
        assert (tmp_path / "coco" / image["file_name"]).is_file()
        found = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in read.loadAnns(read.getAnnIds(imgIds=image["id"])):
            pixels = read.annToMask(annotation)
            encoded = masks.encode(np.asfortranarray(pixels))
            assert (masks.area(encoded), masks.toBbox(encoded).tolist()) == (annotation["area"], annotation["bbox"])
            assert annotation["iscrowd"] == 0
            kinds.add(type(annotation["segmentation"]))
            found[pixels > 0] = annotation["category_id"]
        label = labels.get(FrameId(image["sonodistill"]["item"], image["sonodistill"]["index"]))
        assert np.array_equal(found, np.zeros_like(found) if label.mask is None else label.mask)
    assert kinds == {list, dict}  # polygons, and run lengths for what has a hole


def coco_file(tmp_path, **changes) -> dict:
    """A file of another program: a triangle and a square with a hole of run lengths on the still."""
    square = np.zeros((40, 50), bool)
    square[20:30, 20:30] = True
    square[24:26, 24:26] = False
    said = {
        "images": [{"id": 5, "file_name": changes.pop("file_name"), "height": 40, "width": 50}],
        "categories": [{"id": 90, "name": "acoustic shadow"}, {"id": 17, "name": "lesion"}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 17, "segmentation": [[0, 0, 10, 0, 0, 10]]},
            {"id": 2, "image_id": 5, "category_id": 90, "segmentation": rle.encode(square), "iscrowd": 1},
        ],
    }
    said.update(changes)
    (tmp_path / "instances.json").write_text(json.dumps(said))
    return said


def test_a_file_of_another_program(catalogue, empty, tmp_path):
    still = case.named(catalogue, "still")
    coco_file(tmp_path, file_name=f"images\\{still.id}.jpg")
    report = import_labels(catalogue, empty, tmp_path / "instances.json", annotator="bob", status=Status.ACCEPTED)
    assert (report.written, report.skipped) == ([f"{still.id}.f00000"], [])
    label = empty.get(FrameId(still.id, 0))
    assert [(label.mask == number).sum() for number in (1, 2)] == [45, 96]
    assert (label.mask[0, 8], label.mask[0, 9], label.mask[24, 24]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotations": []}, "may be one that nobody looked at"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "segmentation": []}]}, "category that is not listed"),
        ({"annotations": [{"image_id": 5, "category_id": 17, "bbox": [1, 2, 3, 4]}]}, "only a box"),
        ({"annotations": [{"image_id": 5, "category_id": 17, "segmentation": [[0, 0, 1]]}]}, "three points"),
        ({"annotations": [{"image_id": 5, "category_id": 17, "segmentation": [[0, 0, "1", 2, 3, 4]]}]}, "no number"),
        (
            {"annotations": [{"image_id": 5, "category_id": 17, "segmentation": {"size": [40, 50], "counts": [9]}}]},
            "do not add up",
        ),
        (
            {"annotations": [{"image_id": 5, "category_id": 17, "segmentation": {"size": [40, 50], "counts": "\x7f"}}]},
            "malformed",
        ),
        (
            {"annotations": [{"image_id": 5, "category_id": 17, "segmentation": {"size": [9**9, 9], "counts": []}}]},
            "another size",
        ),
        ({"images": [{"id": 5, "file_name": "../../etc/passwd.png", "height": 40, "width": 50}]}, "no image 'passwd'"),
        ({"categories": [{"id": 17, "name": "kidney"}, {"id": 90, "name": "lesion"}]}, "no label 'kidney'"),
        ({"categories": {}}, "no list of categories"),
    ],
)
def test_a_frame_that_cannot_be_understood_is_refused_as_a_whole(catalogue, empty, changes, reason, tmp_path):
    coco_file(tmp_path, file_name=f"{case.named(catalogue, 'still').id}.png", **changes)
    report = import_labels(catalogue, empty, tmp_path / "instances.json", annotator="bob")
    assert report.written == []
    assert reason in report.skipped[0].reason


def test_an_image_of_another_size_is_not_decoded(catalogue, empty, tmp_path):
    still = case.named(catalogue, "still")
    image = {"id": 5, "file_name": f"{still.id}.png", "height": 8000, "width": 8000}
    coco_file(tmp_path, file_name="", images=[image])
    ((_, reason),) = import_labels(catalogue, empty, tmp_path / "instances.json", annotator="bob").skipped
    assert "(8000, 8000)" in reason


def test_labels_that_overlap_are_refused(catalogue, empty, tmp_path):
    still = case.named(catalogue, "still")
    both = [{"image_id": 5, "category_id": category, "segmentation": [[0, 0, 10, 0, 0, 10]]} for category in (17, 90)]
    coco_file(tmp_path, file_name=f"{still.id}.png", annotations=both)
    ((_, reason),) = import_labels(catalogue, empty, tmp_path / "instances.json", annotator="bob").skipped
    assert "overlap" in reason
