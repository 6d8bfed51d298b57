"""Sizes of structures: by definition, by brute force, and in millimetres only where the file can be trusted."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import cv2
import findings_case
import numpy as np
import pytest
from dicom_factory import region
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom import dcmread
from pydicom.dataset import Dataset

from sonodistill.dicom.findings import Structure
from sonodistill.dicom.write import measure
from sonodistill.dicom.write.measure import outer_border, structures_of


def header(rows: int, columns: int, *regions: Dataset) -> Dataset:
    ds = Dataset()
    ds.Rows, ds.Columns = rows, columns
    if regions:
        ds.SequenceOfUltrasoundRegions = list(regions)
    return ds


def rectangle(ds: Dataset, top: int, left: int, height: int, width: int) -> Structure:
    mask = np.zeros((1, ds.Rows, ds.Columns), bool)
    mask[0, top : top + height, left : left + width] = True
    (found,) = structures_of(mask, 0, ds)
    return found


def of(mask: np.ndarray, **options: Any) -> list[Structure]:
    return structures_of(mask[None], 0, header(*mask.shape), **{"min_pixels": 1, "limit": 1000, **options})


def shoelace(contour: np.ndarray) -> float:
    x, y = contour.astype(np.float64).T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


def without_holes(mask: np.ndarray) -> np.ndarray:
    """The region of the first pixel, with what the outside does not reach, not even across a corner."""
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    part = labels == labels[tuple(np.argwhere(mask)[0])]
    _, outside = cv2.connectedComponents(np.pad(~part, 1, constant_values=True).astype(np.uint8), connectivity=8)
    return (outside != outside[0, 0])[1:-1, 1:-1]


def brute_calipers(mask: np.ndarray, mm: tuple[float, float]) -> tuple[float, float]:
    """Over all pairs of corners of pixels: the farthest apart, and the narrowest strip along a line that supports."""
    pixels = np.argwhere(mask)
    corners = {(r + i, c + j) for r, c in pixels for i in (0, 1) for j in (0, 1)}
    points = np.array(sorted(corners), float) * mm
    widest, narrowest = 0.0, math.inf
    for (y0, x0), (y1, x1) in combinations(points, 2):
        length = math.hypot(y1 - y0, x1 - x0)
        widest = max(widest, length)
        side = ((x1 - x0) * (points[:, 0] - y0) - (y1 - y0) * (points[:, 1] - x0)) / length
        if side.min() > -1e-9 or side.max() < 1e-9:
            narrowest = min(narrowest, float(np.ptp(side)))
    return widest, narrowest


masks = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans()).filter(np.any)


@given(masks)
@settings(max_examples=200, deadline=None)
def test_the_contour_encloses_the_pixels_without_holes(mask):
    border = outer_border(mask)
    assert shoelace(border) == without_holes(mask).sum()
    steps = np.roll(border, -1, axis=0) - border
    assert ((steps == 0).sum(axis=1) == 1).all()  # along the edges of pixels
    assert (np.roll(steps, 1, axis=0) * steps == 0).all()  # every point is a corner
    assert tuple(border[0]) == tuple(np.argwhere(mask)[0][::-1])


@given(masks)
@settings(max_examples=100, deadline=None)
def test_every_pixel_belongs_to_one_structure(mask):
    found = of(mask)
    assert sum(each.pixels for each in found) == mask.sum()
    assert [each.number for each in found] == list(range(1, len(found) + 1))
    assert all(a.pixels >= b.pixels for a, b in zip(found, found[1:], strict=False))


@given(masks.filter(lambda mask: mask.size < 40), st.floats(0.05, 1.5), st.floats(0.05, 1.5))
@settings(max_examples=60, deadline=None)
def test_calipers_are_those_of_brute_force(mask, row_mm, column_mm):
    _, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    part = labels == labels[tuple(np.argwhere(mask)[0])]
    calibrated = region(0, 0, part.shape[1] - 1, part.shape[0] - 1)
    calibrated.PhysicalDeltaX, calibrated.PhysicalDeltaY = column_mm / 10, row_mm / 10
    # A region of one row or column is none.
    part = np.pad(part, ((0, 2), (0, 2)))
    calibrated.RegionLocationMaxX1, calibrated.RegionLocationMaxY1 = part.shape[1] - 1, part.shape[0] - 1
    (found,) = structures_of(part[None], 0, header(*part.shape, calibrated), min_pixels=1)
    assert (found.long_axis_pixels, found.short_axis_pixels) == pytest.approx(brute_calipers(part, (1, 1)))
    assert (found.long_axis_mm, found.short_axis_mm) == pytest.approx(brute_calipers(part, (row_mm, column_mm)))
    assert found.area_mm2 == pytest.approx(part.sum() * row_mm * column_mm)


def test_the_short_axis_agrees_with_opencv():
    mask = np.zeros((200, 300), np.uint8)
    cv2.ellipse(mask, (150, 100), (80, 40), 30, 0, 360, 1, -1)
    (found,) = of(mask > 0)
    _, sides, _ = cv2.minAreaRect(found.contour)
    # The box of least area is rarely the narrowest, but nearly so around an ellipse.
    assert found.short_axis_pixels == pytest.approx(min(sides), rel=0.01)
    assert found.short_axis_pixels <= min(sides) + 1e-3
    assert found.long_axis_pixels == pytest.approx(160, rel=0.02)


@pytest.mark.parametrize(
    ("dx", "dy"), [(0.01, 0.01), (0.0123, 0.0217), (0.03, 0.005), (-0.0123, 0.0217), (0.01, -0.02)]
)
def test_a_rectangle_of_100_by_50_pixels(dx, dy):
    ds = header(480, 640, region(20, 10, 600, 400, PhysicalDeltaX=dx, PhysicalDeltaY=dy))
    found = rectangle(ds, 100, 200, 50, 100)
    dx, dy = abs(dx), abs(dy)
    assert found.pixels == 5000
    assert found.area_mm2 == pytest.approx(5000 * dx * dy * 100, rel=1e-12)
    assert found.long_axis_mm == pytest.approx(math.hypot(100 * dx, 50 * dy) * 10, rel=1e-12)
    assert found.short_axis_mm == pytest.approx(10 * min(100 * dx, 50 * dy), rel=1e-12)
    assert found.long_axis_pixels == pytest.approx(math.hypot(100, 50), rel=1e-12)
    assert found.short_axis_pixels == 50
    assert found.contour.tolist() == [[200, 100], [300, 100], [300, 150], [200, 150]]
    assert found.reason is None


@pytest.mark.parametrize("delta", [math.nan, math.inf, 0.0])
def test_an_impossible_delta_gives_no_millimetres(delta):
    found = rectangle(header(480, 640, region(20, 10, 600, 400, PhysicalDeltaX=delta)), 100, 200, 50, 100)
    assert (found.area_mm2, found.long_axis_mm, found.short_axis_mm) == (None, None, None)
    assert found.reason
    assert found.pixels == 5000


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_palette.dcm"])
def test_a_stale_calibration_gives_no_millimetres(name):
    ds = dcmread(findings_case.public_file(name), stop_before_pixels=True)
    found = rectangle(ds, ds.Rows // 2, ds.Columns // 2, 20, 30)
    assert (found.area_mm2, found.long_axis_mm, found.short_axis_mm) == (None, None, None)
    assert "stale" in found.reason
    assert (found.pixels, found.short_axis_pixels) == (600, 20)


def test_an_exclusive_end_is_accepted_with_a_note():
    ds = dcmread(findings_case.public_file("OBXXXX1A.dcm"), stop_before_pixels=True)
    item = ds.SequenceOfUltrasoundRegions[0]
    found = rectangle(ds, 100, 300, 50, 100)
    assert found.area_mm2 == pytest.approx(5000 * item.PhysicalDeltaX * item.PhysicalDeltaY * 100)
    assert "exclusive end" in found.reason


@pytest.mark.parametrize(("left", "inside"), [(100, True), (290, False), (400, True)])
def test_a_structure_across_two_regions_has_no_millimetres(left, inside):
    ds = dcmread(findings_case.public_file("gdcm-US-ALOKA-16.dcm"), stop_before_pixels=True)
    found = rectangle(ds, 150, left, 50, 100)
    assert (found.area_mm2 is not None) == inside
    if not inside:
        assert "no calibrated 2D region contains the whole box" in found.reason


def test_a_structure_may_touch_the_border_of_its_region_but_not_cross_it():
    ds = header(100, 200, region(10, 20, 109, 69))
    assert rectangle(ds, 20, 10, 50, 100).area_mm2 is not None
    assert rectangle(ds, 20, 10, 50, 101).area_mm2 is None
    assert rectangle(ds, 19, 10, 50, 100).area_mm2 is None


@pytest.mark.parametrize("spatial", [2, 3, 4, 5])
def test_only_2d_regions_measure(spatial):
    found = rectangle(header(100, 200, region(0, 0, 199, 99, RegionSpatialFormat=spatial)), 20, 10, 50, 100)
    assert found.area_mm2 is None
    assert "no calibrated 2D region" in found.reason


def test_corners_alone_do_not_connect():
    mask = np.zeros((20, 20), bool)
    mask[2:6, 2:6] = mask[6:9, 6:9] = True
    assert [each.pixels for each in of(mask)] == [16, 9]


def test_a_hole_is_no_part_of_the_area_but_of_the_outline():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 3:15] = True
    mask[5:8, 6:9] = False
    (found,) = of(mask)
    assert found.pixels == 120 - 9
    assert shoelace(found.contour) == 120
    assert found.short_axis_pixels == 10


def test_segments_are_measured_apart():
    mask = np.zeros((3, 30, 30), bool)
    mask[0, 2:8, 2:8] = mask[2, 10:20, 10:20] = mask[2, 25:29, 0:4] = True
    found = structures_of(mask, 7, header(30, 30))
    assert [(each.frame, each.segment, each.number, each.pixels) for each in found] == [
        (7, 1, 1, 36),
        (7, 3, 1, 100),
        (7, 3, 2, 16),
    ]


def test_specks_and_what_is_beyond_the_limit_are_left_out():
    mask = np.zeros((40, 40), bool)
    mask[0:3, 0:5] = mask[5:9, 5:9] = mask[12:20, 0:4] = mask[25:35, 25:35] = True
    assert [each.pixels for each in of(mask, min_pixels=measure.MIN_PIXELS)] == [100, 32, 16]
    assert [each.pixels for each in of(mask, limit=2)] == [100, 32]


def test_an_empty_mask_has_no_structure():
    assert of(np.zeros((37, 53), bool)) == []


def test_a_mask_of_one_pixel():
    mask = np.zeros((1, 1), bool)
    mask[0, 0] = True
    (found,) = of(mask)
    assert (found.pixels, found.short_axis_pixels) == (1, 1)
    assert found.long_axis_pixels == pytest.approx(math.sqrt(2))


def test_a_contour_too_long_for_dicom_is_simplified_and_says_so():
    mask = np.zeros((300, 300), bool)
    mask[0] = mask[:, ::4] = mask[::2, 1::4] = True  # a comb with ragged teeth
    (found,) = of(mask)
    assert len(outer_border(mask)) > measure.MAX_POINTS >= len(found.contour)
    assert f"simplified to {len(found.contour)}" in found.reason
    # Area and calipers are those of the whole outline.
    assert found.pixels == mask.sum()
    assert (found.long_axis_pixels, found.short_axis_pixels) == pytest.approx((math.hypot(300, 300), 300), rel=0.01)


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match="for an image of"):
        structures_of(np.zeros((1, 30, 40), bool), 0, header(40, 30))
