"""Millimetres per pixel are read from sound ultrasound regions and refused, with the reason, from any other."""

from __future__ import annotations

import numpy as np
import pytest

from sonodistill.frames import read
from sonodistill.frames.calibration import calibration_at, calibration_of

IMAGE = np.zeros((1, 100, 200), np.uint8)


@pytest.mark.parametrize(
    ("name", "mm"),
    [
        ("JPGLosslessP14SV1_1s_1f_8b.dcm", 0.25476696592378157),
        ("color3d_jpeg_baseline.dcm", 0.5104970559477806),
        ("gdcm-US-ALOKA-16.dcm", 0.382653065025806),
    ],
)
def test_sound_files_give_their_own_scale(pydicom_file, name, mm):
    if name.startswith("JPGLossless"):
        pytest.importorskip("libjpeg")
    calibration = next(read(pydicom_file(name))).calibration
    assert calibration.mm_per_pixel == pytest.approx((mm, mm))
    assert calibration.source == "SequenceOfUltrasoundRegions"
    assert calibration.note is None


def test_end_at_the_number_of_columns_is_tolerated_with_a_note(pydicom_file):
    calibration = next(read(pydicom_file("OBXXXX1A.dcm"))).calibration
    assert calibration.mm_per_pixel == pytest.approx((0.2622878767, 0.2622878767))
    assert "one past the last pixel" in calibration.note


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_palette.dcm"])
def test_resized_and_cropped_examples_are_refused_as_stale(pydicom_file, name):
    calibration = next(read(pydicom_file(name))).calibration
    assert calibration.mm_per_pixel is None
    assert "stale" in calibration.note


def test_rows_and_columns_have_their_own_spacing_and_deltas_may_be_negative(factory):
    item = factory.region(0, 0, 199, 99, PhysicalDeltaX=-0.02, PhysicalDeltaY=0.03)
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[item])
    assert calibration_of(ds).mm_per_pixel == pytest.approx((0.3, 0.2))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"RegionSpatialFormat": 2}, "M-mode"),
        ({"RegionSpatialFormat": 3}, "spectral"),
        ({"RegionDataType": 3}, "neither tissue nor colour flow"),
        ({"PhysicalUnitsXDirection": 4}, "not in centimetres"),
        ({"PhysicalDeltaX": float("nan")}, "impossible pixel size"),
        ({"PhysicalDeltaY": 0.0}, "impossible pixel size"),
        ({"PhysicalDeltaY": 0.21}, "impossible pixel size"),
        ({"PhysicalDeltaX": 0.0004}, "impossible pixel size"),
        ({"RegionLocationMaxX1": 201}, "columns 0 to 201"),
        ({"RegionLocationMaxY1": 101}, "rows 0 to 101"),
        ({"RegionLocationMinX0": 199}, "stale"),
    ],
)
def test_what_cannot_be_a_scale_is_refused_with_the_reason(factory, changes, reason):
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99, **changes)])
    calibration = calibration_of(ds)
    assert calibration.mm_per_pixel is None and calibration.source is None
    assert reason in calibration.note


@pytest.mark.parametrize(
    "keyword", ["RegionSpatialFormat", "RegionDataType", "PhysicalUnitsXDirection", "PhysicalDeltaX"]
)
def test_several_values_in_place_of_one_are_refused(factory, keyword):
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99, **{keyword: [1, 2]})])
    for calibration in (calibration_of(ds), calibration_at(ds, 10, 10, 20, 20)):
        assert calibration.mm_per_pixel is None and calibration.note


def test_missing_delta_is_refused(factory):
    item = factory.region(0, 0, 199, 99)
    del item.PhysicalDeltaX
    assert "PhysicalDeltaX" in calibration_of(factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[item])).note


def test_pixel_spacing_is_not_used_and_the_note_says_so(factory):
    calibration = calibration_of(factory.ultrasound(IMAGE, PixelSpacing=[0.1, 0.1]))
    assert calibration.mm_per_pixel is None
    assert "Pixel Spacing is not used" in calibration.note


def test_regions_that_agree_give_one_scale_and_others_none(factory):
    left, right = factory.region(0, 0, 99, 99, 0.05), factory.region(100, 0, 199, 99, 0.05004)
    agreeing = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[left, right])
    assert calibration_of(agreeing).mm_per_pixel == pytest.approx((0.5, 0.5))
    right.PhysicalDeltaX = 0.06
    note = calibration_of(agreeing).note
    assert "region 1: 0.5 x 0.5" in note and "region 2: 0.5004 x 0.6" in note


def test_a_box_takes_the_region_that_holds_all_of_it(factory):
    regions = [factory.region(0, 0, 99, 99, 0.05), factory.region(100, 0, 199, 99, 0.08)]
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=regions)
    assert calibration_at(ds, 10, 10, 50, 100).mm_per_pixel == pytest.approx((0.5, 0.5))
    assert calibration_at(ds, 0, 100, 100, 200).mm_per_pixel == pytest.approx((0.8, 0.8))
    straddling = calibration_at(ds, 10, 90, 50, 120)
    assert straddling.mm_per_pixel is None and "contains the whole box" in straddling.note


def test_one_stale_region_makes_the_others_doubtful(factory):
    regions = [factory.region(0, 0, 99, 99), factory.region(100, 0, 400, 99)]
    assert calibration_of(factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=regions)).mm_per_pixel is None


def test_doppler_only_file_is_read_without_scale(factory, tmp_path):
    item = factory.region(0, 0, 199, 99, RegionSpatialFormat=3, RegionDataType=3)
    path = factory.save(factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[item]), tmp_path / "doppler.dcm")
    frame = next(read(path))
    assert frame.mm_per_pixel is None and "spectral" in frame.calibration.note


@pytest.mark.parametrize(("kind", "name"), [(2, "M-mode"), (3, "spectral"), (4, "waveform")])
def test_a_box_that_meets_a_strip_drawn_over_the_image_has_no_scale(factory, kind, name):
    strip = factory.region(0, 80, 199, 99, RegionSpatialFormat=kind, RegionDataType=10)
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99), strip])
    assert calibration_of(ds).mm_per_pixel == pytest.approx((0.5, 0.5))
    assert calibration_at(ds, 10, 10, 80, 100).mm_per_pixel == pytest.approx((0.5, 0.5))
    met = calibration_at(ds, 10, 10, 81, 100)
    assert met.mm_per_pixel is None and f"region 2, which is {name}" in met.note


def test_a_gray_bar_in_the_image_leaves_its_scale(factory):
    bar = factory.region(32, 40, 63, 99, RegionSpatialFormat=0, RegionDataType=13)
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99), bar])
    assert calibration_at(ds, 10, 10, 81, 100).mm_per_pixel == pytest.approx((0.5, 0.5))


def test_a_box_that_meets_an_inset_of_another_scale_has_none(factory):
    inset = factory.region(0, 0, 49, 39, 0.0125)
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99), inset])
    assert calibration_at(ds, 40, 10, 80, 100).mm_per_pixel == pytest.approx((0.5, 0.5))
    for box in [(10, 10, 30, 40), (39, 10, 80, 100), (0, 49, 30, 60)]:
        assert "disagree" in calibration_at(ds, *box).note


def test_a_box_that_meets_an_inset_without_a_scale_has_none(factory):
    inset = factory.region(0, 0, 49, 39, PhysicalUnitsXDirection=0, PhysicalUnitsYDirection=0)
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99), inset])
    assert calibration_at(ds, 40, 10, 80, 100).mm_per_pixel == pytest.approx((0.5, 0.5))
    assert "region 2, which is an image without a scale" in calibration_at(ds, 39, 10, 80, 100).note


def test_a_colour_box_in_the_image_leaves_its_scale(factory):
    colour = factory.region(50, 20, 99, 79, RegionDataType=2)
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99), colour])
    assert calibration_at(ds, 10, 10, 50, 80).mm_per_pixel == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize("kind", [0, 3, 5])
def test_a_stale_region_of_any_kind_makes_the_others_doubtful(factory, kind):
    other = factory.region(0, 0, 199, 150, RegionSpatialFormat=kind, RegionDataType=3)
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[factory.region(0, 0, 199, 99), other])
    for calibration in (calibration_of(ds), calibration_at(ds, 10, 10, 20, 20)):
        assert calibration.mm_per_pixel is None and "region 2 is stale" in calibration.note


def test_two_planes_of_one_scale_have_it_but_a_box_across_both_has_none(factory):
    planes = [factory.region(0, 0, 99, 99), factory.region(100, 0, 199, 99)]
    ds = factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=planes)
    assert calibration_of(ds).mm_per_pixel == pytest.approx((0.5, 0.5))
    assert "contains the whole box" in calibration_at(ds, 10, 90, 50, 120).note


@pytest.mark.parametrize("bound", ["RegionLocationMinX0", "RegionLocationMaxY1"])
def test_a_calibrated_region_without_its_bounds_is_refused(factory, bound):
    item = factory.region(0, 0, 199, 99)
    delattr(item, bound)
    assert "valid bounds" in calibration_of(factory.ultrasound(IMAGE, SequenceOfUltrasoundRegions=[item])).note
