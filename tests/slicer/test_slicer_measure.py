"""Sizes of masks: in millimetres only where the scale is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from slicer_cines import cine_of, square
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.masks.measure import (
    Measurement,
    area_over_time,
    area_unit,
    measure,
    measure_frame,
    volume_mm3,
)
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

SIZE = (48, 64)


def ellipse(size, centre, radii, angle=0.0):
    y, x = np.indices(size)
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    return (u / radii[0]) ** 2 + (v / radii[1]) ** 2 <= 1


def test_a_rectangle_has_the_area_and_diameters_of_its_border():
    mask = np.zeros(SIZE, np.uint8)
    mask[10:13, 20:24] = 1
    found = measure(mask, (0.5, 0.25))
    assert found.area_px == 12
    assert found.area_mm2 == pytest.approx(1.5)
    assert found.longest_mm == pytest.approx(np.hypot(1.5, 1.0))
    assert found.longest_px == pytest.approx(5)
    assert found.perpendicular_px == pytest.approx(2 * 12 / 5)


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.1, 2.3])
def test_an_ellipse_has_its_axes_whatever_way_it_lies(angle):
    mask = ellipse((200, 220), (110, 95), (80, 35), angle)
    found = measure(mask, (0.2, 0.2))
    assert found.longest_mm == pytest.approx(32, rel=0.015)
    assert found.perpendicular_mm == pytest.approx(14, rel=0.025)
    assert found.area_mm2 == pytest.approx(np.pi * 16 * 7, rel=0.01)


def test_pixels_that_are_not_square_are_measured_in_millimetres():
    mask = ellipse((200, 220), (110, 95), (30, 60))
    found = measure(mask, (0.1, 0.4))  # 60 rows of 0.1 mm, 30 columns of 0.4 mm
    assert found.longest_mm == pytest.approx(24, rel=0.02)
    assert found.perpendicular_mm == pytest.approx(12, rel=0.02)
    assert found.longest_px == pytest.approx(121, rel=0.02)


def test_without_a_scale_there_are_no_millimetres():
    found = measure(square(SIZE, 5, 5, 4), None)
    assert found.area_px == 16
    assert (found.area_mm2, found.longest_mm, found.perpendicular_mm) == (None, None, None)
    assert found.longest_px == pytest.approx(4 * np.sqrt(2))
    assert measure(np.zeros(SIZE), None) == Measurement(0)
    assert measure(np.zeros(SIZE), (1, 1)).area_mm2 == 0


def test_diameters_are_of_the_largest_region_and_the_area_of_all():
    found = measure(square(SIZE, 2, 2, 8) | square(SIZE, 40, 55, 2), (1, 1))
    assert found.area_px == 68
    assert found.longest_mm == pytest.approx(8 * np.sqrt(2))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_perpendicular_diameter_is_never_longer(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((12, 15)) < rng.random()
    found = measure(mask, tuple(rng.uniform(0.1, 2, 2)))
    if found.area_px:
        assert 0 < found.perpendicular_mm <= found.longest_mm + 1e-9


def test_a_matrix_gives_the_spacing_of_rows_and_columns():
    matrix = np.diag([-0.25, -0.5, 3.0, 1.0])
    assert measure(square(SIZE, 0, 0, 2), matrix).area_mm2 == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [(0, 1), (-1, 1), (np.nan, 1), (1, 2, 3)])
def test_a_spacing_that_is_none_is_refused(scale):
    with pytest.raises(SegmentError, match="size of a pixel"):
        measure(square(SIZE, 0, 0, 2), scale)


def test_area_over_time_has_the_frames_that_have_a_mask(scene):
    cine = cine_of(scene)
    store = MaskStore.of(cine, ["chamber", "wall"])
    for index, status in enumerate([Status.ACCEPTED, Status.PREDICTED, Status.SKIPPED, Status.EDITED]):
        store.write(index, square(SIZE, 5, 5, index + 2), status, annotator="" if status.by_model else "anna")
    assert area_unit(cine) == "mm²"
    curve = area_over_time(cine, store, "chamber")
    np.testing.assert_allclose(curve, [(0, 1.0), (0.04, 2.25), (0.12, 6.25)], atol=1e-9)
    assert [area for _, area in area_over_time(cine, store, "wall")] == [0, 0, 0]
    assert len(area_over_time(cine, store, "chamber", statuses=[Status.ACCEPTED])) == 1
    assert measure_frame(cine, store, 3)["chamber"].area_mm2 == pytest.approx(6.25)
    with pytest.raises(SegmentError, match="choose of chamber, wall"):
        area_over_time(cine, store, "valve")


def test_a_cine_of_unknown_scale_and_time_says_so(scene):
    from UltrasoundSegmentLib.frames.build import Facts, build_cine

    slices = ((np.zeros(SIZE, np.uint8), np.diag([-1.0, -1, 1, 1])) for _ in range(3))
    cine = build_cine(scene, "bare", slices, None, Facts())
    store = MaskStore.of(cine, ["lesion"])
    store.write(1, square(SIZE, 5, 5, 3), Status.EDITED, annotator="anna")
    assert area_over_time(cine, store, "lesion") == [(None, 9)]
    assert area_unit(cine) == "pixels"
    assert measure_frame(cine, store, 1)["lesion"].area_mm2 is None


def test_a_ruler_gives_millimetres_and_leaves_the_pixels(scene):
    from UltrasoundSegmentLib.frames.build import Facts, build_cine
    from UltrasoundSegmentLib.frames.calibration import clear_ruler, with_ruler

    slices = ((np.zeros(SIZE, np.uint8), np.diag([-1.0, -1, 1, 1])) for _ in range(3))
    cine = build_cine(scene, "bare", slices, None, Facts())
    store = MaskStore.of(cine, ["lesion"])
    mask = square(SIZE, 5, 5, 8)
    store.write(1, mask, Status.EDITED, annotator="anna")
    with_ruler([(-10.0, -10.0, 0.0), (-50.0, -10.0, 0.0)], 20.0, cine)
    assert measure_frame(cine, store, 1)["lesion"].area_mm2 == pytest.approx(16)
    np.testing.assert_array_equal(store.mask(1), mask)
    clear_ruler(cine)
    assert measure_frame(cine, store, 1)["lesion"].area_mm2 is None
    np.testing.assert_array_equal(store.mask(1), mask)


def test_the_volume_of_a_segment_is_that_of_its_voxels(scene):
    from UltrasoundSegmentLib.masks import pixels

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(pixels.BINARY)
    for name in ("a", "b", "c"):
        segmentation.AddEmptySegment(name, name)
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[1:3, 2:4, 1:6], labels[4] = 1, 2
    pixels.draw(segmentation, ("a", "b", "c"), labels, np.diag([0.5, 0.5, 2.0, 1.0]))
    assert volume_mm3(node) == {"a": pytest.approx(10.0), "b": pytest.approx(21.0), "c": 0.0}
