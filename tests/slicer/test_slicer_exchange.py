"""Labels to files and back: segmentation files of Slicer, PNG with JSON, COCO."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from slicer_cines import cine_of, square
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange import rle
from UltrasoundSegmentLib.exchange.coco import import_coco
from UltrasoundSegmentLib.exchange.exports import export
from UltrasoundSegmentLib.exchange.png import import_png
from UltrasoundSegmentLib.exchange.records import frame_id, item_of
from UltrasoundSegmentLib.exchange.seg_nrrd import import_seg_nrrd
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

import slicer

SIZE = (48, 64)
FORMS = ("seg.nrrd", "png", "coco")
ALL = (Status.ACCEPTED, Status.EDITED, Status.PREDICTED, Status.PROPAGATED, Status.SKIPPED)
TORN = (
    b"NRRD0004\ntype: unsigned char\ndimension: 3\nsizes: 4 4 4\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    b"encoding: raw\nspace origin: (0,0,0)\nSegment0_ID:=a\n\nxx"
)
READ = {"seg.nrrd": import_seg_nrrd, "png": import_png, "coco": import_coco}


@pytest.fixture
def cine(scene):
    cine = cine_of(scene, count=7)
    cine.set_attribute("file", "/data/clips/clip 1.dcm")
    return cine


@pytest.fixture
def store(cine):
    store = MaskStore.of(cine, ["lesion", "cyst"])
    rng = np.random.default_rng(2)
    store.write(0, rng.integers(0, 3, SIZE).astype(np.uint8), Status.ACCEPTED, annotator="anna", model="net 3")
    store.write(1, square(SIZE, 3, 4, 9, 2), Status.EDITED, annotator="ben")
    store.write(3, square(SIZE, 8, 8, 5), Status.PREDICTED, confidence=0.75, model="net 3")
    store.write(4, np.zeros(SIZE, np.uint8), Status.ACCEPTED, annotator="anna")
    store.write(5, square(SIZE, 8, 8, 5), Status.SKIPPED, annotator="anna")
    return store


def written(report, suffix):
    (path,) = [file for file in report.files if file.endswith(suffix)]
    return path


def exported(cine, store, tmp_path, form, statuses=ALL, **more):
    report = export(cine, store, tmp_path / "out", form, statuses, **more)
    return report, written(report, {"png": "labels.json", "coco": "annotations.json"}.get(form, form))


def emptied(cine, store):
    for index in range(cine.count):
        store.clear(index)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_exported_and_imported_again_is_the_same(cine, store, tmp_path, form):
    before = [(store.mask(index), store.info(index)) for index in range(cine.count)]
    report, path = exported(cine, store, tmp_path, form)
    assert report.written == [frame_id(cine, index) for index in (0, 1, 3, 4, 5)]
    assert READ[form](path, cine, store).unchanged == [frame_id(cine, index) for index in (0, 1, 3, 4, 5)]
    emptied(cine, store)
    read = READ[form](path, cine, store)
    assert read.written == report.written
    assert read.skipped == []
    for index, (mask, info) in enumerate(before):
        found = store.info(index)
        assert found == {**info, "time": pytest.approx(info["time"], abs=2e-3)}
        if info["status"] is not Status.SKIPPED:
            np.testing.assert_array_equal(store.mask(index), mask)


@pytest.mark.parametrize("form", FORMS)
def test_only_what_people_made_is_exported_unless_told_otherwise(cine, store, tmp_path, form):
    report = export(cine, store, tmp_path / "out", form)
    assert report.written == [frame_id(cine, index) for index in (0, 1, 4)]
    assert [what for what, _ in report.skipped] == [frame_id(cine, 3), frame_id(cine, 5)]


@pytest.mark.parametrize("form", FORMS)
def test_a_persons_label_is_replaced_only_when_asked(cine, store, tmp_path, form):
    _, path = exported(cine, store, tmp_path, form)
    mine = square(SIZE, 30, 30, 5)
    store.write(0, mine, Status.EDITED, annotator="carla")
    store.write(3, mine, Status.ACCEPTED, annotator="carla")
    report = READ[form](path, cine, store)
    assert [what for what, _ in report.skipped] == [frame_id(cine, 0), frame_id(cine, 3)]
    np.testing.assert_array_equal(store.mask(0), mine)
    READ[form](path, cine, store, replace=True)
    assert store.status(0) is Status.ACCEPTED
    assert store.status(3) is Status.PREDICTED


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_another_cine_are_refused_by_name(cine, store, tmp_path, form, scene):
    _, path = exported(cine, store, tmp_path, form)
    other = cine_of(scene, count=7)
    other.set_attribute("file", "/data/clips/clip 2.dcm")
    theirs = MaskStore.of(other, ["cyst", "lesion"])
    report = READ[form](path, other, theirs)
    assert report.written == []
    assert all("another item" in reason for _, reason in report.skipped)
    assert set(theirs.statuses()) == {Status.EMPTY}


@pytest.mark.parametrize("form", FORMS)
def test_labels_find_their_numbers_by_name(cine, store, tmp_path, form, scene):
    _, path = exported(cine, store, tmp_path, form)
    other = cine_of(scene, count=7)
    other.set_attribute("file", "/data/clips/clip 1.dcm")
    theirs = MaskStore.of(other, ["organ", "cyst"])
    READ[form](path, other, theirs)
    assert theirs.labels == ("organ", "cyst", "lesion")
    np.testing.assert_array_equal(theirs.mask(0), np.array([0, 3, 2], np.uint8)[store.mask(0)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe\x00garbage", b"NRRD0004\ntype: float\n\nxx", TORN])
def test_garbage_is_refused_and_changes_nothing(cine, store, tmp_path, form, content):
    before = [store.info(index) for index in range(cine.count)]
    path = tmp_path / {"png": "labels.json", "coco": "annotations.json"}.get(form, "x.seg.nrrd")
    path.write_bytes(content)
    with pytest.raises(SegmentError):
        READ[form](path, cine, store)
    assert [store.info(index) for index in range(cine.count)] == before
    assert cine.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1


def test_an_export_that_fails_leaves_no_file(cine, store, tmp_path):
    with pytest.raises(SegmentError, match="no form"):
        export(cine, store, tmp_path / "a", "bmp")
    with pytest.raises(SegmentError, match="propagated"):
        export(cine, store, tmp_path / "b", "png", [Status.PROPAGATED])
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "theirs").touch()
    with pytest.raises(SegmentError, match="not empty"):
        export(cine, store, tmp_path / "c", "png")
    (tmp_path / "file").touch()
    with pytest.raises(SegmentError, match="cannot be written"):
        export(cine, store, tmp_path / "file", "coco")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["c", "file", "theirs"]


@pytest.mark.parametrize(("form", "left"), [("seg.nrrd", 0), ("coco", 0), ("png", 2)])
def test_an_export_stopped_between_its_steps_leaves_nothing_that_looks_whole(cine, store, tmp_path, form, left):
    from UltrasoundSegmentLib.exchange.exports import export_steps

    steps = export_steps(cine, store, tmp_path / "out", form, ALL)
    next(steps)
    next(steps)
    steps.close()
    found = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(found) == left
    assert "labels.json" not in found


def test_a_png_outside_the_folder_is_not_opened(cine, store, tmp_path):
    _, path = exported(cine, store, tmp_path, "png")
    index = tmp_path / "out" / "labels.json"
    said = json.loads(index.read_text())
    secret = tmp_path / "secret.png"
    secret.write_bytes((tmp_path / "out" / said["frames"][0]["mask"]).read_bytes())
    said["frames"][0]["mask"] = "../secret.png"
    said["frames"][1]["mask"] = "masks/none.png"
    index.write_text(json.dumps(said))
    emptied(cine, store)
    report = import_png(path, cine, store)
    assert [what for what, _ in report.skipped] == [frame_id(cine, 0), frame_id(cine, 1)]
    assert store.status(0) is Status.EMPTY


def test_images_go_along_when_asked(cine, store, tmp_path):
    report, _ = exported(cine, store, tmp_path, "png", images=True)
    records = json.loads((tmp_path / "out" / "labels.json").read_text())["frames"]
    assert all((tmp_path / "out" / record["image"]).is_file() for record in records)
    first = records[0]
    assert (first["rows"], first["columns"], first["mm_per_pixel"]) == (*SIZE, [0.5, 0.5])
    assert (first["time_ms"], first["status"], first["annotator"]) == (0.0, "accepted", "anna")
    assert len(report.files) == 5 + 4 + 1


def test_names_of_people_become_what_the_server_takes(cine, store, tmp_path):
    store.write(0, square(SIZE, 1, 1, 3), Status.ACCEPTED, annotator="Dr. Jürgen Groß")
    exported(cine, store, tmp_path, "png")
    records = json.loads((tmp_path / "out" / "labels.json").read_text())["frames"]
    assert records[0]["annotator"] == "Dr._J_rgen_Gro_"
    assert records[2]["annotator"] == "model"


def test_a_segmentation_file_opens_in_slicer_with_its_segments(cine, store, tmp_path):
    _, path = exported(cine, store, tmp_path, "seg.nrrd")
    node = cine.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    cine.scene.AddNode(storage)
    storage.SetFileName(path)
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    names = [segmentation.GetSegment(each).GetName() for each in segmentation.GetSegmentIDs()]
    assert names == ["lesion", "cyst"]
    from UltrasoundSegmentLib.frames.image import matrix_of
    from UltrasoundSegmentLib.masks import pixels

    found = pixels.read(segmentation, store.segment_ids, SIZE, matrix_of(cine.volume(0)))
    np.testing.assert_array_equal(found, store.mask(0))


def test_simpleitk_reads_a_segmentation_file_as_labels(cine, store, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    _, path = exported(cine, store, tmp_path, "seg.nrrd")
    image = sitk.ReadImage(path)
    values = sitk.GetArrayFromImage(image)
    assert values.shape == (7, *SIZE)
    for index in (0, 1, 3, 4):
        np.testing.assert_array_equal(values[index], store.mask(index))
    assert not values[[2, 5, 6]].any()
    assert image.GetSpacing() == (0.5, 0.5, 1.0)


def test_a_sweep_is_written_where_its_planes_lie_and_a_3d_segmentation_read_onto_them(scene, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    from UltrasoundSegmentLib.frames.image import image_data, to_matrix
    from UltrasoundSegmentLib.frames.sweep import SweepPlan, sweep

    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "block")
    image = image_data(np.zeros((1, 10 * 12 * 14), np.uint8))
    image.SetDimensions(14, 12, 10)
    volume.SetAndObserveImageData(image)
    volume.SetIJKToRASMatrix(to_matrix(np.diag([-0.5, -0.6, 0.8, 1.0])))
    sagittal = sweep(volume, SweepPlan.axis("sagittal"), scene)
    store = MaskStore.of(sagittal, ["a", "b"])
    rng = np.random.default_rng(3)
    for index in range(sagittal.count):
        mask = rng.integers(0, 3, sagittal.frame(index).image.shape).astype(np.uint8)
        store.write(index, mask, Status.ACCEPTED, annotator="anna")
    _, path = exported(sagittal, store, tmp_path, "seg.nrrd")
    assert np.prod(sitk.ReadImage(path).GetSpacing()) == pytest.approx(0.5 * 0.6 * 0.8)

    # As another program's file: the planes of another sweep find their pixels by place.
    content = tmp_path / "foreign.seg.nrrd"
    content.write_bytes(Path(path).read_bytes().replace(b"\nSonoDistill:=", b"\nSomething:="))
    axial = sweep(volume, SweepPlan.axis("axial"), scene)
    theirs = MaskStore.of(axial, ["b"])
    report = import_seg_nrrd(content, axial, theirs)
    assert len(report.written) == axial.count
    assert set(theirs.statuses()) == {Status.EDITED}
    total = [sum(int((store.mask(index) == number).sum()) for index in range(sagittal.count)) for number in (1, 2)]
    found = [sum(int((theirs.mask(index) == number).sum()) for index in range(axial.count)) for number in (2, 1)]
    assert found == total


def test_coco_of_another_program_with_polygons(cine, store, tmp_path):
    emptied(cine, store)
    frame = frame_id(cine, 2)
    path = tmp_path / "theirs.json"
    said = {
        "images": [
            {"id": 7, "file_name": f"frames/{frame}.jpg", "height": 48, "width": 64},
            {"id": 8, "file_name": f"{frame_id(cine, 3)}.jpg", "height": 48, "width": 64},
        ],
        "categories": [{"id": 11, "name": "cyst"}, {"id": 4, "name": "organ"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 11, "segmentation": [[10, 5, 20, 5, 20, 15, 10, 15]]},
            {"id": 2, "image_id": 7, "category_id": 4, "segmentation": rle.encode(square(SIZE, 30, 30, 4) > 0)},
        ],
    }
    path.write_text(json.dumps(said))
    report = import_coco(path, cine, store)
    assert report.written == [frame]
    assert [what for what, _ in report.skipped] == [frame_id(cine, 3)]
    assert store.labels == ("lesion", "cyst", "organ")
    np.testing.assert_array_equal(store.mask(2), square(SIZE, 5, 10, 10, 2) | square(SIZE, 30, 30, 4, 3))
    assert store.status(2) is Status.EDITED


def test_run_lengths_are_those_of_coco():
    mask = np.array([[0, 1], [1, 1]], bool)
    assert rle.encode(mask) == {"size": [2, 2], "counts": [1, 3]}
    assert rle.encode(np.ones((2, 2), bool))["counts"] == [0, 4]
    assert rle.encode(np.zeros((2, 2), bool))["counts"] == [4]
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random((7, 9)) < rng.random()
        np.testing.assert_array_equal(rle.decode(rle.encode(mask), (7, 9)), mask)
    # pycocotools.mask.encode of the 4 x 5 mask with rows 1 and 2 of columns 1 to 3 set.
    decoded = rle.decode({"size": [4, 5], "counts": "5220003"}, (4, 5))
    assert decoded[1:3, 1:4].all()
    assert decoded.sum() == 6
    for bad in ({"size": [2, 2], "counts": [1, 2]}, {"size": [2, 3], "counts": [4]}, {"size": [2, 2], "counts": "~~"}):
        with pytest.raises(SegmentError):
            rle.decode(bad, (2, 2))


def test_the_servers_program_takes_the_files(cine, store, tmp_path):
    """``sonodistill label import`` reads PNG and COCO by these functions; they need the label extra."""
    pytest.importorskip("filelock", reason="needs sonodistill[label]")
    from sonodistill.annotate.exchange import coco, png

    for form, module in (("png", png), ("coco", coco)):
        report = export(cine, store, tmp_path / form, form, ALL)
        found = list(module.read(Path(written(report, ".json"))))
        assert [entry.frame for entry in found] == report.written
        for entry, index in zip(found, (0, 1, 3, 4, 5), strict=True):
            mask = entry.mask() if callable(entry.mask) else entry.mask
            assert entry.names == store.labels
            assert entry.said.status.value == store.status(index).value
            if index == 5:
                assert mask is None
            else:
                np.testing.assert_array_equal(mask, store.mask(index))


def test_an_item_is_called_as_the_server_calls_it(cine):
    ids = pytest.importorskip("sonodistill.annotate.ids")
    assert item_of(cine) == ids.item_id("clip 1.dcm")
    cine.set_attribute("item", "given-by-the-server")
    assert frame_id(cine, 12) == "given-by-the-server.f00012"
