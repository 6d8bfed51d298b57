"""A cine of the real MRML core: whoever made its sequence, frames come out with their pixels, times and places."""

from __future__ import annotations

import importlib.util
import queue
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

import vtk
from PIL import Image
from pydicom import examples
from UltrasoundSegmentLib.errors import Cancelled, SegmentError
from UltrasoundSegmentLib.frames.build import Facts, build_cine
from UltrasoundSegmentLib.frames.cine import Cine, NotACineError
from UltrasoundSegmentLib.frames.frame import NoFrameError
from UltrasoundSegmentLib.frames.image import NoPixelsError, image_data, luma, pixels, to_matrix
from UltrasoundSegmentLib.frames.read import read, read_on_worker
from UltrasoundSegmentLib.frames.still import cine_of_still
from UltrasoundSegmentLib.frames.world import NoLinearTransformError

import slicer

UPRIGHT = np.diag([-0.2, -0.3, 1.0, 1.0])


def noise(count: int = 5, size: tuple[int, ...] = (12, 17), kind: type = np.uint8) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 255, size).astype(kind) for _ in range(count)]


def built(scene: Any, images: list[np.ndarray], times: list[float] | None = None, **facts: Any) -> Cine:
    return build_cine(scene, "cine", ((image, UPRIGHT) for image in images), times, Facts(**facts))


def sequence_of(scene: Any, volumes: list[Any], name: str = "frame", unit: str = "", step: float = 1.0) -> Any:
    """A sequence as any other module makes it."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "someone's")
    sequence.SetIndexName(name)
    sequence.SetIndexUnit(unit)
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
    for index, node in enumerate(volumes):
        sequence.SetDataNodeAtValue(node, str(index * step))
    return sequence


def volume_of(values: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Any:
    volume = slicer.vtkMRMLVectorVolumeNode() if values.ndim == 3 else slicer.vtkMRMLScalarVolumeNode()
    volume.SetAndObserveImageData(image_data(values))
    volume.SetSpacing(spacing)
    return volume


def test_frames_hold_the_pixels_with_row_0_at_j_0(scene):
    images = noise()
    cine = built(scene, images, [0.0, 0.1, 0.2, 0.3, 0.4])
    assert cine.count == 5
    for index, image in enumerate(images):
        frame = cine.frame(index)
        np.testing.assert_array_equal(frame.image, image)
        assert (frame.index, frame.time_s) == (index, pytest.approx(index * 0.1))
        np.testing.assert_allclose(frame.ijk_to_ras, UPRIGHT)
        data = cine.volume(index).GetImageData()
        assert data.GetScalarComponentAsFloat(16, 0, 0, 0) == image[0, 16]
        assert data.GetScalarComponentAsFloat(0, 11, 0, 0) == image[11, 0]


def test_what_is_on_display_is_the_selected_frame(scene):
    images = noise()
    cine = built(scene, images)
    for index in (3, 0, 4):
        cine.select(index)
        assert cine.selected == index
        np.testing.assert_array_equal(pixels(cine.proxy()), images[index])


def test_a_frame_owns_its_pixels(scene):
    cine = built(scene, noise())
    cine.frame(2).image[:] = 0
    assert cine.frame(2).image.any()


def test_colour_stays_on_display_and_frames_are_its_luma(scene):
    images = noise(2, (9, 11, 3))
    cine = built(scene, images)
    assert cine.proxy().IsA("vtkMRMLVectorVolumeNode")
    np.testing.assert_array_equal(pixels(cine.volume(1)), images[1])
    np.testing.assert_array_equal(cine.frame(1).image, np.asarray(Image.fromarray(images[1]).convert("L")))


def test_luma_is_pillows_for_every_colour():
    step = np.arange(256, dtype=np.uint8)
    for red in (0, 1, 77, 128, 254, 255):
        rgb = np.stack(np.broadcast_arrays(np.uint8(red), step[:, None], step[None, :]), axis=-1)
        np.testing.assert_array_equal(luma(rgb), np.asarray(Image.fromarray(rgb).convert("L")))


def test_deep_values_share_one_range_over_the_cine(scene):
    first = np.array([[-100, 0], [50, 100]], np.int16)
    cine = built(scene, [first, first * 2])
    np.testing.assert_array_equal(cine.frame(0).image, [[64, 128], [159, 191]])
    np.testing.assert_array_equal(cine.frame(1).image, [[0, 128], [191, 255]])


def test_frames_nearer_than_a_millisecond_stay_apart(scene):
    images = noise(8)
    cine = built(scene, images, [index / 20000 for index in range(8)], time_source="FrameTime")
    assert cine.count == 8
    assert cine.times() == pytest.approx([index / 20000 for index in range(8)])
    assert cine.calibration.frame_time_s == pytest.approx(1 / 20000)


def test_frames_of_one_time_are_not_put_over_each_other(scene):
    cine = built(scene, noise(4), [0.0, 0.1, 0.1, 0.3])
    assert cine.count == 4
    assert cine.times() == [0.0, 0.1, 0.1, 0.3]
    assert cine.frame(2).time_s == 0.1


@pytest.mark.parametrize(("unit", "step", "expected"), [("s", 0.05, 0.05), ("ms", 40.0, 0.04), ("", 1.0, None)])
def test_only_an_index_of_time_is_a_time(scene, unit, step, expected):
    cine = Cine.of_sequence(sequence_of(scene, [volume_of(image) for image in noise(3)], "time", unit, step))
    assert cine.frame(2).time_s == (None if expected is None else pytest.approx(2 * expected))
    known = cine.calibration
    assert known.frame_time_s == (None if expected is None else pytest.approx(expected))
    assert known.time_source == ("none" if expected is None else "sequence index")
    assert any("time" in warning for warning in known.warnings) == (expected is None)


def test_one_millimetre_that_nobody_stated_is_unknown(scene):
    cine = Cine.of_sequence(sequence_of(scene, [volume_of(image) for image in noise(2)]))
    known = cine.calibration
    assert (known.spacing_mm, known.source) == (None, "none")
    assert any("1 mm" in warning for warning in known.warnings)


@pytest.mark.parametrize(("instance", "source"), [("1.2.3", "DICOM region"), (None, "volume geometry")])
def test_spacing_of_a_cine_that_slicer_loaded(scene, instance, source):
    volumes = [volume_of(image, (0.2, 0.3, 1.0)) for image in noise(2)]
    for volume in volumes:
        volume.SetAttribute("DICOM.instanceUIDs", instance)
    cine = Cine.of_sequence(sequence_of(scene, volumes))
    assert cine.calibration.spacing_mm == pytest.approx((0.3, 0.2))
    assert cine.calibration.source == source
    assert cine.frame(1).key == ("1.2.3#1" if instance else f"{cine.key}#1")


def test_a_browser_that_is_there_is_used(scene):
    sequence = sequence_of(scene, [volume_of(image) for image in noise(2)])
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    assert Cine.of_sequence(sequence).browser is browser
    assert Cine(browser).key == Cine(browser).key


def transforms(count: int) -> list[Any]:
    nodes = []
    for index in range(count):
        node = slicer.vtkMRMLLinearTransformNode()
        matrix = np.eye(4)
        matrix[:3, 3] = 10 * index, -3, 2
        node.SetMatrixTransformToParent(to_matrix(matrix))
        nodes.append(node)
    return nodes


def test_images_beside_a_tracker_are_found_and_placed_by_it(scene):
    images = noise(4)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    tracker = sequence_of(scene, transforms(4), "time", "s", 0.5)
    browser.SetAndObserveMasterSequenceNodeID(tracker.GetID())
    frames = sequence_of(scene, [volume_of(image, (0.2, 0.3, 1.0)) for image in images], "time", "s", 0.5)
    browser.AddSynchronizedSequenceNode(frames.GetID())
    cine = Cine(browser)
    assert cine.images is frames
    cine.proxy().SetAndObserveTransformNodeID(browser.GetProxyNode(tracker).GetID())
    cine.select(1)
    np.testing.assert_array_equal(cine.frame(3).image, images[3])
    assert cine.frame(3).time_s == 1.5
    np.testing.assert_allclose(cine.ijk_to_world(3)[:3, 3], (30, -3, 2))
    np.testing.assert_allclose(cine.ijk_to_world(1)[:3, 3], (10, -3, 2))


def test_a_frame_under_a_bent_transform_has_no_matrix(scene):
    cine = built(scene, noise())
    grid = scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    grid.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    cine.proxy().SetAndObserveTransformNodeID(grid.GetID())
    with pytest.raises(NoLinearTransformError, match="harden"):
        cine.ijk_to_world(0)


def test_region_is_half_open_and_clipped_to_the_frame(scene):
    cine = built(scene, noise())
    assert cine.region is None
    cine.set_region((2, -4, 40, 9))
    assert cine.region == (2, 0, 17, 9)
    cine.set_region(None)
    assert cine.region is None
    with pytest.raises(SegmentError, match="outside the frame of 17 x 12"):
        cine.set_region((17, 0, 30, 5))


def test_frames_that_are_not_there_are_named(scene):
    cine = built(scene, noise(3))
    for ask in (cine.frame, cine.select, cine.volume, cine.time):
        with pytest.raises(NoFrameError, match="no frame 4: “cine” has 3"):
            ask(3)
        with pytest.raises(NoFrameError):
            ask(-1)


def test_what_holds_no_images_is_no_cine(scene):
    with pytest.raises(NotACineError):
        Cine(scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode"))
    with pytest.raises(NotACineError, match="holds no images"):
        Cine.of_sequence(sequence_of(scene, transforms(2)))


def test_a_reader_that_fails_leaves_nothing_in_the_scene(scene):
    def broken():
        yield np.zeros((4, 4), np.uint8), UPRIGHT
        raise OSError("torn")

    before = scene.GetNumberOfNodes()
    with pytest.raises(OSError, match="torn"):
        build_cine(scene, "cine", broken(), None, Facts())
    with pytest.raises(SegmentError, match="no frames"):
        build_cine(scene, "cine", [], None, Facts())
    with pytest.raises(SegmentError, match="2 frames and states 3 times"):
        built(scene, noise(2), [0, 1, 2])
    assert scene.GetNumberOfNodes() == before


@pytest.mark.parametrize("moving", [False, True], ids=["one place", "each its place"])
@pytest.mark.parametrize("colour", [False, True], ids=["gray", "colour"])
def test_a_saved_scene_gives_the_same_cine(scene, tmp_path: Path, moving, colour):
    images = noise(4, (12, 17, 3) if colour else (12, 17))
    places = [UPRIGHT.copy() for _ in images]
    for index, place in enumerate(places):
        place[2, 3] = 2.5 * index * moving
    facts = Facts(source="DICOM region", time_source="FrameTimeVector", warnings=["mind"], region=(1, 2, 9, 10))
    times = [0.0, 0.04, 0.09, 0.12]
    before = build_cine(scene, "cine", zip(images, places, strict=True), times, facts)
    before.select(2)
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    key, known = before.key, before.calibration
    scene.Clear(True)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    after = Cine(scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode"))
    assert (after.count, after.key, after.region, after.selected) == (4, key, (1, 2, 9, 10), 2)
    assert after.times() == pytest.approx(times)
    assert after.calibration.spacing_mm == pytest.approx(known.spacing_mm)
    assert replace(after.calibration, spacing_mm=None) == replace(known, spacing_mm=None)
    for index, image in enumerate(images):
        np.testing.assert_array_equal(pixels(after.volume(index)), image)
        np.testing.assert_allclose(after.frame(index).ijk_to_ras, places[index], atol=1e-9)


def test_one_millimetre_is_unknown_after_saving_too(scene, tmp_path: Path):
    volumes = [volume_of(image) for image in noise(2)]
    for volume in volumes:
        # Written to a file and read again, a direction of 0.99... makes the spacing that.
        volume.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
    sequence_of(scene, volumes)
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(True)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    cine = Cine.of_sequence(scene.GetFirstNodeByClass("vtkMRMLSequenceNode"))
    cine.volume(0).SetSpacing(1 - 1e-12, 1, 1)
    assert cine.calibration.spacing_mm is None


def test_an_image_that_slicer_loaded_is_a_cine_of_one_frame(scene):
    image = noise(1)[0]
    volume = volume_of(image, (0.5, 0.25, 1.0))
    scene.AddNode(volume)
    cine = cine_of_still(volume)
    np.testing.assert_array_equal(cine.frame(0).image, image)
    assert cine.calibration.spacing_mm == (0.25, 0.5)
    assert cine.calibration.frame_time_s is None
    volume.SetSpacing(1, 1, 1)
    assert cine_of_still(volume).calibration.spacing_mm is None


def test_a_volume_of_several_slices_is_no_frame(scene):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "deep")
    data = vtk.vtkImageData()
    data.SetDimensions(4, 4, 3)
    data.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    volume.SetAndObserveImageData(data)
    with pytest.raises(NoPixelsError, match="3 slices"):
        cine_of_still(volume)
    with pytest.raises(NoPixelsError, match="no pixels"):
        pixels(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))


def test_a_file_is_read_on_another_thread_and_the_scene_touched_on_the_main_one_alone(scene, tmp_path: Path):
    path = examples.get_path("ybr_color")
    asked: queue.Queue = queue.Queue()
    seen: list[Any] = []

    def on_main(ask):
        answer: queue.Queue = queue.Queue()
        asked.put((ask, answer))
        return answer.get(timeout=20)

    def work():
        seen.append(read_on_worker(path, scene, on_main, lambda *told: seen.append(told)))
        asked.put(None)

    worker = threading.Thread(target=work)
    worker.start()
    pieces = 0
    while (item := asked.get(timeout=20)) is not None:
        assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == 0
        item[1].put(item[0]())
        pieces += 1
    worker.join(20)
    cine = seen.pop()
    assert pieces > 4
    assert [told[1] for told in seen] == [30] * len(seen)
    assert cine.count == 30
    for ours, theirs in zip(cine.frames(), read(path, scene).frames(), strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        assert ours.time_s == theirs.time_s


def test_reading_that_is_stopped_leaves_nothing_in_the_scene(scene):
    before = scene.GetNumberOfNodes()
    calls: list[int] = []

    def on_main(ask):
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled
        return ask()

    with pytest.raises(Cancelled):
        read_on_worker(examples.get_path("ybr_color"), scene, on_main)
    assert scene.GetNumberOfNodes() == before
