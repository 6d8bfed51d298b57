"""The ruler: a drawn distance gives a cine its scale, masks stay on their pixels, and it can be taken back."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

from UltrasoundSegmentLib.frames.build import Facts, build_cine
from UltrasoundSegmentLib.frames.calibration import RulerError, clear_ruler, with_ruler
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.image import to_matrix
from UltrasoundSegmentLib.frames.sweep import SweepPlan, sweep

UPRIGHT = np.diag([-1.0, -1.0, 1.0, 1.0])


def cine_of(scene: Any, matrix: np.ndarray = UPRIGHT, count: int = 3, **facts: Any) -> Cine:
    slices = ((np.full((60, 80), 10 * index, np.uint8), matrix) for index in range(count))
    return build_cine(scene, "cine", slices, None, Facts(**facts))


def drawn(cine: Cine, first: tuple[float, float], second: tuple[float, float]) -> list[np.ndarray]:
    """Ends in world RAS of a line between two pixels (column, row) of the frame on display."""
    return [(cine.ijk_to_world(cine.selected) @ [*end, 0, 1])[:3] for end in (first, second)]


def line_of(scene: Any, ends: list[np.ndarray]) -> Any:
    line = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode")
    for end in ends:
        line.AddControlPointWorld(*map(float, end))
    return line


def test_a_ruler_gives_every_frame_its_scale(scene):
    cine = cine_of(scene)
    known = with_ruler(line_of(scene, drawn(cine, (10, 5), (10, 55))), 40.0, cine)
    assert known.spacing_mm == pytest.approx((0.8, 0.8))
    assert (known.source, known.warnings) == ("ruler", ("The time between frames is unknown.",))
    for frame in cine.frames():
        np.testing.assert_allclose(frame.ijk_to_ras, np.diag([-0.8, -0.8, 1, 1]))
    assert cine.proxy().GetSpacing() == pytest.approx((0.8, 0.8, 1.0))
    assert Cine(cine.browser).calibration == known


def test_undo_gives_back_exactly_what_was_before(scene):
    cine = cine_of(scene)
    before = cine.calibration
    with_ruler(drawn(cine, (10, 5), (40, 45)), 40.0, cine)
    with_ruler(drawn(cine, (10, 5), (40, 45)), 33.0, cine)
    assert cine.calibration.spacing_mm == pytest.approx((0.66, 0.66))
    assert clear_ruler(cine) == before
    assert [cine.volume(index).GetSpacing() for index in range(3)] == [(1.0, 1.0, 1.0)] * 3
    assert cine.proxy().GetSpacing() == (1.0, 1.0, 1.0)
    assert clear_ruler(cine) == before


def test_a_ruler_over_a_scale_from_the_file_says_what_it_replaces(scene):
    cine = cine_of(scene, np.diag([-0.2, -0.3, 1, 1]), source="DICOM region", scale_warnings=["doubtful"])
    known = with_ruler(drawn(cine, (10, 5), (10, 55)), 30.0, cine)
    # 50 rows of 0.3 mm were 15 mm and are 30: rows and columns keep their proportion.
    assert known.spacing_mm == pytest.approx((0.6, 0.4))
    assert any("replaces 0.3 x 0.2 mm per pixel from the DICOM region" in warning for warning in known.warnings)
    assert "doubtful" not in known.warnings
    after = clear_ruler(cine)
    assert after.spacing_mm == (0.3, 0.2)
    assert "doubtful" in after.warnings


def test_frames_of_different_size_keep_theirs(scene):
    places = [np.diag([-1.0, -1.0, 1, 1]), np.diag([-2.0, -2.0, 1, 1])]
    cine = build_cine(scene, "cine", ((np.zeros((60, 80), np.uint8), place) for place in places), None, Facts())
    with_ruler(drawn(cine, (0, 0), (0, 50)), 25.0, cine)
    assert [cine.volume(index).GetSpacing()[0] for index in (0, 1)] == [0.5, 1.0]
    clear_ruler(cine)
    assert [cine.volume(index).GetSpacing()[0] for index in (0, 1)] == [1.0, 2.0]


_numbers = st.floats(-3, 3)
_pixels = st.tuples(st.integers(0, 79), st.integers(0, 59))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(_numbers, _numbers),
    ends=st.tuples(_pixels, _pixels),
    length=st.floats(5, 60),
    index=st.integers(0, 2),
)
def test_the_ruler_measures_what_it_was_said_to_however_the_frame_lies(scene, angles, ends, length, index):
    pixels = np.hypot(ends[0][0] - ends[1][0], ends[0][1] - ends[1][1])
    if pixels < 10:
        return
    (cos, sin), (cos2, sin2) = ((np.cos(angle), np.sin(angle)) for angle in angles)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.array(
        [[cos2, 0, sin2], [0, 1, 0], [-sin2, 0, cos2]]
    )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, (4, -7, 9)
    cine = cine_of(scene, matrix)
    cine.select(index)
    known = with_ruler(drawn(cine, *ends), length, cine)
    assert known.spacing_mm == pytest.approx((length / pixels,) * 2)
    first, second = drawn(cine, *ends)
    assert np.linalg.norm(first - second) == pytest.approx(length)
    np.testing.assert_allclose(cine.frame(index).ijk_to_ras[:3, 3], (4, -7, 9))
    scene.RemoveNode(cine.browser)


def test_a_frame_under_a_transform_is_measured_in_the_world(scene):
    cine = cine_of(scene)
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    node.SetMatrixTransformToParent(to_matrix(np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])))
    cine.proxy().SetAndObserveTransformNodeID(node.GetID())
    assert with_ruler(drawn(cine, (10, 5), (10, 55)), 10.0, cine).spacing_mm == pytest.approx((0.2, 0.2))


def test_a_ruler_survives_saving(scene, tmp_path):
    cine = cine_of(scene)
    with_ruler(drawn(cine, (10, 5), (10, 55)), 40.0, cine)
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(True)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    again = Cine(scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode"))
    assert again.calibration.spacing_mm == pytest.approx((0.8, 0.8))
    assert again.calibration.source == "ruler"
    assert clear_ruler(again).spacing_mm is None
    assert again.volume(1).GetSpacing() == (1.0, 1.0, 1.0)


def test_masks_stay_on_their_pixels(scene):
    masks = pytest.importorskip("UltrasoundSegmentLib.masks.store")
    status = pytest.importorskip("UltrasoundSegmentLib.masks.status")
    cine = cine_of(scene)
    store = masks.MaskStore.of(cine, ["cavity"])
    mask = np.zeros((60, 80), np.uint8)
    mask[20:30, 33:44] = 1
    store.write(1, mask, status.Status.EDITED, annotator="ada")
    with_ruler(drawn(cine, (10, 5), (10, 55)), 40.0, cine)
    np.testing.assert_array_equal(store.mask(1), mask)
    clear_ruler(cine)
    np.testing.assert_array_equal(store.mask(1), mask)
    assert store.status(1) is status.Status.EDITED


@pytest.mark.parametrize(
    ("ends", "length", "message"),
    [
        (((10, 5), (10, 5)), 40.0, "0.0 pixels long"),
        (((10, 5), (10, 11)), 40.0, "6.0 pixels long"),
        (((10, 5), (10, 55)), 0.0, "measures nothing"),
        (((10, 5), (10, 55)), float("nan"), "measures nothing"),
        (((10, 5), (10, 55)), 1e5, "check the length"),
        (((10, 5), (10, 55)), 1e-3, "check the length"),
    ],
)
def test_rulers_that_give_no_scale_change_nothing(scene, ends, length, message):
    cine = cine_of(scene)
    with pytest.raises(RulerError, match=message):
        with_ruler(drawn(cine, *ends), length, cine)
    assert cine.calibration.spacing_mm is None
    assert cine.volume(0).GetSpacing() == (1.0, 1.0, 1.0)


def test_a_ruler_beside_the_frame_or_unfinished_is_refused(scene):
    cine = cine_of(scene)
    with pytest.raises(RulerError, match="beside the frame"):
        with_ruler([np.array([0, 0, 0]), np.array([0, -30, 5])], 10.0, cine)
    with pytest.raises(RulerError, match="not two ends"):
        with_ruler(line_of(scene, drawn(cine, (1, 1), (1, 30))[:1]), 10.0, cine)
    with pytest.raises(RulerError, match="two ends"):
        with_ruler([np.array([0, np.inf, 0]), np.array([0, -30, 0])], 10.0, cine)


def test_planes_of_a_volume_keep_its_scale(scene):
    still = cine_of(scene, count=1)
    cine = sweep(still.volume(0), SweepPlan.axis("axial"), scene)
    with pytest.raises(RulerError, match="planes of a volume"):
        with_ruler(drawn(cine, (10, 5), (10, 55)), 40.0, cine)
