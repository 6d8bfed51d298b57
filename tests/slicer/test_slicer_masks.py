"""Masks of a cine in MRML: honest empty frames, statuses, edits by Segment Editor, labels."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from slicer_cines import LPS, cine_of, draw_as_segment_editor, square
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

SIZE = (48, 64)
ONE = square(SIZE, 5, 6, 7, 1)
TWO = square(SIZE, 20, 20, 5, 2) | ONE


@pytest.fixture
def cine(scene):
    return cine_of(scene)


@pytest.fixture
def store(cine):
    return MaskStore.of(cine, ["lesion", "cyst"])


def test_every_frame_begins_empty_and_no_frame_changes_by_being_visited(cine, store):
    store.write(2, TWO, Status.PREDICTED, confidence=0.8, model="net 3")
    store.watch("anna")
    for _ in range(2):
        for index in range(cine.count):
            cine.select(index)
    assert [int(store.mask(index).sum()) for index in range(cine.count)] == [0, 0, int(TWO.sum()), 0, 0, 0]
    assert store.statuses() == [Status.PREDICTED if index == 2 else Status.EMPTY for index in range(cine.count)]


def test_a_mask_comes_back_as_it_was_written(store):
    mask = np.random.default_rng(3).integers(0, 3, SIZE).astype(np.uint8)
    assert store.write(4, mask, Status.ACCEPTED, annotator="anna")
    np.testing.assert_array_equal(store.mask(4), mask)
    info = store.info(4)
    assert (info["status"], info["annotator"], info["confidence"], info["model"]) == (Status.ACCEPTED, "anna", None, "")
    assert info["time"] > 1e9


def test_the_proxy_shows_the_selected_frame(cine, store):
    cine.select(1)
    store.write(1, ONE, Status.PREDICTED)
    proxy = store.segmentation_proxy()
    assert proxy.GetSegmentation() is store.sequence.GetNthDataNode(1).GetSegmentation()
    assert proxy.GetAttribute("SonoDistill.status") == "predicted"
    cine.select(0)
    assert proxy.GetAttribute("SonoDistill.status") == "empty" or proxy.GetAttribute("SonoDistill.status") is None
    role = proxy.GetReferenceImageGeometryReferenceRole()
    assert proxy.GetNodeReference(role) is cine.proxy()


@pytest.mark.parametrize("status", [Status.EDITED, Status.ACCEPTED, Status.SKIPPED])
def test_a_model_never_replaces_what_a_person_said(store, status):
    store.write(0, ONE, status, annotator="anna")
    assert not store.write(0, TWO, Status.PREDICTED)
    assert not store.write(0, TWO, Status.PROPAGATED, confidence=1.0)
    assert not store.mark(0, Status.PREDICTED)
    np.testing.assert_array_equal(store.mask(0), ONE)
    assert store.status(0) is status


def test_only_people_accept(store):
    with pytest.raises(SegmentError, match="model"):
        store.write(0, ONE, Status.ACCEPTED, annotator="model")


def test_an_edit_in_segment_editor_makes_that_frame_edited_and_no_other(cine, store):
    told = []
    store.changed.connect(told.append)
    store.write(3, ONE, Status.PREDICTED, confidence=0.9, model="net 3")
    store.watch("anna")
    cine.select(3)
    draw_as_segment_editor(store, square(SIZE, 30, 30, 4) > 0, 2)
    assert told == [3, 3]
    assert [status for status in store.statuses() if status is not Status.EMPTY] == [Status.EDITED]
    info = store.info(3)
    assert (info["annotator"], info["model"], info["confidence"]) == ("anna", "net 3", None)
    cine.select(0)
    np.testing.assert_array_equal(store.mask(3), ONE | square(SIZE, 30, 30, 4, 2))
    np.testing.assert_array_equal(store.mask(0), 0)


def test_an_accepted_frame_that_is_edited_has_to_be_accepted_again(cine, store):
    store.write(1, ONE, Status.ACCEPTED, annotator="anna")
    store.watch("ben")
    cine.select(1)
    draw_as_segment_editor(store, square(SIZE, 0, 0, 3) > 0)
    assert store.status(1) is Status.EDITED
    assert store.mark(1, Status.ACCEPTED, "ben")
    assert store.info(1)["annotator"] == "ben"


def test_drawing_what_is_there_already_is_no_edit(cine, store):
    cine.select(1)
    store.write(1, ONE, Status.PREDICTED)
    store.watch("anna")
    draw_as_segment_editor(store, ONE > 0)
    assert store.status(1) is Status.PREDICTED


def test_what_the_store_writes_is_nobodys_edit(cine, store):
    store.watch("anna")
    cine.select(2)
    store.write(2, ONE, Status.PREDICTED)
    store.write(2, TWO, Status.PREDICTED)
    assert store.status(2) is Status.PREDICTED
    store.unwatch()
    draw_as_segment_editor(store, square(SIZE, 0, 0, 3) > 0)
    assert store.status(2) is Status.PREDICTED


def test_an_undone_stroke_is_kept_as_it_is_shown(cine, store):
    """Segment Editor's undo restores segments from vtkSegmentationHistory."""
    import slicer

    store.watch("anna")
    cine.select(1)
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(store.segmentation_proxy().GetSegmentation())
    history.SaveState()
    draw_as_segment_editor(store, ONE > 0)
    np.testing.assert_array_equal(store.mask(1), ONE)
    history.RestorePreviousState()
    np.testing.assert_array_equal(store.mask(1), 0)
    np.testing.assert_array_equal(store.mask(2), 0)
    assert store.status(1) is Status.EDITED


def test_overlapping_segments_of_another_tool_read_as_the_last_label(cine, store):
    cine.select(0)
    store.write(0, ONE, Status.EDITED, annotator="anna")
    segmentation = store.segmentation_proxy().GetSegmentation()
    segmentation.SeparateSegmentLabelmap(store.segment_ids[1])
    draw_as_segment_editor(store, square(SIZE, 8, 8, 10) > 0, 2)
    mask = store.mask(0)
    assert (mask[8:18, 8:18] == 2).all()
    assert mask[5, 6] == 1


def test_a_new_label_is_in_every_frame(cine, store):
    store.write(0, TWO, Status.ACCEPTED, annotator="anna")
    assert store.add_label("organ") == 3
    assert store.labels == ("lesion", "cyst", "organ")
    for index in range(cine.count):
        assert store.sequence.GetNthDataNode(index).GetSegmentation().GetNumberOfSegments() == 3
    np.testing.assert_array_equal(store.mask(0), TWO)
    three = square(SIZE, 1, 1, 3, 3)
    assert store.write(5, three, Status.PREDICTED)
    np.testing.assert_array_equal(store.mask(5), three)


def test_a_segment_added_renamed_or_removed_in_one_frame_leaves_the_list_whole(cine, store):
    store.write(0, TWO, Status.EDITED, annotator="anna")
    store.watch("anna")
    cine.select(2)
    segmentation = store.segmentation_proxy().GetSegmentation()
    segmentation.AddEmptySegment("mine", "organ")
    assert store.labels == ("lesion", "cyst", "organ")
    segmentation.GetSegment("mine").SetName("liver")
    assert store.labels == ("lesion", "cyst", "liver")
    segmentation.RemoveSegment(store.segment_ids[0])
    assert store.labels == ("lesion", "cyst", "liver")
    for index in range(cine.count):
        frame = store.sequence.GetNthDataNode(index).GetSegmentation()
        assert [frame.GetSegment(each).GetName() for each in store.segment_ids] == ["lesion", "cyst", "liver"]
    np.testing.assert_array_equal(store.mask(0), TWO)


def test_a_skipped_frame_keeps_its_pixels_and_a_cleared_one_does_not(store):
    store.write(0, ONE, Status.EDITED, annotator="anna")
    store.mark(0, Status.SKIPPED, "anna")
    np.testing.assert_array_equal(store.mask(0), ONE)
    store.clear(0)
    np.testing.assert_array_equal(store.mask(0), 0)
    assert store.info(0) == {"status": Status.EMPTY, "annotator": "", "time": 0.0, "confidence": None, "model": ""}


def test_masks_stay_on_their_pixels_when_a_ruler_changes_their_size(cine, store):
    from UltrasoundSegmentLib.frames.image import to_matrix

    store.write(1, TWO, Status.EDITED, annotator="anna")
    for index in range(cine.count):
        cine.volume(index).SetIJKToRASMatrix(to_matrix(LPS @ np.diag([0.4, 0.4, 1, 1])))
    store.follow_geometry()
    np.testing.assert_array_equal(store.mask(1), TWO)
    bounds = np.zeros(6)
    store.sequence.GetNthDataNode(1).GetSegmentation().GetBounds(bounds)
    assert bounds[1] - bounds[0] == pytest.approx(0.2 * 19, abs=1e-3)


def test_masks_stay_where_they_are_when_segment_editor_takes_another_geometry(cine, store, scene):
    from UltrasoundSegmentLib.frames.image import image_data, to_matrix

    cine.select(1)
    store.write(1, TWO, Status.EDITED, annotator="anna")
    other = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "another_source_volume")
    other.SetAndObserveImageData(image_data(np.zeros((30, 30), np.uint8)))
    other.SetIJKToRASMatrix(to_matrix(np.diag([2.0, -3.0, 1.0, 1.0])))
    store.segmentation_proxy().SetReferenceImageGeometryParameterFromVolumeNode(other)
    store.follow_geometry()
    np.testing.assert_array_equal(store.mask(1), TWO)
    assert store.status(1) is Status.EDITED


def test_the_shown_frame_follows_a_ruler_and_is_edited_after_it(cine, store):
    from UltrasoundSegmentLib.frames.image import to_matrix

    store.watch("anna")
    cine.select(1)
    store.write(1, ONE, Status.PREDICTED)
    for index in range(cine.count):
        cine.volume(index).SetIJKToRASMatrix(to_matrix(LPS @ np.diag([0.4, 0.4, 1, 1])))
    store.follow_geometry()
    assert store.status(1) is Status.PREDICTED
    draw_as_segment_editor(store, square(SIZE, 30, 30, 4) > 0, 2)
    cine.select(0)
    cine.select(1)
    np.testing.assert_array_equal(store.mask(1), ONE | square(SIZE, 30, 30, 4, 2))
    assert store.statuses().count(Status.EDITED) == 1


def test_the_proxy_is_moved_by_a_tracker_as_the_image_is(cine, scene):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    cine.proxy().SetAndObserveTransformNodeID(transform.GetID())
    store = MaskStore.of(cine, ["lesion", "cyst"])
    store.watch("anna")
    for index in (2, 3):
        cine.select(index)
        assert store.segmentation_proxy().GetParentTransformNode() is transform
        draw_as_segment_editor(store, ONE > 0)
    cine.select(0)
    np.testing.assert_array_equal(store.mask(2), ONE)
    np.testing.assert_array_equal(store.mask(3), ONE)
    np.testing.assert_array_equal(store.mask(4), 0)


def test_a_store_found_again_is_the_same(cine, store):
    store.write(3, ONE, Status.PREDICTED)
    again = MaskStore.of(cine, ["cyst", "organ"])
    assert again.sequence is store.sequence
    assert again.labels == ("lesion", "cyst", "organ")
    np.testing.assert_array_equal(again.mask(3), ONE)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((3, 3), np.uint8), "frame"),
        (np.full(SIZE, 3, np.uint8), "2 labels"),
        (np.zeros(SIZE, np.float32), "float32"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_by_name(store, mask, said):
    with pytest.raises(SegmentError, match=said):
        store.write(0, mask, Status.PREDICTED)
    assert store.status(0) is Status.EMPTY


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 65, "cyst"])
def test_a_name_that_is_no_new_label_is_refused(store, name):
    with pytest.raises(SegmentError):
        store.add_label(name)
    assert store.labels == ("lesion", "cyst")


def test_masks_need_a_label(cine):
    with pytest.raises(SegmentError, match="label"):
        MaskStore.of(cine, [])
