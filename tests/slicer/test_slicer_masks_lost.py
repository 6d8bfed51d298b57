"""Nodes that are removed, and drawing that nobody watched: no label of a person is lost, none goes nowhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from server_case import pump
from slicer_cines import cine_of, draw_as_segment_editor, square
from UltrasoundSegmentLib.backends.model import Prompts, Result
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.jobs import Jobs
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore
from UltrasoundSegmentLib.session import Session

SIZE = (48, 64)


def test_drawing_goes_on_being_noticed_after_the_segmentation_on_display_was_removed(scene):
    store = MaskStore.of(cine_of(scene), ["lesion"])
    store.watch("anna")
    scene.RemoveNode(store.segmentation_proxy())
    store.cine.select(3)
    drawn = square(SIZE, 4, 5, 9)
    draw_as_segment_editor(store, drawn > 0)
    assert store.info(3)["status"] is Status.EDITED and store.info(3)["annotator"] == "anna"
    assert not store.write(3, np.zeros(SIZE, np.uint8), Status.PREDICTED)
    np.testing.assert_array_equal(store.mask(3), drawn)
    store.unwatch()


def test_what_was_drawn_before_the_module_was_opened_is_a_persons(scene):
    cine = cine_of(scene)
    store = MaskStore.of(cine, ["lesion"])
    cine.select(2)
    drawn = square(SIZE, 4, 5, 9)
    draw_as_segment_editor(store, drawn > 0)
    store = MaskStore.of(cine)
    assert [status is Status.EDITED for status in store.statuses()] == [index == 2 for index in range(cine.count)]
    assert not store.write(2, np.zeros(SIZE, np.uint8), Status.PREDICTED)
    np.testing.assert_array_equal(store.mask(2), drawn)


@pytest.mark.parametrize("what", ["browser", "masks"])
def test_nothing_is_accepted_into_masks_that_are_not_in_the_scene(scene, what):
    store = MaskStore.of(cine_of(scene), ["lesion"])
    store.watch("anna")
    scene.RemoveNode(store.cine.browser if what == "browser" else store.sequence)
    with pytest.raises(SegmentError, match="removed from the scene"):
        store.mark(0, Status.ACCEPTED, "anna")
    with pytest.raises(SegmentError, match="removed from the scene"):
        store.write(0, square(SIZE, 4, 5, 9), Status.PREDICTED)
    store.unwatch()


def clicked(_frame, prompts, previous, _model, _cancel):
    mask = previous.copy()
    for x, y in prompts.positive:
        mask[int(y), int(x)] = prompts.label
    return Result(mask, 0.9)


def test_what_is_drawn_by_hand_between_prompts_is_not_taken_back_with_them(scene):
    cine = cine_of(scene)
    store, jobs = MaskStore.of(cine, ["lesion"]), Jobs()
    store.watch("anna")
    session, said = Session(cine, store, SimpleNamespace(refine=clicked), jobs, annotator="anna"), []
    session.said.connect(said.append)
    drawn = square(SIZE, 20, 30, 6)
    try:
        session.refine(0, Prompts(positive=((3.0, 2.0),)))
        pump(jobs)
        draw_as_segment_editor(store, drawn > 0)
        session.refine(0, Prompts(positive=((5.0, 6.0),)))  # the point was moved
        pump(jobs)
        assert (store.mask(0)[drawn > 0] == 1).all() and store.mask(0)[6, 5] == 1
        draw_as_segment_editor(store, square(SIZE, 30, 30, 6) > 0)
        session.end_prompts(undo=True)
        assert store.mask(0)[32, 32] == 1 and store.status(0) is Status.EDITED
        assert "stays" in said[-1]
    finally:
        session.close()
        store.unwatch()
        jobs.close()
        assert jobs.join(5)


def test_what_a_damaged_scene_says_of_a_frame_is_unknown(scene):
    store = MaskStore.of(cine_of(scene), ["lesion"])
    store.write(0, square(SIZE, 4, 5, 9), Status.PREDICTED, confidence=0.5)
    node = store.sequence.GetNthDataNode(0)
    for name, value in (("time", "yesterday"), ("confidence", "nan"), ("status", "fine")):
        node.SetAttribute(f"SonoDistill.{name}", value)
    info = store.info(0)
    assert (info["status"], info["time"], info["confidence"]) == (Status.EMPTY, 0.0, None)


def test_masks_go_under_a_transform_with_their_images(scene):
    cine = cine_of(scene)
    store = MaskStore.of(cine, ["lesion"])
    store.watch("anna")
    store.write(0, square(SIZE, 4, 5, 9), Status.EDITED, annotator="anna")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    cine.proxy().SetAndObserveTransformNodeID(transform.GetID())
    assert store.segmentation_proxy().GetTransformNodeID() == transform.GetID()
    cine.select(1)
    cine.proxy().SetAndObserveTransformNodeID(None)
    assert store.segmentation_proxy().GetTransformNodeID() is None
    np.testing.assert_array_equal(store.mask(0), square(SIZE, 4, 5, 9))
    store.unwatch()
