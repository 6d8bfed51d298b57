"""DICOM stills and clips: pixels as pydicom decodes them, scale and time only where the header states them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

import pydicom
from pydicom import examples
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundImageStorage, UltrasoundMultiFrameImageStorage
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.dicom_cine import DicomError, describe_from_dicom, file_of, frame_times, load_dicom
from UltrasoundSegmentLib.frames.dicom_pixels import decoded_by_pydicom
from UltrasoundSegmentLib.frames.dicom_regions import scale_of
from UltrasoundSegmentLib.frames.image import image_data, luma, pixels

import slicer


def region(x0: int, y0: int, x1: int, y1: int, **changed: Any) -> Dataset:
    """A 2-D region of tissue with pixels of 0.2 mm in a row and 0.3 mm down a column."""
    item = Dataset()
    item.RegionLocationMinX0, item.RegionLocationMinY0 = x0, y0
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = x1, y1
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX, item.PhysicalDeltaY = 0.02, 0.03
    for keyword, value in changed.items():
        setattr(item, keyword, value)
    return item


SPECTRAL = {"RegionSpatialFormat": 3, "RegionDataType": 3, "PhysicalUnitsXDirection": 4, "PhysicalUnitsYDirection": 7}


def written(path: Path, values: np.ndarray, **attributes: Any) -> Path:
    """A DICOM file of (N, H, W) or (N, H, W, 3) values; attributes as given, None takes one away."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = UltrasoundMultiFrameImageStorage if len(values) > 1 else UltrasoundImageStorage
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.7"
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.PatientName, ds.PatientID, ds.Modality = "Doe^Jane", "4711", "US"
    ds.Rows, ds.Columns = values.shape[1:3]
    if len(values) > 1:
        ds.NumberOfFrames = len(values)
    colour = values.ndim == 4
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        ds.PlanarConfiguration = 0
    ds.BitsAllocated = 8 * values.dtype.itemsize
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = ds.BitsAllocated, ds.BitsAllocated - 1, 0
    ds.PixelData = values.tobytes()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.save_as(path, enforce_file_format=True)
    return path


def noise(count: int = 4, size: tuple[int, ...] = (24, 30), kind: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(2).integers(0, np.iinfo(kind).max, (count, *size)).astype(kind)


@pytest.fixture(params=["with the runtime", "with pydicom alone"])
def decoder(request, monkeypatch) -> str:
    if request.param == "with pydicom alone":
        monkeypatch.setitem(sys.modules, "sonodistill.frames.dicom", None)
    else:
        pytest.importorskip("sonodistill.frames.dicom")
    return request.param


def test_a_colour_cine_has_the_pixels_that_pydicom_decodes(scene, decoder):
    path = examples.get_path("ybr_color")
    expected = pydicom.dcmread(path).pixel_array
    if pydicom.dcmread(path).PhotometricInterpretation.startswith("YBR"):
        from pydicom.pixels import pixel_array

        expected = pixel_array(path)
    cine = load_dicom(path, scene)
    assert cine.count == 30
    for index in (0, 7, 29):
        seen = pixels(cine.volume(index)).astype(int)
        # Two ways from YBR to RGB differ by their rounding.
        assert np.abs(seen - expected[index]).max() <= 3
        assert np.abs(cine.frame(index).image.astype(int) - luma(expected[index])).max() <= 3


def test_a_colour_still_stays_upright_and_in_colour(scene, decoder):
    path = examples.get_path("rgb_color")
    expected = pydicom.dcmread(path).pixel_array
    cine = load_dicom(path, scene)
    assert cine.count == 1
    np.testing.assert_array_equal(pixels(cine.volume(0)), expected)
    np.testing.assert_array_equal(cine.frame(0).ijk_to_ras, np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert cine.frame(0).time_s is None


def test_palette_and_jpeg_2000_become_colours(scene, decoder):
    for name in ("palette_color", "jpeg2k"):
        frame = load_dicom(examples.get_path(name), scene).frame(0)
        assert frame.image.shape == pydicom.dcmread(examples.get_path(name)).pixel_array.shape[:2]
        assert frame.image.std() > 5


def real(name: str) -> Path:
    """A file of the package pydicom-data; skips where it is not installed."""
    package = importlib.util.find_spec("data_store")
    path = Path(package.origin).parent / "data" / name if package is not None and package.origin else Path(name)
    if not path.is_file():
        pytest.skip(f"{name} is in the package pydicom-data, which is not installed")
    return path


@pytest.mark.parametrize(
    ("name", "count", "spacing", "box", "told"),
    [
        ("OBXXXX1A_2frame.dcm", 2, 0.2623, (120, 60, 800, 519), "region 2 is a waveform"),
        ("OBXXXX1A_expb.dcm", 1, 0.2623, (120, 60, 800, 519), "region 2 is a waveform"),
        ("gdcm-US-ALOKA-16.dcm", 1, 0.3827, (32, 24, 336, 416), "3 regions"),
        ("color3d_jpeg_baseline.dcm", 120, 0.5105, (84, 31, 596, 415), ""),
        ("US1_J2KR.dcm", 1, None, None, "no calibrated regions"),
        ("color-pl.dcm", 1, None, None, "no calibrated regions"),
    ],
)
def test_real_ultrasound_files(scene, name, count, spacing, box, told):
    cine = load_dicom(real(name), scene)
    known = cine.calibration
    assert (cine.count, cine.region) == (count, box)
    assert known.spacing_mm == (None if spacing is None else pytest.approx((spacing, spacing), abs=1e-4))
    assert told in " ".join(known.warnings)
    pytest.importorskip("sonodistill.frames.dicom")
    header = pydicom.dcmread(real(name), stop_before_pixels=True)
    ours = pixels(cine.volume(0)).astype(int)
    alone = next(decoded_by_pydicom(real(name), header))
    assert ours.shape == alone.shape
    assert np.abs(ours - alone).max() <= 3


def test_a_region_that_does_not_fit_its_image_gives_no_scale(scene):
    # The header of pydicom's cine was kept when its image was made smaller; Slicer takes 0.51 mm from it.
    cine = load_dicom(examples.get_path("ybr_color"), scene)
    known = cine.calibration
    assert (known.spacing_mm, known.source, cine.region) == (None, "none", None)
    assert any("does not fit its image of 320 x 240" in warning for warning in known.warnings)
    assert known.time_source == "FrameTime"
    assert known.frame_time_s == pytest.approx(0.033333)
    assert cine.frame(3).time_s == pytest.approx(0.1, abs=1e-4)


def test_scale_and_region_of_a_cine_in_centimetres(scene, tmp_path, decoder):
    path = written(tmp_path / "cine.dcm", noise(), SequenceOfUltrasoundRegions=[region(2, 3, 27, 20)], FrameTime="40")
    cine = load_dicom(path, scene)
    known = cine.calibration
    assert known.spacing_mm == pytest.approx((0.3, 0.2))
    assert (known.source, known.time_source, known.warnings) == ("DICOM region", "FrameTime", ())
    assert known.frame_time_s == pytest.approx(0.04)
    assert cine.region == (2, 3, 28, 21)
    np.testing.assert_allclose(cine.frame(1).ijk_to_ras, np.diag([-0.2, -0.3, 1, 1]))
    np.testing.assert_array_equal(cine.frame(2).image, noise()[2])
    assert cine.frame(2).key == "1.2.826.0.1.3680043.8.498.7#2"
    assert cine.volume(2).GetAttribute("DICOM.instanceUIDs") == "1.2.826.0.1.3680043.8.498.7"


def test_the_patient_is_not_in_the_scene(scene, tmp_path):
    load_dicom(written(tmp_path / "cine.dcm", noise()), scene)
    scene.SetSaveToXMLString(1)
    scene.Commit()
    assert "cine" in scene.GetSceneXMLString()
    assert "Doe" not in scene.GetSceneXMLString()
    assert "4711" not in scene.GetSceneXMLString()


@pytest.mark.parametrize(
    ("regions", "spacing", "box", "message"),
    [
        ([region(0, 0, 29, 23)], (0.3, 0.2), (0, 0, 30, 24), None),
        ([region(0, 0, 30, 24)], (0.3, 0.2), (0, 0, 30, 24), None),
        ([region(0, 0, 31, 20)], None, None, "does not fit"),
        ([region(0, 0, 20, 10), region(0, 11, 31, 20, **SPECTRAL)], None, None, "does not fit"),
        ([region(2, 2, 20, 10, PhysicalDeltaX=-0.02, PhysicalDeltaY=-0.03)], (0.3, 0.2), (2, 2, 21, 11), None),
        ([region(2, 2, 20, 10, PhysicalUnitsXDirection=0)], None, (2, 2, 21, 11), "not in centimetres"),
        ([region(2, 2, 20, 10, PhysicalDeltaX=0.0)], None, (2, 2, 21, 11), "impossible pixel size"),
        ([region(2, 2, 20, 10, PhysicalDeltaX=1.0)], None, (2, 2, 21, 11), "impossible pixel size"),
        ([region(2, 12, 20, 20, **SPECTRAL)], None, None, "region 1 is spectral"),
        (
            [region(2, 12, 20, 20, **SPECTRAL), region(1, 1, 20, 10), region(5, 5, 9, 9, RegionDataType=2)],
            (0.3, 0.2),
            (1, 1, 21, 11),
            "3 regions: the 2-D region 2 .* is used; region 1 is spectral",
        ),
        (
            [region(0, 0, 13, 20), region(14, 0, 29, 20, PhysicalDeltaX=0.04)],
            None,
            (14, 0, 30, 21),
            "different scales .*none holds for the whole frame",
        ),
        ([], None, None, "no calibrated regions"),
    ],
)
def test_what_regions_give(scene, tmp_path, regions, spacing, box, message):
    cine = load_dicom(written(tmp_path / "cine.dcm", noise(), SequenceOfUltrasoundRegions=regions), scene)
    known = cine.calibration
    assert known.spacing_mm == (None if spacing is None else pytest.approx(spacing))
    assert cine.region == box
    told = [warning for warning in known.warnings if "time between" not in warning]
    if message is None:
        assert told == []
    else:
        assert re.search(message, " ".join(told))
    assert known.spacing_mm is not None or any("ruler" in warning for warning in told)


def test_pixel_spacing_is_no_scale_of_an_ultrasound_image(scene, tmp_path):
    cine = load_dicom(written(tmp_path / "cine.dcm", noise(), PixelSpacing=[0.1, 0.1]), scene)
    assert cine.calibration.spacing_mm is None
    assert any("Pixel Spacing is not used" in warning for warning in cine.calibration.warnings)


_sides = st.sampled_from([-1, 0, 3, 15, 29, 30, 31, 60])
_regions = st.lists(
    st.builds(
        region,
        *(_sides,) * 4,
        RegionSpatialFormat=st.sampled_from([1, 1, 1, 2, 3]),
        RegionDataType=st.sampled_from([1, 1, 2, 3]),
        PhysicalUnitsXDirection=st.sampled_from([3, 3, 0]),
        PhysicalDeltaX=st.sampled_from([0.02, -0.02, 0.05, 0.0]),
    ),
    max_size=3,
)


@pytest.mark.filterwarnings("ignore:Invalid value")
@settings(max_examples=150, deadline=None)
@given(regions=_regions)
def test_a_scale_is_never_given_where_the_runtime_gives_none(regions):
    calibration = pytest.importorskip("sonodistill.frames.calibration")
    ds = Dataset()
    ds.Rows, ds.Columns, ds.SequenceOfUltrasoundRegions = 24, 30, regions
    theirs, ours = calibration.calibration_of(ds).mm_per_pixel, scale_of(ds)
    if ours.spacing_mm is not None:
        assert ours.spacing_mm == pytest.approx(theirs)
    assert ours.spacing_mm is not None or ours.warnings
    if ours.region is not None:
        x0, y0, x1, y1 = ours.region
        assert 0 <= x0 < x1 <= 30
        assert 0 <= y0 < y1 <= 24


@pytest.mark.parametrize(
    ("attributes", "times", "source"),
    [
        ({"FrameTime": "40"}, [0, 0.04, 0.08, 0.12], "FrameTime"),
        ({"FrameTimeVector": [0, 30, 50, 40]}, [0, 0.03, 0.08, 0.12], "FrameTimeVector"),
        ({"FrameTimeVector": [25, 30, 50, 40]}, [0, 0.03, 0.08, 0.12], "FrameTimeVector"),
        (
            {"FrameTime": "10", "FrameTimeVector": [0, 30, 50, 40], "FrameIncrementPointer": 0x00181065},
            [0, 0.03, 0.08, 0.12],
            "FrameTimeVector",
        ),
        (
            {"FrameTime": "10", "FrameTimeVector": [0, 30, 50, 40], "FrameIncrementPointer": 0x00181063},
            [0, 0.01, 0.02, 0.03],
            "FrameTime",
        ),
        ({"FrameTimeVector": [0, 30], "CineRate": 20}, [0, 0.05, 0.1, 0.15], "CineRate"),
        ({"FrameTime": "0", "RecommendedDisplayFrameRate": 25}, [0, 0.04, 0.08, 0.12], "RecommendedDisplayFrameRate"),
        ({"FrameTimeVector": [0, 30, -5, 40]}, None, "none"),
        ({}, None, "none"),
    ],
)
def test_frame_times(scene, tmp_path, attributes, times, source):
    cine = load_dicom(written(tmp_path / "cine.dcm", noise(), **attributes), scene)
    assert cine.times() == ([None] * 4 if times is None else pytest.approx(times))
    assert cine.calibration.time_source == source
    assert any("time between frames is unknown" in text for text in cine.calibration.warnings) == (times is None)
    found, named = frame_times(pydicom.dcmread(tmp_path / "cine.dcm"))
    runtime = pytest.importorskip("sonodistill.frames.dicom")
    theirs, _ = runtime.frame_times(pydicom.dcmread(tmp_path / "cine.dcm"), 4)
    assert named == source
    assert (found is None) == (theirs is None)
    if found is not None:
        assert found == pytest.approx([time / 1000 for time in theirs])


def test_two_frames_of_one_time_are_both_there(scene, tmp_path):
    cine = load_dicom(written(tmp_path / "cine.dcm", noise(), FrameTimeVector=[0, 30, 0, 30]), scene)
    assert cine.count == 4
    assert cine.times() == pytest.approx([0, 0.03, 0.03, 0.06])
    np.testing.assert_array_equal(cine.frame(1).image, noise()[1])
    np.testing.assert_array_equal(cine.frame(2).image, noise()[2])
    assert any("same time" in warning for warning in cine.calibration.warnings)


def test_monochrome_1_is_inverted_and_deep_values_are_windowed(scene, tmp_path, decoder):
    path = written(tmp_path / "one.dcm", noise(), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(load_dicom(path, scene).frame(1).image, 255 - noise()[1])
    values = noise(kind=np.uint16)
    wide = load_dicom(written(tmp_path / "wide.dcm", values), scene).frame(1).image
    np.testing.assert_allclose(wide, values[1] / 65535 * 255, atol=1)
    path = written(tmp_path / "window.dcm", values, WindowCenter="30000", WindowWidth="20000")
    windowed = load_dicom(path, scene).frame(1).image
    expected = np.clip((values[1] - 20000.0) / 20000 * 255, 0, 255)
    np.testing.assert_allclose(windowed, expected, atol=1)


def as_slicer_loads_it(scene: Any, path: Path, spacing: float = 1.0) -> Cine:
    """Frame numbers for times and whatever spacing, as Slicer's image sequence plugin leaves it."""
    ds = pydicom.dcmread(path)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "US")
    sequence.SetIndexName("frame")
    sequence.SetIndexUnit("")
    for index, image in enumerate(ds.pixel_array):
        volume = slicer.vtkMRMLScalarVolumeNode()
        volume.SetAndObserveImageData(image_data(image))
        volume.SetSpacing(spacing, spacing, 1)
        volume.SetIJKToRASDirections(-1, 0, 0, 0, -1, 0, 0, 0, 1)
        volume.SetAttribute("DICOM.instanceUIDs", ds.SOPInstanceUID)
        sequence.SetDataNodeAtValue(volume, str(index))
    return Cine.of_sequence(sequence)


def test_what_slicer_lost_comes_back_from_the_file(scene, tmp_path):
    regions = [region(2, 3, 27, 20), region(2, 21, 27, 23, **SPECTRAL)]
    path = written(tmp_path / "c.dcm", noise(), SequenceOfUltrasoundRegions=regions, FrameTimeVector=[0, 30, 50, 40])
    cine = as_slicer_loads_it(scene, path)
    assert cine.calibration.spacing_mm is None
    assert cine.calibration.frame_time_s is None
    describe_from_dicom(cine, path)
    assert cine.calibration.spacing_mm == pytest.approx((0.3, 0.2))
    assert cine.calibration.time_source == "FrameTimeVector"
    assert cine.times() == pytest.approx([0, 0.03, 0.08, 0.12])
    assert cine.region == (2, 3, 28, 21)
    assert cine.proxy().GetSpacing() == pytest.approx((0.2, 0.3, 1))
    np.testing.assert_allclose(cine.frame(3).ijk_to_ras, np.diag([-0.2, -0.3, 1, 1]), atol=1e-12)
    assert any("region 2 is spectral" in warning for warning in cine.calibration.warnings)
    assert file_of(cine) == path.resolve()


def test_the_file_of_a_cine_is_found_in_slicers_database(scene, tmp_path, monkeypatch):
    path = written(tmp_path / "c.dcm", noise())
    cine = as_slicer_loads_it(scene, path)
    assert file_of(cine) is None
    files = {"1.2.826.0.1.3680043.8.498.7": str(path)}
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=lambda uid: files.get(uid, "")), False)
    assert file_of(cine) == path


def test_a_scale_that_slicer_took_from_a_stale_region_is_withdrawn(scene, tmp_path):
    path = written(tmp_path / "c.dcm", noise(), SequenceOfUltrasoundRegions=[region(0, 0, 90, 90)])
    cine = as_slicer_loads_it(scene, path, 0.51)
    assert cine.calibration.spacing_mm == (0.51, 0.51)
    describe_from_dicom(cine, path)
    assert cine.calibration.spacing_mm is None
    assert any("does not fit" in warning for warning in cine.calibration.warnings)


def test_another_file_is_not_taken_for_its_own(scene, tmp_path):
    cine = as_slicer_loads_it(scene, written(tmp_path / "c.dcm", noise()))
    with pytest.raises(DicomError, match="3 frames"):
        describe_from_dicom(cine, written(tmp_path / "other.dcm", noise(3)))
    with pytest.raises(DicomError, match="another DICOM object"):
        describe_from_dicom(cine, written(tmp_path / "other.dcm", noise(), SOPInstanceUID="1.2.3"))


def test_files_that_are_no_image_say_so_and_leave_nothing(scene, tmp_path, decoder):
    (tmp_path / "text.dcm").write_text("no DICOM file at all" * 20)
    whole = written(tmp_path / "whole.dcm", noise()).read_bytes()
    (tmp_path / "torn.dcm").write_bytes(whole[:-900])
    (tmp_path / "empty.dcm").write_bytes(b"")
    before = scene.GetNumberOfNodes()
    for name, message in [
        ("text.dcm", "no DICOM file"),
        ("empty.dcm", "“empty.dcm”"),
        ("nowhere.dcm", "cannot be opened"),
        ("torn.dcm", "“torn.dcm”"),
    ]:
        with pytest.raises(DicomError, match=message):
            load_dicom(tmp_path / name, scene)
    assert scene.GetNumberOfNodes() == before
