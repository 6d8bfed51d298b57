"""Volumes are cut across the axis asked for, with the spacing of the plane; what is unknown is said to be."""

from __future__ import annotations

import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames import read


def stack(path, **options) -> np.ndarray:
    return np.stack([frame.image for frame in read(path, **options)])


def write_nrrd(path, array: np.ndarray, fields: str = "") -> None:
    sizes = " ".join(map(str, reversed(array.shape)))
    header = f"NRRD0004\ntype: uint8\ndimension: {array.ndim}\nsizes: {sizes}\nencoding: raw\n{fields}\n"
    path.write_bytes(header.encode() + array.tobytes())


def write_mha(path, array: np.ndarray, spacing="1 1 1", extra: str = "") -> None:
    size = " ".join(map(str, reversed(array.shape)))
    header = (
        f"ObjectType = Image\nNDims = {array.ndim}\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"CompressedData = False\nDimSize = {size}\nElementSpacing = {spacing}\n{extra}"
        "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(header.encode() + array.tobytes())


@pytest.fixture
def voxels() -> np.ndarray:
    """(i, j, k) uint8, as NIfTI counts: every axis of another length."""
    return np.random.default_rng(3).integers(0, 256, (5, 6, 7), np.uint8)


@pytest.fixture
def nifti(tmp_path, voxels):
    """Spacing 0.3 mm along i (left-right), 0.4 along j (back-front), 0.7 along k (up), written by nibabel."""
    path = tmp_path / "v.nii.gz"
    nib.save(nib.Nifti1Image(voxels, np.diag([0.3, 0.4, 0.7, 1.0])), path)
    return path


@pytest.mark.parametrize(
    ("axis", "order", "mm"),
    [
        (None, (2, 1, 0), (0.4, 0.3)),
        (0, (2, 1, 0), (0.4, 0.3)),
        ("axial", (2, 1, 0), (0.4, 0.3)),
        (1, (1, 2, 0), (0.7, 0.3)),
        ("coronal", (1, 2, 0), (0.7, 0.3)),
        ("2", (0, 2, 1), (0.7, 0.4)),
        ("sagittal", (0, 2, 1), (0.7, 0.4)),
    ],
)
def test_each_axis_gives_its_slices_and_the_spacing_of_its_plane(nifti, voxels, axis, order, mm):
    frames = list(read(nifti, axis=axis))
    np.testing.assert_array_equal([frame.image for frame in frames], voxels.transpose(order))
    assert frames[0].mm_per_pixel == pytest.approx(mm)
    assert frames[0].calibration.source == "volume spacing"
    assert frames[0].time_ms is None and frames[0].provenance.frames == len(frames)


def test_anatomical_names_follow_the_orientation_of_the_patient(tmp_path, voxels):
    # i runs up the patient, j to the right, k to the front.
    affine = np.array([[0, -0.4, 0, 0], [0, 0, 0.7, 0], [0.3, 0, 0, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "v.nii")
    np.testing.assert_array_equal(stack(tmp_path / "v.nii", axis="axial"), voxels.transpose(0, 2, 1))
    np.testing.assert_array_equal(stack(tmp_path / "v.nii", axis="coronal"), voxels.transpose(2, 1, 0))
    np.testing.assert_array_equal(stack(tmp_path / "v.nii", axis="sagittal"), voxels.transpose(1, 2, 0))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(volume=hnp.arrays(np.uint8, st.tuples(*(st.integers(1, 7),) * 3)))
@pytest.mark.parametrize("write", [write_nrrd, write_mha])
def test_bytes_come_back_exactly(tmp_path, write, volume):
    path = tmp_path / ("v.nrrd" if write is write_nrrd else "v.mha")
    write(path, volume)
    np.testing.assert_array_equal(stack(path), volume)


def test_flat_images_are_one_frame(tmp_path, speckle):
    write_nrrd(tmp_path / "flat.nrrd", speckle[0])
    np.testing.assert_array_equal(stack(tmp_path / "flat.nrrd"), speckle[:1])


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
def test_colour_vectors_become_luma(tmp_path, suffix):
    colours = np.random.default_rng(4).integers(0, 256, (3, 5, 6, 3), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), tmp_path / f"c.{suffix}")
    expected = (colours.astype(int) @ [19595, 38470, 7471] + 32768) >> 16
    np.testing.assert_array_equal(stack(tmp_path / f"c.{suffix}"), expected)


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
def test_other_types_are_scaled_by_the_whole_volume(tmp_path, dtype):
    volume = np.linspace(-500 if dtype != np.uint16 else 10, 3000, 4 * 5 * 6).reshape(4, 5, 6).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(volume), tmp_path / "v.mha")
    low, high = float(volume.min()), float(volume.max())
    expected = (volume.astype(np.float64) - low) / (high - low) * 255
    assert np.abs(stack(tmp_path / "v.mha") - expected).max() <= 0.5 + 1e-3


def test_not_a_number_is_black_and_does_not_spoil_the_range(tmp_path):
    volume = np.array([[[0.0, np.nan], [np.inf, 2.0]]], np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(volume), tmp_path / "v.mha")
    np.testing.assert_array_equal(stack(tmp_path / "v.mha"), [[[0, 0], [255, 255]]])


def test_a_constant_volume_is_black_frames(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.full((2, 3, 4), 7.5, np.float32)), tmp_path / "v.nrrd")
    np.testing.assert_array_equal(stack(tmp_path / "v.nrrd"), np.zeros((2, 3, 4)))


def test_spacing_of_one_without_a_unit_is_unknown(tmp_path, voxels):
    write_mha(tmp_path / "v.mha", voxels)
    calibration = next(read(tmp_path / "v.mha")).calibration
    assert calibration.mm_per_pixel is None and "1 everywhere" in calibration.note


def test_spacing_of_one_with_a_unit_is_one(tmp_path, voxels):
    image = nib.Nifti1Image(voxels, np.eye(4))
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "v.nii")
    assert next(read(tmp_path / "v.nii")).mm_per_pixel == (1.0, 1.0)
    fields = 'space dimension: 2\nspace directions: (1,0) (0,1)\nspace units: "mm" "mm"\n'
    write_nrrd(tmp_path / "v.nrrd", voxels[0], fields)
    assert next(read(tmp_path / "v.nrrd")).mm_per_pixel == (1.0, 1.0)


def test_anisotropic_metaimage(tmp_path, voxels):
    write_mha(tmp_path / "v.mha", voxels, spacing="0.1 0.2 1.5")
    assert next(read(tmp_path / "v.mha")).mm_per_pixel == pytest.approx((0.2, 0.1))
    assert next(read(tmp_path / "v.mha", axis=2)).mm_per_pixel == pytest.approx((1.5, 0.2))


def test_time_stamps_of_a_tracked_sequence_are_its_time(tmp_path, speckle):
    stamps = [12.5, 12.6, 12.75, 13.0]
    extra = "".join(f"Seq_Frame{i:04d}_Timestamp = {stamp}\n" for i, stamp in enumerate(stamps))
    write_mha(tmp_path / "s.igs.mha", speckle, spacing="0.2 0.3 1", extra=extra)
    frames = list(read(tmp_path / "s.igs.mha"))
    assert [frame.time_ms for frame in frames] == pytest.approx([0, 100, 250, 500])
    assert frames[0].mm_per_pixel == pytest.approx((0.3, 0.2))
    across_time = next(read(tmp_path / "s.igs.mha", axis=1))
    assert across_time.time_ms is None
    assert across_time.mm_per_pixel is None and "time" in across_time.calibration.note


def test_a_plain_metaimage_is_read_slice_by_slice(tmp_path):
    volume = np.random.default_rng(5).integers(0, 256, (64, 128, 128), np.uint8)
    write_mha(tmp_path / "v.mha", volume)
    next(read(tmp_path / "v.mha"))  # what is imported and cached at the first read is no part of it
    tracemalloc.start()
    count = sum(int((frame.image == volume[frame.index]).all()) for frame in read(tmp_path / "v.mha"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 64
    assert peak < 5 * volume[0].nbytes


@pytest.mark.parametrize("axis", ["oblique", 3, -1])
def test_an_axis_that_does_not_exist_is_refused(nifti, axis):
    with pytest.raises(UnsupportedFormatError, match="does not exist"):
        next(read(nifti, axis=axis))


def test_four_dimensions_and_vectors_that_are_no_colours_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.uint8), np.eye(4)), tmp_path / "t.nii")
    with pytest.raises(UnsupportedFormatError, match="4 dimensions"):
        next(read(tmp_path / "t.nii"))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 3, 2), np.float32), isVector=True), tmp_path / "f.mha")
    with pytest.raises(UnsupportedFormatError, match="2 values"):
        next(read(tmp_path / "f.mha"))


@pytest.mark.parametrize("name", ["v.nrrd", "v.mha", "v.nii", "v.nii.gz"])
def test_a_truncated_volume_is_refused(tmp_path, name):
    noise = np.random.default_rng(6).integers(0, 256, (20, 30, 40), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(noise), tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        list(read(tmp_path / name))


def test_fields_in_another_encoding_do_no_harm(tmp_path, voxels):
    write_mha(tmp_path / "v.mha", voxels)
    data = (tmp_path / "v.mha").read_bytes()
    (tmp_path / "v.mha").write_bytes(data.replace(b"ElementType", "Geräte_Typ = Köln\nElementType".encode("latin-1")))
    np.testing.assert_array_equal(stack(tmp_path / "v.mha"), voxels)


def test_text_named_nrrd_is_refused(tmp_path):
    (tmp_path / "v.nrrd").write_text("no volume")
    with pytest.raises(UnreadableFileError):
        next(read(tmp_path / "v.nrrd"))


@pytest.mark.parametrize(
    ("name", "shape", "mm", "last_ms"),
    [
        ("SpinePhantomFreehand.igs.mha", (21, 616, 820), None, 1845.0),
        ("BkCurvilinearScanConvertedData.igs.mha", (1, 400, 600), None, 0.0),
        ("SpinePhantomFreehandReconstructed.mha", (104, 106, 147), (0.5, 0.5), None),
        ("vtkVolumeReconstructorTestLNMEANvolumeRef.mha", (98, 93, 80), (0.5, 0.5), None),
        ("ColorNrrdSample.igs.nrrd", (1, 648, 1152), None, None),
        ("sonivate-anechoic_1-1.nrrd", (1, 512, 512), (0.0776016, 0.0776016), None),
    ],
)
def test_real_volumes(shared, name, shape, mm, last_ms):
    path = shared / "data" / "raw" / "volumes" / name
    frames = list(read(path))
    assert (len(frames), *frames[0].image.shape) == shape
    assert frames[0].mm_per_pixel == (None if mm is None else pytest.approx(mm, rel=1e-5))
    assert frames[-1].time_ms == (None if last_ms is None else pytest.approx(last_ms))
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if whole.shape == shape:
        np.testing.assert_array_equal([frame.image for frame in frames], whole)
