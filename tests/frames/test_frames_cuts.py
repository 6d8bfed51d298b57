"""Planes through a volume that are not stored show what lies at the voxel positions that they state."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames import read
from sonodistill.frames.cut import cut_of


def write(path, volume: np.ndarray, spacing=(0.5, 0.5, 0.5)):
    """A (z, y, x) volume with the spacing of its axes in that order."""
    image = sitk.GetImageFromArray(volume)
    image.SetSpacing(tuple(reversed(spacing)))
    sitk.WriteImage(image, path)
    return path


def images(path, axis) -> np.ndarray:
    return np.stack([frame.image for frame in read(path, axis=axis)])


def positions(frame) -> np.ndarray:
    """(H, W, 3) voxel index, (z, y, x), of every pixel as the frame's details state it."""
    plane = {key: np.array(value) for key, value in frame.provenance.details["plane"].items()}
    rows, columns = np.indices(frame.image.shape)[..., None]
    return plane["origin"] + rows * plane["row_step"] + columns * plane["column_step"]


def trilinear(volume: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The volume at voxel positions by linear interpolation; voxels end half a step from their centre, then is 0."""
    last = np.array(volume.shape) - 1
    inside = ((at >= -0.5 + 1e-9) & (at <= last + 0.5 - 1e-9)).all(axis=-1)
    at = np.clip(at, 0, last)
    low = np.minimum(np.floor(at).astype(int), np.maximum(last - 1, 0))
    part = at - low
    result = np.zeros(at.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=-1)
        z, y, x = np.moveaxis(np.minimum(low + corner, last), -1, 0)
        result += weight * volume[z, y, x]
    return np.where(inside, result, 0)


def on_the_rim(volume: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Positions whose side of the volume's end is a matter of rounding."""
    ends = np.stack([np.abs(at + 0.5), np.abs(at - np.array(volume.shape) + 0.5)])
    return (ends < 1e-6).any(axis=(0, -1))


sizes, spacings = st.tuples(*(st.integers(2, 9),) * 3), st.tuples(*(st.sampled_from([0.3, 0.5, 0.8]),) * 3)
angles = st.integers(-180, 180)
specs = st.one_of(
    st.integers(1, 7).map("rotational:{}".format),
    st.tuples(angles, angles).map(lambda pair: "oblique:{},{}".format(*pair)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=sizes, spacing=spacings, spec=specs)
def test_every_pixel_is_the_volume_at_the_position_stated(tmp_path, size, spacing, spec):
    volume = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    path = write(tmp_path / "v.nrrd", volume, spacing)
    for frame in read(path, axis=spec):
        at = positions(frame)
        difference = np.abs(frame.image - trilinear(volume, at))
        assert difference[~on_the_rim(volume, at)].max(initial=0) <= 0.5 + 1e-2


@settings(max_examples=60, deadline=None)
@given(size=sizes, spacing=spacings, spec=specs)
def test_pixels_are_square_in_physical_space_and_as_wide_as_the_smallest_spacing(size, spacing, spec):
    cut = cut_of(spec, size, spacing, None)
    for index in range(len(cut.poses)):
        plane = cut.plane(index)
        down, right = plane.row_step * spacing, plane.column_step * spacing
        assert np.linalg.norm(down) == pytest.approx(min(spacing)) == np.linalg.norm(right)
        assert down @ right == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("depth", [7, 9])
def test_one_rotational_plane_is_the_central_slice(tmp_path, depth):
    volume = np.random.default_rng(1).integers(0, 256, (depth, 8, 10), np.uint8)
    path = write(tmp_path / "v.nrrd", volume)
    np.testing.assert_array_equal(images(path, "rotational:1"), volume[depth // 2][None])


def test_the_second_of_two_rotational_planes_is_the_central_slice_across_axis_2(tmp_path):
    volume = np.random.default_rng(1).integers(0, 256, (9, 8, 9), np.uint8)
    first, second = images(write(tmp_path / "v.nrrd", volume), "rotational:2")
    np.testing.assert_array_equal(first, volume[4])
    np.testing.assert_array_equal(second, volume[:, :, 4].T)


def test_every_rotational_plane_holds_the_axis(tmp_path):
    volume = np.random.default_rng(2).integers(0, 256, (9, 8, 11), np.uint8)
    for image in images(write(tmp_path / "v.nrrd", volume), "rotational:5"):
        np.testing.assert_array_equal(image[:, image.shape[1] // 2], volume[4, :, 5])


def test_half_a_turn_is_the_mirror_image(tmp_path):
    volume = np.random.default_rng(3).integers(0, 256, (9, 8, 11), np.uint8)
    path = write(tmp_path / "v.nrrd", volume)
    np.testing.assert_array_equal(images(path, "oblique:0,180"), images(path, "oblique:0")[::-1, :, ::-1])
    there, back = (images(path, f"oblique:0,{turn}") for turn in (30, -150))
    assert np.abs(there.astype(int) - back[::-1, :, ::-1]).max() <= 1


def test_planes_that_are_not_tilted_are_the_slices(tmp_path):
    volume = np.random.default_rng(4).integers(0, 256, (5, 6, 7), np.uint8)
    path = write(tmp_path / "v.nrrd", volume)
    np.testing.assert_array_equal(images(path, "oblique:0"), volume)


def test_a_quarter_turn_gives_the_slices_of_another_axis(tmp_path):
    volume = np.random.default_rng(4).integers(0, 256, (5, 6, 7), np.uint8)
    path = write(tmp_path / "v.nrrd", volume)
    # Axis 0 tilts towards axis 1, and axis 2 turns towards axis 0.
    np.testing.assert_array_equal(images(path, "oblique:90"), volume.transpose(1, 0, 2)[:, ::-1])
    np.testing.assert_array_equal(images(path, "oblique:-90"), volume.transpose(1, 0, 2)[::-1])
    np.testing.assert_array_equal(images(path, "oblique:0,90"), volume.transpose(2, 1, 0)[::-1])


def test_a_sphere_is_a_disc_in_every_plane_although_its_voxels_are_no_cubes(tmp_path):
    spacing, radius = np.array([0.9, 0.4, 0.6]), 7.0
    size = np.array([24, 50, 34])
    away = (np.indices(size).transpose(1, 2, 3, 0) - (size - 1) / 2) * spacing
    volume = np.clip(128 + 128 * (radius - np.linalg.norm(away, axis=-1)), 0, 255).astype(np.uint8)
    path = write(tmp_path / "v.nrrd", volume, spacing)
    for axis in ("rotational:7", "oblique:35,20"):
        frames = list(read(path, axis=axis))
        for frame in [frames[len(frames) // 2], *frames[:: len(frames) // 3]]:
            assert frame.mm_per_pixel == pytest.approx((0.4, 0.4))
            centre = (positions(frame) - (size - 1) / 2) * spacing
            distance = np.linalg.norm(centre, axis=-1)
            assert (frame.image[distance < radius - 1] > 128).all()
            assert (frame.image[distance > radius + 1] < 128).all()
        areas = [0.4**2 * (frame.image >= 128).sum() for frame in frames]
        expected = np.pi * radius**2
        assert max(areas) == pytest.approx(expected, rel=0.03)
        if axis.startswith("rotational"):
            assert min(areas) == pytest.approx(expected, rel=0.03)


def test_oblique_planes_cover_the_volume(tmp_path):
    volume = np.full((6, 7, 8), 200, np.uint8)
    path = write(tmp_path / "v.nrrd", volume, (1.0, 0.5, 0.7))
    shown = sum(int((frame.image > 100).sum()) for frame in read(path, axis="oblique:25,40"))
    assert shown * 0.5**3 == pytest.approx(volume.size * 1.0 * 0.5 * 0.7, rel=0.1)


def test_other_types_are_scaled_as_their_slices_are(tmp_path):
    volume = np.random.default_rng(5).normal(-40, 300, (5, 6, 7)).astype(np.float32)
    path = write(tmp_path / "v.mha", volume)
    np.testing.assert_array_equal(images(path, "oblique:0"), images(path, 0))
    corner = images(path, "oblique:45")[0, 0, 0]
    assert corner == 0


def test_the_direction_of_the_patient_turns_no_plane(tmp_path):
    volume = np.random.default_rng(6).integers(0, 256, (5, 6, 7), np.uint8)
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), np.diag([0.4, 0.4, 0.4, 1])), tmp_path / "a.nii")
    turned = np.array([[0, -0.4, 0, 9], [0, 0, 0.4, 8], [0.4, 0, 0, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), turned), tmp_path / "b.nii")
    np.testing.assert_array_equal(*(images(tmp_path / name, "oblique:20,30") for name in ("a.nii", "b.nii")))


def test_only_gives_the_planes_wanted(tmp_path):
    path = write(tmp_path / "v.nrrd", np.random.default_rng(7).integers(0, 256, (5, 6, 7), np.uint8))
    whole = list(read(path, axis="rotational:6"))
    some = list(read(path, axis="rotational:6", only=[5, 2]))
    assert [frame.index for frame in some] == [2, 5]
    for frame in some:
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
    with pytest.raises(UnreadableFileError, match="has no frame 6"):
        next(read(path, axis="rotational:6", only=[6]))


def test_the_scale_of_a_plane_is_unknown_where_the_volumes_is(tmp_path):
    path = write(tmp_path / "v.mha", np.zeros((3, 4, 5), np.uint8), (1, 1, 1))
    calibration = next(read(path, axis="rotational:2")).calibration
    assert calibration.mm_per_pixel is None and "1 everywhere" in calibration.note


def test_planes_say_what_they_are(tmp_path):
    path = write(tmp_path / "v.nrrd", np.zeros((5, 6, 7), np.uint8))
    frame = next(read(path, axis="rotational:8"))
    details = json.loads(json.dumps(frame.provenance.details))
    assert (details["axis"], details["size"], frame.provenance.frames) == ("rotational:8", [5, 6, 7], 8)
    assert frame.time_ms is None and frame.rgb() is None


@pytest.mark.parametrize(
    "axis",
    [
        *("rotational", "rotational:", "rotational:0", "rotational:3601", "rotational:2.5", "rotational:-4"),
        *("rotational:8,2", "oblique:", "oblique:x", "oblique:nan", "oblique:1e5", "oblique:10,", "oblique:1,2,3"),
    ],
)
def test_a_malformed_cut_names_the_forms(tmp_path, axis):
    path = write(tmp_path / "v.nrrd", np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(UnsupportedFormatError, match="does not exist") as raised:
        next(read(path, axis=axis))
    for form in ("rotational:N", "oblique:TILT", "oblique:TILT,TURN"):
        assert form in raised.value.remedy


def test_an_unknown_axis_names_every_form(tmp_path):
    path = write(tmp_path / "v.nrrd", np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(UnsupportedFormatError, match="axis 'diagonal' does not exist") as raised:
        next(read(path, axis="diagonal"))
    for form in ("axial", "coronal", "sagittal", "rotational:N", "oblique:TILT,TURN"):
        assert form in raised.value.remedy


@pytest.mark.parametrize("axis", ["rotational:4", "oblique:30"])
def test_colours_and_what_has_no_depth_are_refused(tmp_path, axis):
    colours = np.zeros((3, 4, 5, 3), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), tmp_path / "c.nrrd")
    with pytest.raises(UnsupportedFormatError, match="voxels are colours"):
        next(read(tmp_path / "c.nrrd", axis=axis))
    with pytest.raises(UnsupportedFormatError, match="1 x 4 x 5 voxels"):
        next(read(write(tmp_path / "flat.nrrd", np.zeros((1, 4, 5), np.uint8)), axis=axis))


@pytest.mark.parametrize("kind", ["tracked", "time"])
def test_sequences_are_refused_because_time_is_not_space(tmp_path, kind):
    image = sitk.GetImageFromArray(np.zeros((3, 4, 5), np.uint8))
    path = tmp_path / ("s.mha" if kind == "tracked" else "s.nrrd")
    if kind == "tracked":
        for number in range(3):
            image.SetMetaData(f"Seq_Frame{number:04d}_Timestamp", str(number))
        sitk.WriteImage(image, path)
    else:
        header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 5 4 3\nkinds: domain domain time\nencoding: raw\n\n"
        path.write_bytes(header.encode() + bytes(60))
    with pytest.raises(UnsupportedFormatError, match="axis 0 is time"):
        next(read(path, axis="oblique:30"))


def test_planes_of_more_pixels_than_an_image_has_are_refused(tmp_path):
    path = write(tmp_path / "v.nrrd", np.zeros((4, 5, 6), np.uint8), (0.001, 50, 1))
    with pytest.raises(UnsupportedFormatError, match="at the volume's smallest spacing"):
        next(read(path, axis="rotational:4"))


@pytest.mark.parametrize(
    "name", ["SpinePhantomFreehandReconstructed.mha", "vtkVolumeReconstructorTestLNMEANvolumeRef.mha"]
)
def test_real_volumes_are_cut_where_the_planes_say(shared, name):
    path = shared / "data" / "raw" / "volumes" / name
    volume = images(path, 0)
    np.testing.assert_array_equal(images(path, "oblique:0"), volume)
    for axis, only in (("rotational:9", [1, 4, 8]), ("oblique:30,-15", [40, 80])):
        for frame in read(path, axis=axis, only=only):
            assert frame.mm_per_pixel == (0.5, 0.5) and frame.image.max() > 40
            at = positions(frame)
            difference = np.abs(frame.image - trilinear(volume, at))
            assert difference[~on_the_rim(volume, at)].max() <= 0.5 + 1e-2


def test_a_real_tracked_sequence_is_refused(shared):
    with pytest.raises(UnsupportedFormatError, match="axis 0 is time"):
        next(read(shared / "data" / "raw" / "volumes" / "SpinePhantomFreehand.igs.mha", axis="rotational:8"))
