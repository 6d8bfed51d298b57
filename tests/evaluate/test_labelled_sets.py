"""Labelled sets: what is read, what is kept for the next time, and what is refused."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry import get
from sonodistill_training.evaluate.data import cached_sets, read_set

sys.path.insert(0, str(Path(__file__).parent))
from folder_case import make_folder, rows_of, write_rows


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("sets") / "simulated")


@pytest.fixture
def changed(tmp_path):
    return make_folder(tmp_path / "changed", 8)


def test_the_truth_is_the_mask_on_the_frames_own_grid(simulated):
    data = read_set("simulated", simulated, 32)
    row = rows_of(simulated)[1]
    mask = cv2.imread(str(simulated / row["mask"]), cv2.IMREAD_GRAYSCALE) > 0
    assert mask.any()
    np.testing.assert_array_equal(data.truth(1), mask)
    assert data.images.shape == (20, 1, 32, 32)
    assert data.masks([1]).shape == (1, 1, 32, 32)
    assert set(np.unique(data.masks(range(20)))) == {0, 1}


def test_pixel_sizes_come_from_the_index_and_stay_unknown_without_one(changed):
    rows = rows_of(changed)
    rows[0]["mm_per_pixel"], rows[1]["mm_per_pixel"] = "0.25", ""
    write_rows(changed, rows)
    data = read_set("changed", changed, 32)
    assert data.spacing(0) == (0.25, 0.25)
    assert data.spacing(1) is None


@pytest.mark.parametrize("size", ["-0.1", "0", "nan", "wide"])
def test_a_pixel_size_that_is_none_is_refused(changed, size):
    rows = rows_of(changed)
    rows[2]["mm_per_pixel"] = size
    write_rows(changed, rows)
    with pytest.raises(DatasetError, match="mm_per_pixel"):
        read_set("changed", changed, 32)


def test_what_was_read_is_the_same_from_the_cache(simulated, tmp_path):
    first = read_set("simulated", simulated, 32, tmp_path)
    again = read_set("simulated", simulated, 32, tmp_path)
    assert again.sha256 == first.sha256
    assert (again.files, again.groups, again.labels, again.given) == (
        first.files,
        first.groups,
        first.labels,
        first.given,
    )
    np.testing.assert_array_equal(again.images, first.images)
    for row in range(len(first)):
        np.testing.assert_array_equal(again.truth(row), first.truth(row))
    larger = read_set("simulated", simulated, 48, tmp_path)
    assert larger.sha256 == first.sha256
    assert cached_sets(tmp_path, {first.sha256})["simulated"].input_size == 48
    assert not cached_sets(tmp_path, {"another"})


def test_a_changed_mask_makes_another_set(changed, tmp_path):
    before = read_set("changed", changed, 32, tmp_path)
    row = rows_of(changed)[1]
    mask = np.zeros((64, 64), np.uint8)
    mask[5:20, 5:20] = 255
    cv2.imwrite(str(changed / row["mask"]), mask)
    assert read_set("changed", changed, 32, tmp_path).sha256 != before.sha256


def test_a_mask_of_another_size_than_its_frame_is_refused_by_name(changed):
    row = rows_of(changed)[1]
    cv2.imwrite(str(changed / row["mask"]), np.zeros((32, 64), np.uint8))
    with pytest.raises(DatasetError, match="32 x 64 pixels, its frame") as caught:
        read_set("changed", changed, 32)
    assert caught.value.path.name == row["mask"].rpartition("/")[2]


def test_a_mask_with_a_label_outside_the_map_is_refused_by_name(changed):
    row = rows_of(changed)[1]
    mask = np.zeros((64, 64), np.uint8)
    mask[:9], mask[9:20] = 1, 2
    cv2.imwrite(str(changed / row["mask"]), mask)
    with pytest.raises(DatasetError, match="labels outside the map") as caught:
        read_set("changed", changed, 32)
    assert caught.value.path.name == row["mask"].rpartition("/")[2]


def test_a_frame_that_is_named_twice_is_refused(changed):
    rows = rows_of(changed)
    write_rows(changed, [*rows, rows[0]])
    with pytest.raises(DatasetError, match="more than once"):
        read_set("changed", changed, 32)


def test_a_path_that_leaves_the_folder_is_refused(changed):
    rows = rows_of(changed)
    outside = changed.parent.parent / "elsewhere.png"
    outside.write_bytes((changed / rows[0]["file"]).read_bytes())
    rows[0]["file"] = "../../elsewhere.png"
    write_rows(changed, rows)
    with pytest.raises(DatasetError, match="is outside"):
        read_set("changed", changed, 32)


def test_a_clip_is_refused_because_one_frame_of_it_would_be_judged(changed):
    import pydicom.examples

    rows = rows_of(changed)
    (changed / "clip.dcm").write_bytes(pydicom.examples.get_path("rgb_color").read_bytes())
    rows[0] |= {"file": "clip.dcm", "mask": ""}
    write_rows(changed, rows)
    assert len(read_set("changed", changed, 32)) == 8  # a still in DICOM is as good as any
    (changed / "clip.dcm").write_bytes(pydicom.examples.get_path("ybr_color").read_bytes())
    with pytest.raises(DatasetError, match="is a clip or volume"):
        read_set("changed", changed, 32)


def test_ddti_is_read_as_published(shared):
    folder = shared / "data/raw/ddti"
    data = read_set("ddti", folder, 32)
    annotated = [row for row in range(len(data)) if data.truths[row] is not None]
    assert (len(data), len(annotated), len(set(data.groups))) == (480, 465, 390)
    items = {item.file.name: item for item in get("ddti").items(folder)}
    row = annotated[7]
    expected = items[data.files[row]].mask.load(tuple(data.shapes[row])) > 0
    np.testing.assert_array_equal(data.truth(row), expected)


def test_busi_normals_have_empty_masks_and_no_calibration(shared):
    data = read_set("busi", shared / "data/frames/busi", 32)
    empty = [label for row, label in enumerate(data.labels) if not data.truth(row).any()]
    assert empty == ["normal"] * 133
    assert all(data.spacing(row) is None for row in range(len(data)))
