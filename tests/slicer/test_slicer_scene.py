"""A scene saved as .mrb and read again: masks, statuses, times and calibration as they were."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from slicer_cines import cine_of, draw_as_segment_editor, square
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

import slicer

SIZE = (48, 64)


def saved_and_read(scene, folder):
    """The only cine of the scene after it was written, cleared and read."""
    path = folder / "scene.mrb"
    assert scene.WriteToMRB(str(path))
    scene.Clear(True)
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 0
    assert scene.ReadFromMRB(str(path), True)
    return Cine(scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode"))


def test_nothing_is_lost_in_a_saved_scene(scene, tmp_path):
    cine = cine_of(scene, count=8, seconds=1 / 30)
    store = MaskStore.of(cine, ["lesion", "cyst"])
    rng = np.random.default_rng(1)
    said = [
        (Status.ACCEPTED, "anna", None, "net 3"),
        (Status.EDITED, "ben", None, ""),
        (Status.PREDICTED, "", 0.75, "net 3"),
        (Status.PROPAGATED, "", 0.5, "net 3"),
        (Status.SKIPPED, "anna", None, ""),
        (Status.ACCEPTED, "anna", None, ""),
    ]
    for index, (status, annotator, confidence, model) in enumerate(said):
        mask = rng.integers(0, 3, SIZE).astype(np.uint8) if index < 5 else np.zeros(SIZE, np.uint8)
        store.write(index, mask, status, annotator=annotator, confidence=confidence, model=model)
    cine.set_region((2, 3, 60, 40))
    cine.select(2)
    masks = [store.mask(index) for index in range(8)]
    infos = [store.info(index) for index in range(8)]
    images = [cine.frame(index).image for index in range(8)]
    times, calibration, key = cine.times(), cine.calibration, cine.key

    again = saved_and_read(scene, tmp_path)
    found = MaskStore.of(again, ["lesion", "cyst"])
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 2
    assert found.labels == ("lesion", "cyst")
    for index in range(8):
        np.testing.assert_array_equal(found.mask(index), masks[index])
        np.testing.assert_array_equal(again.frame(index).image, images[index])
        assert found.info(index) == infos[index]
    np.testing.assert_allclose(again.times(), times, atol=1e-9)
    assert again.calibration == calibration
    assert (again.key, again.region, again.selected) == (key, (2, 3, 60, 40), 2)


def test_a_scene_that_was_read_goes_on_as_before(scene, tmp_path):
    cine = cine_of(scene)
    MaskStore.of(cine, ["lesion"]).write(1, square(SIZE, 5, 5, 6), Status.PREDICTED, confidence=0.9, model="net 3")
    again = saved_and_read(scene, tmp_path)
    store = MaskStore.of(again)
    assert again.browser.GetSaveChanges(store.sequence)
    assert again.browser.GetMissingItemMode(store.sequence) == again.browser.MissingItemCreateFromDefault
    store.watch("anna")
    again.select(4)
    draw_as_segment_editor(store, square(SIZE, 20, 20, 5) > 0)
    again.select(0)
    assert store.statuses() == [Status.EMPTY, Status.PREDICTED, *[Status.EMPTY] * 2, Status.EDITED, Status.EMPTY]
    np.testing.assert_array_equal(store.mask(4), square(SIZE, 20, 20, 5))


def test_a_colour_cine_of_a_file_survives(scene, tmp_path):
    examples = pytest.importorskip("pydicom.examples")
    from UltrasoundSegmentLib.frames.dicom_cine import load_dicom

    cine = load_dicom(examples.get_path("ybr_color"), scene)
    store = MaskStore.of(cine, ["lesion"])
    frame = cine.frame(12)
    store.write(12, square(frame.image.shape, 50, 60, 40), Status.ACCEPTED, annotator="anna")
    calibration, times, file = cine.calibration, cine.times(), cine.attribute("file")
    again = saved_and_read(scene, tmp_path)
    found = MaskStore.of(again)
    np.testing.assert_array_equal(found.mask(12), square(frame.image.shape, 50, 60, 40))
    np.testing.assert_array_equal(again.frame(12).image, frame.image)
    assert again.calibration == calibration
    assert again.attribute("file") == file
    np.testing.assert_allclose(
        [time if time is not None else -1 for time in again.times()],
        [time if time is not None else -1 for time in times],
        atol=1e-9,
    )


def test_a_swept_volume_is_reassembled_after_a_saved_scene(scene, tmp_path):
    from UltrasoundSegmentLib.frames.image import image_data, to_matrix
    from UltrasoundSegmentLib.frames.sweep import SweepPlan, sweep, swept_volume
    from UltrasoundSegmentLib.masks.measure import volume_mm3
    from UltrasoundSegmentLib.masks.reassemble import reassemble

    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "block")
    image = image_data(np.arange(10 * 12 * 14, dtype=np.uint8).reshape(1, -1))
    image.SetDimensions(14, 12, 10)
    volume.SetAndObserveImageData(image)
    volume.SetIJKToRASMatrix(to_matrix(np.diag([-0.5, -0.5, 0.8, 1.0])))
    cine = sweep(volume, SweepPlan.axis("coronal"), scene)
    store = MaskStore.of(cine, ["lesion"])
    for index in (4, 5, 6):
        mask = np.zeros(cine.frame(index).image.shape, np.uint8)
        mask[2:5, 3:9] = 1
        store.write(index, mask, Status.EDITED, annotator="anna")
    again = saved_and_read(scene, tmp_path)
    node = reassemble(again, MaskStore.of(again), swept_volume(again))
    assert volume_mm3(node)["lesion"] == pytest.approx(3 * 18 * 0.5 * 0.5 * 0.8, rel=1e-4)


def test_a_table_of_labels_that_was_damaged_is_named(scene):
    from UltrasoundSegmentLib.errors import SegmentError

    cine = cine_of(scene)
    store = MaskStore.of(cine, ["lesion"])
    store.sequence.SetAttribute("SonoDistill.labels", "[broken")
    with pytest.raises(SegmentError, match="cannot be read"):
        MaskStore.of(cine)
    store.sequence.SetAttribute("SonoDistill.labels", '[["SonoDistill_1", "lesion"]]')
    assert isinstance(slicer.mrmlScene, slicer.vtkMRMLScene)
    assert MaskStore.of(cine).labels == ("lesion",)
