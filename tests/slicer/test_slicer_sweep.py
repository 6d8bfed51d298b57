"""Planes of a volume lie where their matrices say: SimpleITK, the voxels themselves and an ellipsoid agree."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

import SimpleITK
import vtk
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import build_on_worker
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.dicom_cine import upright
from UltrasoundSegmentLib.frames.image import NoPixelsError, pixels, to_array, to_matrix
from UltrasoundSegmentLib.frames.planes import oblique_image
from UltrasoundSegmentLib.frames.sweep import SweepPlan, sweep, sweep_source, swept_geometry, swept_volume
from UltrasoundSegmentLib.frames.world import NoLinearTransformError, ijk_to_world
from vtk.util.numpy_support import numpy_to_vtk

import slicer

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def turned(x: float, y: float, z: float) -> np.ndarray:
    """(3, 3) rotation by radians about x, y, z."""
    cx, sx, cy, sy, cz, sz = np.cos(x), np.sin(x), np.cos(y), np.sin(y), np.cos(z), np.sin(z)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]]) @ about_y @ about_x


def placed(rotation: np.ndarray, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag(spacing)
    matrix[:3, 3] = origin
    return matrix


OBLIQUE = placed(turned(0.7, -0.5, 0.3), (0.4, 0.7, 1.1), (5, -8, 3))
MOVED = placed(turned(0.3, 0.2, 0.1), origin=(10, 20, 30))


def volume_of(scene: Any, values: np.ndarray, matrix: np.ndarray, parent: np.ndarray | None = None) -> Any:
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    data = vtk.vtkImageData()
    data.SetDimensions(*values.shape[:3][::-1])
    flat = values.reshape(-1) if values.ndim == 3 else values.reshape(-1, values.shape[3])
    data.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(flat), deep=True))
    volume.SetAndObserveImageData(data)
    volume.SetIJKToRASMatrix(to_matrix(matrix))
    if parent is not None:
        node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        node.SetMatrixTransformToParent(to_matrix(parent))
        volume.SetAndObserveTransformNodeID(node.GetID())
    return volume


def noise(shape=(20, 30, 40), kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, shape).astype(kind)


def resampled(values: np.ndarray, world: np.ndarray, frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) by SimpleITK, which knows nothing of MRML; its space is LPS."""

    def place(image: Any, matrix: np.ndarray) -> Any:
        sides = np.linalg.norm(matrix[:3, :3], axis=0)
        image.SetSpacing(sides.tolist())
        image.SetOrigin((LPS @ matrix)[:3, 3].tolist())
        image.SetDirection(((LPS @ matrix)[:3, :3] / sides).ravel().tolist())
        return image

    source = place(SimpleITK.GetImageFromArray(values), world)
    grid = place(SimpleITK.Image([*size, 1], source.GetPixelID()), frame)
    linear = SimpleITK.sitkLinear
    return SimpleITK.GetArrayFromImage(SimpleITK.Resample(source, grid, SimpleITK.Transform(), linear, 0.0))[0]


def middle(values: np.ndarray, world: np.ndarray) -> np.ndarray:
    depth, height, width = values.shape
    return (world @ [(width - 1) / 2, (height - 1) / 2, (depth - 1) / 2, 1])[:3]


def plans(centre: np.ndarray) -> dict[str, SweepPlan]:
    view = placed(turned(0.4, 0.2, 1.0), origin=centre)
    return {
        "axial": SweepPlan.axis("axial"),
        "sagittal": SweepPlan.axis("sagittal"),
        "coronal": SweepPlan.axis("coronal"),
        "oblique": SweepPlan.oblique(view, 7, 2.0),
        "oblique in a window": SweepPlan.oblique(view, 4, 3.0, (32, 24), (0.3, 0.5)),
        "rotational": SweepPlan.rotational(centre, (0, 1, 2), 6, spacing_mm=0.6),
        "rotational by a quarter": SweepPlan.rotational(centre, (1, 0, 0), 5, angle_deg=90, start=(0, 1, 1)),
    }


@pytest.mark.parametrize("parent", [None, MOVED], ids=["at home", "under a transform"])
@pytest.mark.parametrize("name", list(plans(np.zeros(3))))
def test_every_frame_shows_what_lies_at_its_place(scene, name, parent):
    values = noise()
    volume = volume_of(scene, values, OBLIQUE, parent)
    world = OBLIQUE if parent is None else parent @ OBLIQUE
    cine = sweep(volume, plans(middle(values, world))[name], scene)
    assert cine.count >= 4
    seen = 0
    for frame in cine.frames():
        expected = resampled(values, world, frame.ijk_to_ras, frame.image.shape[::-1])
        # Both round; SimpleITK also where a place is within a rounding error of the border.
        wrong = np.abs(expected.astype(int) - frame.image) > 1
        assert wrong.mean() < 1e-3
        seen += np.count_nonzero(frame.image)
        assert np.linalg.det(frame.ijk_to_ras) > 0
    assert seen > 2000


def signed_axes() -> st.SearchStrategy[np.ndarray]:
    angles = st.floats(-np.pi, np.pi)
    return st.tuples(angles, angles, angles, st.booleans()).map(
        lambda made: turned(*made[:3]) @ np.diag([-1.0 if made[3] else 1.0, 1.0, 1.0])
    )


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rotation=signed_axes(), name=st.sampled_from(["axial", "sagittal", "coronal"]))
def test_stored_slices_are_the_voxels_themselves_however_the_volume_is_turned(scene, rotation, name):
    values = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    volume = volume_of(scene, values, placed(rotation, (0.5, 0.8, 1.3), (3, 2, 1)))
    back = np.linalg.inv(ijk_to_world(volume))
    cine = sweep(volume, SweepPlan.axis(name), scene)
    met = []
    for index in range(cine.count):
        frame = cine.frame(index)
        height, width = frame.image.shape
        j, i = np.mgrid[:height, :width]
        ijk = (back @ frame.ijk_to_ras @ np.stack([i, j, 0 * i, 0 * i + 1]).reshape(4, -1))[:3]
        np.testing.assert_allclose(ijk, np.rint(ijk), atol=1e-6)
        x, y, z = np.rint(ijk).astype(int)
        np.testing.assert_array_equal(pixels(cine.volume(index)).ravel(), values[z, y, x])
        met.extend(values[z, y, x].tolist())
    assert sorted(met) == list(range(60))


@pytest.mark.parametrize(
    ("name", "right", "down", "onwards"),
    [
        ("axial", (-1, 0, 0), (0, -1, 0), (0, 0, 1)),
        ("sagittal", (0, -1, 0), (0, 0, -1), (1, 0, 0)),
        ("coronal", (-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    ],
)
def test_stored_slices_are_turned_as_slice_views_show_them(scene, name, right, down, onwards):
    cine = sweep(volume_of(scene, noise((4, 5, 6)), np.diag([-1.0, 1.0, -1.0, 1.0])), SweepPlan.axis(name), scene)
    first, second = cine.frame(0).ijk_to_ras, cine.frame(1).ijk_to_ras
    np.testing.assert_allclose(first[:3, 0], right, atol=1e-12)
    np.testing.assert_allclose(first[:3, 1], down, atol=1e-12)
    np.testing.assert_allclose(second[:3, 3] - first[:3, 3], onwards, atol=1e-12)


def test_an_oblique_frame_looks_as_the_slice_view_it_was_taken_from(scene):
    volume = volume_of(scene, noise(), OBLIQUE)
    centre = middle(noise(), OBLIQUE)
    view = placed(turned(0.4, 0.2, 1.0), origin=centre)
    cine = sweep(volume, SweepPlan.oblique(view, 3, 1.5, (20, 10), 0.5), scene)
    for number, frame in enumerate(cine.frames()):
        np.testing.assert_allclose(frame.ijk_to_ras[:3, 0], 0.5 * view[:3, 0])
        np.testing.assert_allclose(frame.ijk_to_ras[:3, 1], -0.5 * view[:3, 1])
        at = frame.ijk_to_ras @ [9.5, 4.5, 0, 1]
        np.testing.assert_allclose(at[:3], centre + 1.5 * (number - 1) * view[:3, 2])


def test_rotated_frames_share_the_axis_down_their_middle(scene):
    values = noise()
    centre = middle(values, OBLIQUE)
    axis = np.array([0.2, 1.0, -0.4]) / np.linalg.norm([0.2, 1.0, -0.4])
    cine = sweep(volume_of(scene, values, OBLIQUE), SweepPlan.rotational(centre, axis, 9, spacing_mm=0.5), scene)
    frames = list(cine.frames())
    height, width = frames[0].image.shape
    assert width % 2 == height % 2 == 1
    for frame in frames:
        column = [(frame.ijk_to_ras @ [(width - 1) / 2, j, 0, 1])[:3] for j in (0, height - 1)]
        np.testing.assert_allclose(np.cross(column[1] - column[0], axis), 0, atol=1e-9)
        assert (column[1] - column[0]) @ axis > 0
        np.testing.assert_allclose((column[0] + column[1]) / 2, centre)
    steps = [a.ijk_to_ras[:3, 0] @ b.ijk_to_ras[:3, 0] / 0.25 for a, b in zip(frames, frames[1:], strict=False)]
    np.testing.assert_allclose(steps, np.cos(np.pi / 9))


@pytest.mark.parametrize("parent", [None, MOVED], ids=["at home", "under a transform"])
@pytest.mark.parametrize("name", ["axial", "sagittal", "coronal", "oblique", "rotational"])
def test_masks_of_a_known_ellipsoid_have_its_volume_and_lie_in_it(scene, name, parent):
    axes, spacing = np.array([9.0, 6.0, 7.0]), (0.5, 0.7, 0.6)
    values = np.zeros((44, 36, 52), np.uint8)
    matrix = placed(turned(0.5, 0.3, -0.4), spacing, (-4, 9, 2))
    centre = middle(values, matrix)
    k, j, i = np.mgrid[:44, :36, :52]
    ras = matrix[:3, :3] @ np.stack([i, j, k]).reshape(3, -1) + matrix[:3, 3:]
    away = np.sqrt((((ras.T - centre) / axes) ** 2).sum(1))
    values[:] = np.clip(128 + 60 * (1 - away) * 6, 0, 255).reshape(values.shape)
    volume = volume_of(scene, values, matrix, parent)
    moved = np.eye(4) if parent is None else parent
    middle_now = (moved @ [*centre, 1])[:3]
    made = {
        "oblique": SweepPlan.oblique(placed(turned(1, 0.2, 0.4), origin=middle_now), 61, 0.4, None, 0.4),
        "rotational": SweepPlan.rotational(middle_now, (0.3, 1, 0.2), 40, spacing_mm=0.4),
    }
    cine = sweep(volume, made.get(name) or SweepPlan.axis(name), scene)
    total, home = 0.0, np.linalg.inv(moved)
    for frame in cine.frames():
        rows, columns = np.nonzero(frame.image > 127)
        at = (home @ frame.ijk_to_ras @ np.stack([columns, rows, 0 * rows, 0 * rows + 1]))[:3]
        if rows.size:
            assert np.sqrt((((at.T - centre) / axes) ** 2).sum(1)).max() < 1.05
        side, across, thick = np.linalg.norm(frame.ijk_to_ras[:3, :3], axis=0)
        if name == "rotational":
            # Pappus: each pixel sweeps an arc about the axis, half of the turn on either side.
            radius = np.abs(columns - (frame.image.shape[1] - 1) / 2) * side
            total += (radius * np.pi / cine.count).sum() * side * across
        else:
            total += rows.size * side * across * thick
    assert total == pytest.approx(4 / 3 * np.pi * axes.prod(), rel=0.02)


def test_the_volume_and_its_place_are_remembered(scene, tmp_path):
    volume = volume_of(scene, noise((4, 5, 6)), OBLIQUE, MOVED)
    cine = sweep(volume, SweepPlan.axis("coronal"), scene)
    assert swept_volume(cine) is volume
    then = ijk_to_world(volume)
    images = [frame.image for frame in cine.frames()]
    assert scene.WriteToMRB(str(tmp_path / "scene.mrb"))
    scene.Clear(True)
    assert scene.ReadFromMRB(str(tmp_path / "scene.mrb"))
    again = Cine(scene.GetFirstNodeByClass("vtkMRMLSequenceBrowserNode"))
    assert swept_volume(again).GetImageData().GetDimensions() == (6, 5, 4)
    np.testing.assert_allclose(swept_geometry(again), then)
    for frame, image in zip(again.frames(), images, strict=True):
        np.testing.assert_array_equal(frame.image, image)
    swept_volume(again).SetAndObserveTransformNodeID(None)
    np.testing.assert_allclose(swept_geometry(again), then)


def test_a_sweep_has_the_scale_of_its_volume_and_no_time(scene):
    cine = sweep(volume_of(scene, noise(), OBLIQUE), SweepPlan.axis("axial"), scene)
    known = cine.calibration
    assert known.source == "volume geometry"
    assert known.spacing_mm == pytest.approx((1.1, 0.4))
    assert (known.frame_time_s, known.time_source, known.warnings) == (None, "none", ())
    doubtful = sweep(volume_of(scene, noise(), np.eye(4)), SweepPlan.axis("axial"), scene)
    assert any("1 mm along every axis" in warning for warning in doubtful.calibration.warnings)


def test_deep_values_keep_one_range_whatever_a_plane_shows(scene):
    values = np.linspace(-500, 1500, 4 * 6 * 8).reshape(4, 6, 8).astype(np.int16)
    cine = sweep(volume_of(scene, values, OBLIQUE), SweepPlan.axis("axial"), scene)
    whole = np.concatenate([frame.image.ravel() for frame in cine.frames()])
    expected = np.rint((values.astype(float) + 500) * 255 / 2000)
    np.testing.assert_allclose(np.sort(whole), np.sort(expected.ravel()), atol=1)


def test_a_plane_outside_is_black_and_components_stay(scene):
    values = noise((6, 7, 8, 3)) | 1
    volume = volume_of(scene, values, np.eye(4))
    inside = np.eye(4)
    inside[2, 3] = 2
    np.testing.assert_array_equal(oblique_image(volume, inside, (8, 7)), values[2])
    assert not oblique_image(volume, placed(np.eye(3), origin=(0, 0, 6.1)), (8, 7)).any()


@pytest.mark.parametrize(
    "file", ["SpinePhantomFreehandReconstructed.mha", "vtkVolumeReconstructorTestLNMEANvolumeRef.mha"]
)
def test_real_reconstructed_volumes_are_swept_as_simpleitk_resamples_them(scene, shared, file):
    path = shared / "data/raw/volumes" / file
    if not path.is_file():
        pytest.skip(f"no {file}")
    image = SimpleITK.ReadImage(str(path))
    values = SimpleITK.GetArrayFromImage(image)
    world = np.eye(4)
    world[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    world[:3, 3] = image.GetOrigin()
    world = LPS @ world
    volume = volume_of(scene, values, world)
    centre = middle(values, world)
    for plan in (
        SweepPlan.rotational(centre, (0.1, 1, 0.3), 3),
        SweepPlan.oblique(placed(turned(0.3, 0.6, 0.2), origin=centre), 3, 5.0),
    ):
        for frame in sweep(volume, plan, scene).frames():
            expected = resampled(values, world, frame.ijk_to_ras, frame.image.shape[::-1])
            assert (np.abs(expected.astype(int) - frame.image) > 1).mean() < 1e-3
            assert frame.image.any()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: SweepPlan.axis("diagonal"), "choose axial"),
        (lambda: SweepPlan.oblique(np.zeros((4, 4))), "no direction"),
        (lambda: SweepPlan.oblique(np.eye(3)), "4 x 4"),
        (lambda: SweepPlan.oblique(np.eye(4) + np.eye(4, k=1)), "right angles"),
        (lambda: SweepPlan.rotational((0, 0, 0), (0, 0, 0), 5), "no direction"),
        (lambda: SweepPlan.rotational((0, 0, 0), (0, 0, 1), 5, start=(0, 0, 2)), "no direction"),
        (lambda: SweepPlan.rotational((0, 0, 0), (0, 0, 1), 5, angle_deg=0), "degrees"),
        (lambda: SweepPlan.rotational((0, 0, 0), (0, 0, 1), 0), "0 frames"),
        (lambda: SweepPlan.oblique(np.eye(4), 10**6), "1000000 frames"),
        (lambda: SweepPlan.oblique(np.eye(4), 3, -1.0), "-1 mm"),
        (lambda: SweepPlan.oblique(np.eye(4), 3, spacing_mm=0.0), "0 x 0 mm"),
        (lambda: SweepPlan.oblique(np.eye(4), 3, spacing_mm=1e-4), "pixels cannot be made"),
    ],
)
def test_plans_that_make_no_sweep_say_why(scene, made, message):
    volume = volume_of(scene, noise(), OBLIQUE)
    before = scene.GetNumberOfNodes()
    with pytest.raises(SegmentError, match=message):
        sweep(volume, made(), scene)
    assert scene.GetNumberOfNodes() == before


def test_a_volume_that_cannot_be_swept_says_why(scene):
    with pytest.raises(NoPixelsError, match="no voxels"):
        sweep(scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"), SweepPlan.axis("axial"), scene)
    volume = volume_of(scene, noise(), OBLIQUE)
    bent = scene.AddNewNodeByClass("vtkMRMLTransformNode")
    bent.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    volume.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(NoLinearTransformError, match="harden"):
        sweep(volume, SweepPlan.axis("axial"), scene)


def test_the_scene_of_the_volume_is_the_default(scene):
    volume = volume_of(scene, noise((3, 4, 5)), OBLIQUE)
    assert sweep(volume, SweepPlan.axis("axial")).scene is scene
    assert slicer.mrmlScene is scene


def test_a_sweep_is_cut_elsewhere_as_it_is_here(scene):
    volume = volume_of(scene, noise(), OBLIQUE, MOVED)
    plan = SweepPlan.rotational(middle(noise(), MOVED @ OBLIQUE), (0, 1, 2), 6)
    here = sweep(volume, plan, scene)
    elsewhere = build_on_worker(scene, sweep_source(volume, plan), lambda ask: ask())
    assert swept_volume(elsewhere) is volume
    for ours, theirs in zip(here.frames(), elsewhere.frames(), strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.ijk_to_ras, theirs.ijk_to_ras)


def test_transforms_of_transforms_are_multiplied_in_their_order(scene):
    volume = volume_of(scene, noise((3, 4, 5)), OBLIQUE, MOVED)
    above = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    above.SetMatrixTransformToParent(to_matrix(placed(turned(-0.9, 0.4, 0.8), (2, 1, 1), (7, 7, -7))))
    volume.GetParentTransformNode().SetAndObserveTransformNodeID(above.GetID())
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    world = ijk_to_world(volume)
    ends = np.array([[x, y, z, 1] for x in (-0.5, 4.5) for y in (-0.5, 3.5) for z in (-0.5, 2.5)]) @ world.T
    np.testing.assert_allclose(bounds[::2], ends[:, :3].min(0), atol=1e-6)
    np.testing.assert_allclose(bounds[1::2], ends[:, :3].max(0), atol=1e-6)


@pytest.mark.parametrize("name", ["axial", "sagittal", "coronal"])
def test_frames_are_upright_in_slicers_own_views(scene, name):
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode")
    assert view.SetOrientation(name.capitalize())
    shown = to_array(view.GetSliceToRAS())
    cine = sweep(volume_of(scene, noise((4, 5, 6)), np.diag([1.0, -1.0, -1.0, 1.0])), SweepPlan.axis(name), scene)
    frame = cine.frame(0).ijk_to_ras
    # The first axis of a view goes to the right and the second up; rows of a frame go down.
    np.testing.assert_allclose(frame[:3, 0], shown[:3, 0], atol=1e-9)
    np.testing.assert_allclose(frame[:3, 1], -shown[:3, 1], atol=1e-9)
    if name == "axial":
        np.testing.assert_allclose(upright(None)[:3, :2], frame[:3, :2], atol=1e-9)
