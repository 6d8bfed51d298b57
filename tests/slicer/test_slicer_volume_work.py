"""A whole volume segmented beside the GUI, work whose nodes are removed meanwhile, prompts beside the frame."""

from __future__ import annotations

import importlib.util
import logging
from types import SimpleNamespace

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

import vtk
from server_case import pump
from slicer_cines import cine_of
from UltrasoundSegmentLib.backends.model import Model, Prompts, Result
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import image_data
from UltrasoundSegmentLib.jobs import Jobs
from UltrasoundSegmentLib.masks.store import MaskStore
from UltrasoundSegmentLib.session import Session
from UltrasoundSegmentLib.volume_work import segment_volume

MODEL = Model("bright", "segmentation", ("lesion",))


def _block(_volume, _model, _cancel):
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 1:4, 2:5] = 1
    return labels


@pytest.fixture
def jobs():
    jobs = Jobs()
    yield jobs
    jobs.close()
    assert jobs.join(5)


@pytest.fixture
def volume(scene):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "block")
    image = image_data(np.zeros((1, 4 * 5 * 6), np.uint8))
    image.SetDimensions(6, 5, 4)
    volume.SetAndObserveImageData(image)
    return volume


def test_the_segmentation_of_a_moved_volume_moves_with_it(scene, jobs, volume):
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, 100.0)
    transform.SetMatrixTransformToParent(matrix)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    made, failed = [], []
    segment_volume(volume, SimpleNamespace(segment_volume=_block), MODEL, jobs, made.append, failed.append)
    pump(jobs)
    assert failed == []
    found, whole = [0.0] * 6, [0.0] * 6
    made[0].GetRASBounds(found)
    volume.GetRASBounds(whole)
    assert whole[0] <= found[0] < found[1] <= whole[1]


def test_a_volume_that_is_removed_meanwhile_ends_in_an_error_that_is_told(scene, jobs, volume):
    made, failed = [], []
    segment_volume(volume, SimpleNamespace(segment_volume=_block), MODEL, jobs, made.append, failed.append)
    scene.RemoveNode(volume)
    pump(jobs)
    assert made == [] and isinstance(failed[0], SegmentError)


def test_a_session_whose_cine_is_removed_meanwhile_ends(scene, jobs):
    cine = cine_of(scene)
    store = MaskStore.of(cine, ["lesion"])
    backend = SimpleNamespace(segment=lambda frame, _model, _cancel: Result(np.ones(frame.image.shape, np.uint8)))
    session, failed, busy = Session(cine, store, backend, jobs), [], []
    session.failed.connect(failed.append)
    session.busy.connect(busy.append)
    session.segment([0, 1, 2], "bright")
    scene.RemoveNode(cine.browser)
    pump(jobs)
    assert isinstance(failed[0], SegmentError) and not session.is_busy and busy == [True, False]


def test_what_nobody_foresaw_ends_a_task_and_is_told(scene, jobs, caplog):
    cine = cine_of(scene)
    backend = SimpleNamespace(segment=lambda *_: Result(np.ones((3, 3, 3), np.uint8)))
    session, failed = Session(cine, MaskStore.of(cine, ["lesion"]), backend, jobs), []
    cine.set_region((2, 2, 20, 20))
    session.failed.connect(failed.append)
    with caplog.at_level(logging.CRITICAL):
        session.segment([0], "bright")
        pump(jobs)
    assert isinstance(failed[0], ValueError) and not session.is_busy


@pytest.mark.parametrize("region", [None, (10, 10, 40, 30)])
@pytest.mark.parametrize(
    "prompts",
    [
        Prompts(positive=((-5.0, 12.0),)),
        Prompts(positive=((20.0, 20.0),), negative=((20.0, 300.0),)),
        Prompts(box=(-30.0, -30.0, -2.0, -2.0)),
    ],
)
def test_a_prompt_beside_what_the_model_sees_is_not_moved_to_its_edge(scene, jobs, region, prompts):
    cine, asked = cine_of(scene), []
    cine.set_region(region)
    backend = SimpleNamespace(refine=lambda *given: asked.append(given))
    session = Session(cine, MaskStore.of(cine, ["lesion"]), backend, jobs)
    with pytest.raises(SegmentError, match="beside"):
        session.refine(0, prompts)
    pump(jobs)
    assert asked == [] and not session.is_busy
