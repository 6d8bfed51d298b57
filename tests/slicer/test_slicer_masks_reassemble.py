"""Masks of swept planes back in the volume: a known ellipsoid, whichever way it was cut."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import image_data, matrix_of, to_matrix
from UltrasoundSegmentLib.frames.sweep import SweepPlan, sweep
from UltrasoundSegmentLib.masks import pixels
from UltrasoundSegmentLib.masks.measure import volume_mm3
from UltrasoundSegmentLib.masks.reassemble import reassemble
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore
from vtk.util.numpy_support import numpy_to_vtk

import slicer

CENTRE, RADII = np.array([3.0, -4.0, 7.0]), np.array([14.0, 10.0, 18.0])
TRUE = 4 / 3 * np.pi * float(RADII.prod())
TILTED = np.array([[-0.8, 0.1, 0.0, 30.0], [0.1, -0.7, 0.05, 25.0], [0.0, 0.0, 0.9, -20.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE = (62, 80, 70)


def rotated(*degrees):
    matrix = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(4)
        a, b = [each for each in range(3) if each != axis]
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    return matrix


OBLIQUE = rotated(25, -35, 15)
OBLIQUE[:3, 3] = CENTRE
PLANS = {
    "axial": lambda: SweepPlan.axis("axial"),
    "sagittal": lambda: SweepPlan.axis("sagittal"),
    "coronal": lambda: SweepPlan.axis("coronal"),
    "oblique": lambda: SweepPlan.oblique(OBLIQUE, step_mm=1.1, spacing_mm=0.7),
    "rotational": lambda: SweepPlan.rotational((4.0, -6.0, 7.0), (0.1, 0.2, 1.0), 36, spacing_mm=0.7),
}


def inside(ras):
    return (((ras - CENTRE[:, np.newaxis]) / RADII[:, np.newaxis]) ** 2).sum(axis=0) <= 1


def points(matrix, shape):
    """(3, N) RAS of the voxels (D, H, W) or pixels (H, W) of an image."""
    indices = np.indices(shape).reshape(len(shape), -1)[::-1]
    ijk = np.vstack([indices, np.zeros((3 - len(shape), indices.shape[1]))])
    return matrix[:3, :3] @ ijk + matrix[:3, 3:]


def volume_in(scene, matrix=TILTED, shape=SHAPE):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "ellipsoid")
    image = image_data(np.zeros((1, int(np.prod(shape))), np.uint8))
    image.SetDimensions(*shape[::-1])
    values = (inside(points(matrix, shape)) * np.uint8(200)).astype(np.uint8)
    image.GetPointData().SetScalars(numpy_to_vtk(values, deep=True))
    volume.SetAndObserveImageData(image)
    volume.SetIJKToRASMatrix(to_matrix(matrix))
    return volume


def segmented(cine, every=1, labels=("mass",), status=Status.ACCEPTED):
    """The truth drawn on every n-th plane."""
    store = MaskStore.of(cine, labels)
    for index in range(0, cine.count, every):
        frame = cine.frame(index)
        mask = inside(points(frame.ijk_to_ras, frame.image.shape)).reshape(frame.image.shape)
        store.write(index, mask.astype(np.uint8), status, annotator="anna")
    return store


def voxels(node, store, volume, shape=SHAPE):
    return pixels.read(node.GetSegmentation(), store.segment_ids, shape, matrix_of(volume))


@pytest.mark.parametrize("kind", list(PLANS))
def test_an_ellipsoid_cut_and_reassembled_has_its_volume_and_place(scene, kind):
    volume = volume_in(scene)
    cine = sweep(volume, PLANS[kind](), scene)
    store = segmented(cine)
    node = reassemble(cine, store, volume)
    assert volume_mm3(node)["mass"] == pytest.approx(TRUE, rel=0.02)
    found = voxels(node, store, volume) > 0
    truth = inside(points(TILTED, SHAPE)).reshape(SHAPE)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.98


@pytest.mark.parametrize("kind", ["axial", "oblique", "rotational"])
def test_planes_that_nobody_labelled_are_bridged(scene, kind):
    volume = volume_in(scene)
    cine = sweep(volume, PLANS[kind](), scene)
    node = reassemble(cine, segmented(cine, every=3), volume)
    # Between outlines 3 mm apart a distance that is linear cuts the corner of a body of 10 to 18 mm.
    assert volume_mm3(node)["mass"] == pytest.approx(TRUE, rel=0.06)


def test_stored_slices_come_back_voxel_for_voxel(scene):
    rng = np.random.default_rng(5)
    volume = volume_in(scene, np.diag([-0.7, -0.7, 0.9, 1.0]), (9, 20, 24))
    for kind in ("axial", "sagittal", "coronal"):
        cine = sweep(volume, SweepPlan.axis(kind), scene)
        store = MaskStore.of(cine, ["a", "b", "c"])
        drawn = {}
        for index in range(cine.count):
            frame = cine.frame(index)
            drawn[index] = rng.integers(0, 4, frame.image.shape).astype(np.uint8)
            store.write(index, drawn[index], Status.EDITED, annotator="anna")
        found = voxels(reassemble(cine, store, volume), store, volume, (9, 20, 24))
        inverse = np.linalg.inv(matrix_of(volume))
        for index, mask in drawn.items():
            ras = points(cine.frame(index).ijk_to_ras, mask.shape)
            x, y, z = np.rint(inverse[:3, :3] @ ras + inverse[:3, 3:]).astype(int)
            np.testing.assert_array_equal(found[z, y, x].reshape(mask.shape), mask)


def test_a_volume_moved_after_the_sweep_keeps_its_masks(scene):
    volume = volume_in(scene)
    cine = sweep(volume, PLANS["oblique"](), scene)
    store = segmented(cine)
    before = voxels(reassemble(cine, store, volume), store, volume)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    transform.SetMatrixTransformToParent(to_matrix(rotated(10, 20, 30)))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    node = reassemble(cine, store, volume)
    np.testing.assert_array_equal(voxels(node, store, volume), before)
    assert node.GetParentTransformNode() is transform


def test_a_volume_under_a_transform_gets_the_segmentation_in_its_own_place(scene):
    volume = volume_in(scene)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    turn = rotated(0, 0, 90)
    turn[:3, 3] = 5, -6, 7
    transform.SetMatrixTransformToParent(to_matrix(turn))
    volume.SetAndObserveTransformNodeID(transform.GetID())
    cine = sweep(volume, SweepPlan.axis("axial"), scene)
    store = MaskStore.of(cine, ["mass"])
    back = np.linalg.inv(turn)
    for index in range(cine.count):
        frame = cine.frame(index)
        ras = points(frame.ijk_to_ras, frame.image.shape)
        mask = inside(back[:3, :3] @ ras + back[:3, 3:]).reshape(frame.image.shape)
        store.write(index, mask.astype(np.uint8), Status.ACCEPTED, annotator="anna")
    found = voxels(reassemble(cine, store, volume), store, volume) > 0
    truth = inside(points(TILTED, SHAPE)).reshape(SHAPE)
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.98


def test_several_labels_are_kept_apart(scene):
    volume = volume_in(scene)
    cine = sweep(volume, PLANS["rotational"](), scene)
    store = MaskStore.of(cine, ["upper", "lower"])
    for index in range(cine.count):
        frame = cine.frame(index)
        ras = points(frame.ijk_to_ras, frame.image.shape)
        mask = (inside(ras) * np.where(ras[2] > CENTRE[2], 1, 2)).reshape(frame.image.shape)
        store.write(index, mask.astype(np.uint8), Status.PREDICTED)
    sizes = volume_mm3(reassemble(cine, store, volume))
    assert sizes["upper"] == pytest.approx(TRUE / 2, rel=0.03)
    assert sizes["lower"] == pytest.approx(TRUE / 2, rel=0.03)


def test_a_single_labelled_plane_fills_no_more_than_its_own_thickness(scene):
    volume = volume_in(scene)
    cine = sweep(volume, SweepPlan.axis("axial"), scene)
    store = MaskStore.of(cine, ["mass"])
    store.write(30, np.ones(store.mask(30).shape, np.uint8), Status.EDITED, annotator="anna")
    found = voxels(reassemble(cine, store, volume), store, volume)
    assert np.flatnonzero(found.any(axis=(1, 2))).size == 1


def test_planes_of_a_rotation_far_apart_are_not_bridged(scene):
    volume = volume_in(scene)
    cine = sweep(volume, PLANS["rotational"](), scene)
    node = reassemble(cine, segmented(cine, every=18), volume)
    assert 0 < volume_mm3(node)["mass"] < 0.2 * TRUE


def test_what_is_skipped_or_not_wanted_is_left_out(scene):
    volume = volume_in(scene)
    cine = sweep(volume, SweepPlan.axis("axial"), scene)
    store = segmented(cine, status=Status.SKIPPED)
    with pytest.raises(SegmentError, match="No plane"):
        reassemble(cine, store, volume)
    store = segmented(cine, status=Status.EDITED)
    with pytest.raises(SegmentError, match="No plane"):
        reassemble(cine, store, volume, statuses=[Status.ACCEPTED])


def test_frames_that_lie_anyhow_are_refused(scene):
    from UltrasoundSegmentLib.frames.build import Facts, build_cine

    slices = []
    for turn in ((0, 0, 0), (20, 0, 0), (0, 30, 0), (10, 10, 40)):
        matrix = rotated(*turn)
        matrix[:3, 3] = np.array(turn) * 2
        slices.append((np.zeros((20, 20), np.uint8), matrix))
    cine = build_cine(scene, "freehand", slices, None, Facts(source="volume geometry"))
    store = MaskStore.of(cine, ["mass"])
    store.write(0, np.ones((20, 20), np.uint8), Status.EDITED, annotator="anna")
    with pytest.raises(SegmentError, match="neither are parallel nor turn"):
        reassemble(cine, store, volume_in(scene))


def test_a_real_volume_goes_there_and_back(scene, shared):
    path = shared / "data" / "raw" / "volumes" / "SpinePhantomFreehandReconstructed.mha"
    if not path.is_file():
        pytest.skip("no reconstructed volume")
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "spine")
    assert storage.ReadData(volume)
    cine = sweep(volume, SweepPlan.axis("coronal"), scene)
    store = MaskStore.of(cine, ["bright"])
    count = 0
    for index in range(cine.count // 2, cine.count // 2 + 5):
        mask = (cine.frame(index).image > 90).astype(np.uint8)
        count += int(mask.sum())
        store.write(index, mask, Status.PREDICTED)
    size = float(np.prod(volume.GetSpacing()))
    assert volume_mm3(reassemble(cine, store, volume))["bright"] == pytest.approx(count * size, rel=1e-6)


def test_it_is_done_in_steps_that_can_be_stopped(scene):
    from UltrasoundSegmentLib.masks.reassemble import reassemble_steps

    volume = volume_in(scene)
    cine = sweep(volume, SweepPlan.axis("axial"), scene)
    store = segmented(cine)
    count = scene.GetNumberOfNodes()
    steps = reassemble_steps(cine, store, volume)
    for _ in range(80):
        next(steps)
    steps.close()
    assert scene.GetNumberOfNodes() == count


def test_a_sweep_that_is_removed_meanwhile_is_told(scene):
    from UltrasoundSegmentLib.masks.reassemble import reassemble_steps
    from UltrasoundSegmentLib.masks.steps import finish

    volume = volume_in(scene)
    cine = sweep(volume, SweepPlan.axis("axial"), scene)
    store = segmented(cine)
    steps = reassemble_steps(cine, store, volume)
    for _ in range(cine.count + 5):
        next(steps)
    scene.RemoveNode(cine.browser)
    with pytest.raises(SegmentError, match="removed from the scene"):
        finish(steps)
