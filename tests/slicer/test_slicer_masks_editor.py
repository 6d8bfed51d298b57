"""Segment Editor's own logic drawing on the masks: paint, erase, overwrite and undo on frame after frame."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from slicer_cines import cine_of, square
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore
from vtk.util.numpy_support import vtk_to_numpy

import slicer

SIZE = (48, 64)


class Editor:
    """What the effects' ``modifySelectedSegmentByLabelmap`` does, without the widget."""

    def __init__(self, scene, store):
        if not hasattr(slicer, "vtkSlicerSegmentEditorLogic"):
            pytest.skip("this version of Slicer has Segment Editor's logic in its widget")
        self.store = store
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLApplicationLogic(slicer.modules.application.logic())
        self.logic.SetMRMLScene(scene)
        self.node = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self.logic.SetSegmentEditorNode(self.node)
        self.logic.SetSegmentationNode(store.segmentation_proxy())
        self.logic.SetSourceVolumeNode(store.cine.proxy())

    def draw(self, mask, number=1, mode="Add"):
        logic, proxy = self.logic, self.store.segmentation_proxy()
        logic.SetCurrentSegmentID(self.store.segment_ids[number - 1])
        logic.SaveStateForUndo()
        logic.UpdateReferenceGeometryImage()
        logic.ResetModifierLabelmapToDefault()
        modifier = logic.GetModifierLabelmap()
        assert modifier.GetDimensions() == (SIZE[1], SIZE[0], 1)
        values = vtk_to_numpy(modifier.GetPointData().GetScalars()).reshape(SIZE)
        values[mask > 0] = 1
        modifier.Modified()
        kind = getattr(logic, f"ModificationMode{mode}")
        logic.ModifySegmentByLabelmap(proxy, self.store.segment_ids[number - 1], modifier, kind, False, False)


@pytest.fixture
def store(scene):
    store = MaskStore.of(cine_of(scene), ["lesion", "cyst"])
    store.watch("anna")
    return store


@pytest.fixture
def editor(scene, store):
    editor = Editor(scene, store)
    yield editor
    editor.logic.SetSegmentEditorNode(None)
    editor.logic.SetMRMLScene(None)


def test_strokes_land_on_the_frame_that_is_shown(store, editor):
    cine = store.cine
    for index in (1, 4):
        cine.select(index)
        editor.draw(square(SIZE, index, index, 9))
        editor.draw(square(SIZE, 30, 30, 6), 2)
    cine.select(0)
    for index in range(cine.count):
        drawn = index in (1, 4)
        expected = square(SIZE, index, index, 9) | square(SIZE, 30, 30, 6, 2) if drawn else np.zeros(SIZE)
        np.testing.assert_array_equal(store.mask(index), expected)
        assert store.status(index) is (Status.EDITED if drawn else Status.EMPTY)


def test_a_prediction_is_corrected(store, editor):
    store.write(2, square(SIZE, 10, 10, 12), Status.PREDICTED, confidence=0.6, model="net 3")
    store.cine.select(2)
    editor.draw(square(SIZE, 10, 10, 4), mode="Remove")
    editor.draw(square(SIZE, 20, 20, 8), 2)
    expected = square(SIZE, 10, 10, 12)
    expected[10:14, 10:14] = 0
    expected[20:28, 20:28] = 2
    store.cine.select(3)
    np.testing.assert_array_equal(store.mask(2), expected)
    assert (store.info(2)["status"], store.info(2)["model"]) == (Status.EDITED, "net 3")


def test_undo_takes_a_stroke_back(store, editor):
    store.cine.select(2)
    editor.draw(square(SIZE, 10, 10, 12))
    editor.draw(square(SIZE, 30, 30, 6))
    editor.logic.Undo()
    np.testing.assert_array_equal(store.mask(2), square(SIZE, 10, 10, 12))
    editor.logic.Redo()
    np.testing.assert_array_equal(store.mask(2), square(SIZE, 10, 10, 12) | square(SIZE, 30, 30, 6))
    np.testing.assert_array_equal(store.mask(3), 0)


def test_undo_after_another_frame_was_shown_puts_no_mask_on_that_one(store, editor):
    store.cine.select(2)
    editor.draw(square(SIZE, 10, 10, 12))
    editor.draw(square(SIZE, 30, 30, 6))
    store.cine.select(3)
    editor.logic.Undo()
    store.cine.select(5)
    np.testing.assert_array_equal(store.mask(3), 0)
    assert store.status(3) is Status.EMPTY
