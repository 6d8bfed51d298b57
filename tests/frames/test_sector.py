"""The insonified region of generated screens whose geometry is known: found, and refused where there is none."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sector_case import KINDS, iou, sector_case

from sonodistill.frames.sector import NoSectorError, Sector, find_sector, image_boxes

EXPECTED_KIND = {"linear": "linear", "steered": "linear", "trapezoid": "linear", "convex": "convex", "phased": "phased"}


@pytest.fixture(scope="module")
def found():
    """(case, sector) of 120 screens with text, rulers, gray bars, an electrocardiogram, logos, calipers, borders."""
    cases = [sector_case(seed) for seed in range(120)]
    return [(case, find_sector(case.image)) for case in cases]


def test_regions_agree_with_the_known_geometry(found):
    scores = np.array([iou(sector.mask(case.image.shape), case.truth) for case, sector in found])
    assert np.median(scores) >= 0.97
    assert np.percentile(scores, 5) >= 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_is_that_of_the_probe(found, kind):
    kinds = [sector.kind for case, sector in found if case.kind == kind]
    assert kinds.count(EXPECTED_KIND[kind]) >= 0.9 * len(kinds)


def test_furniture_moves_the_outline_little():
    for seed in range(200, 215):
        bare, furnished = sector_case(seed, furniture=False), sector_case(seed)
        with_and_without = [find_sector(case.image).mask(case.image.shape) for case in (bare, furnished)]
        assert iou(*with_and_without) >= 0.9


@pytest.mark.parametrize("kind", ["convex", "phased"])
def test_text_in_the_corners_of_the_box_stays_outside(kind):
    case = sector_case(7, kind=kind, furniture=False)
    rows, columns = np.nonzero(case.truth)
    image = case.image.copy()
    text = np.zeros_like(image)
    at = (int(columns.min()), int(rows.min() + 0.12 * np.ptp(rows)))
    cv2.putText(text, "MI 1.2", at, cv2.FONT_HERSHEY_SIMPLEX, image.shape[0] / 1100, 255, 1)
    letters = (text > 0) & ~cv2.dilate(case.truth.astype(np.uint8), np.ones((9, 9))).astype(bool)
    image[letters] = 255
    assert letters.sum() > 30
    assert not (find_sector(image).mask(image.shape) & letters).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_region_is_found_at_any_size(kind):
    case = sector_case(3, kind=kind)
    large = cv2.resize(case.image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    small, twice = find_sector(case.image), find_sector(large)
    grown = cv2.resize(small.mask(case.image.shape).astype(np.uint8), large.shape[::-1], interpolation=cv2.INTER_AREA)
    assert iou(twice.mask(large.shape), grown > 0) >= 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirrored_frame_has_a_mirrored_region(kind):
    case = sector_case(4, kind=kind)
    mask = find_sector(case.image).mask(case.image.shape)
    mirrored = find_sector(np.ascontiguousarray(case.image[:, ::-1])).mask(case.image.shape)
    assert iou(mask, mirrored[:, ::-1]) >= 0.96


@pytest.mark.parametrize("size", [(224, 224), (300, 520), (768, 1024)])
def test_a_frame_cropped_to_its_tissue_comes_out_whole(size):
    random = np.random.default_rng(0)
    speckle = cv2.GaussianBlur(random.rayleigh(60, size), (0, 0), 1.5)
    shadow = np.ones(size)
    shadow[size[0] // 2 :, size[1] // 3 : size[1] // 2] = 0
    sector = find_sector(np.clip(speckle * shadow, 0, 255).astype(np.uint8))
    assert (sector.kind, sector.box) == ("linear", (0, 0, *size))
    assert sector.mask(size).all()


@pytest.mark.parametrize("share", [0.15, 0.3])
@pytest.mark.parametrize("kind", ["convex", "phased"])
def test_a_fan_whose_side_the_frame_cuts_is_found(kind, share):
    scores = []
    for seed in (13, 14, 18):
        case = sector_case(seed, kind=kind, furniture=False)
        columns = np.flatnonzero(case.truth.any(axis=0))
        cut = int(columns[0] + share * np.ptp(columns))
        image, truth = np.ascontiguousarray(case.image[:, cut:]), case.truth[:, cut:]
        scores.append(iou(find_sector(image).mask(image.shape), truth))
    assert min(scores) >= 0.93


def test_what_stands_still_in_a_cine_is_furniture():
    case = sector_case(0, kind="linear", furniture=False)
    top, left, bottom, right = find_sector(case.image).box
    random = np.random.default_rng(1)
    panel = np.zeros(case.truth.shape, bool)
    panel[top : (top + bottom) // 2, right : right + (right - left) // 3] = True
    frames = []
    texture = random.integers(60, 200, panel.shape)
    for _ in range(8):
        moving = cv2.GaussianBlur(random.rayleigh(70, panel.shape), (0, 0), 1.2)
        frames.append(np.clip(np.where(case.truth, moving, np.where(panel, texture, 0)), 0, 255).astype(np.uint8))
    change = np.mean([cv2.absdiff(a, b) for a, b in zip(frames, frames[1:], strict=False)], axis=0, dtype=np.float32)
    mean = np.mean(frames, axis=0, dtype=np.float32)
    sector = find_sector(np.max(frames, axis=0), mean=mean, change=change)
    assert iou(sector.mask(panel.shape), case.truth) >= 0.95


def test_a_region_of_the_file_limits_the_search():
    left, right = (sector_case(seed, kind="convex", furniture=False) for seed in (10, 10))
    image = np.hstack((left.image, right.image[:, ::-1]))
    height, width = left.image.shape
    box = [0, width, height, 2 * width]
    sector = find_sector(image, regions=[{"box": box, "format": 1, "data_type": 1}])
    assert sector.source == "SequenceOfUltrasoundRegions"
    assert sector.box[1] >= width
    assert iou(sector.mask(image.shape)[:, width:], right.truth[:, ::-1]) >= 0.95
    assert find_sector(left.image).source == "image"


def test_image_boxes_are_the_2d_ones_by_size_without_those_inside_others():
    def region(box, spatial=1, data=1):
        return {"box": box, "format": spatial, "data_type": data}

    regions = [
        region([0, 0, 100, 90]),
        region([0, 100, 100, 200]),
        region([20, 120, 60, 180], data=2),
        region([110, 0, 200, 200], spatial=3, data=3),
    ]
    assert image_boxes(regions, (200, 200)) == [(0, 100, 100, 200), (0, 0, 100, 90)]
    assert image_boxes(None, (200, 200)) == []


@pytest.mark.parametrize(
    "frame",
    [
        np.zeros((480, 640), np.uint8),
        np.full((480, 640), 128, np.uint8),
        np.full((480, 640), 255, np.uint8),
        np.tile(np.linspace(0, 255, 640).astype(np.uint8), (480, 1)),
        np.zeros((10, 10), np.uint8),
    ],
    ids=["black", "gray", "white", "ramp", "tiny"],
)
def test_a_frame_without_echoes_is_refused(frame):
    with pytest.raises(NoSectorError):
        find_sector(frame)


@pytest.mark.parametrize("seed", range(12))
def test_pages_of_text_and_waveforms_are_refused(seed):
    random = np.random.default_rng(seed)
    page = np.zeros((480, 640), np.uint8)
    for line in range(int(random.integers(2, 23))):
        words = "".join(random.choice(list("ABCDEHKMNRST0123456789   .:"), int(random.integers(10, 50))))
        size = float(random.uniform(0.4, 0.7))
        cv2.putText(page, words, (10, 20 + 20 * line), cv2.FONT_HERSHEY_SIMPLEX, size, 255, int(random.integers(1, 3)))
    if seed % 2:
        x = np.arange(640)
        wave = np.stack((x, 240 + 60 * np.sin(x / 15) + random.normal(0, 4, 640)), axis=1)
        cv2.polylines(page, [wave.astype(np.int32)], False, 220, 2)
    with pytest.raises(NoSectorError):
        find_sector(page)


def test_the_box_holds_the_mask_tightly():
    for seed in range(10):
        case = sector_case(seed)
        sector = find_sector(case.image)
        top, left, bottom, right = sector.box
        mask = sector.mask(case.image.shape)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert top <= rows[0] <= top + 1
        assert bottom - 2 <= rows[-1] < bottom
        assert left <= columns[0] <= left + 1
        assert right - 2 <= columns[-1] < right


def test_a_rectangle_holds_the_pixels_between_its_corners():
    sector = Sector("linear", ((2.0, 1.0), (6.0, 1.0), (6.0, 4.0), (2.0, 4.0)), "image", 1.0)
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(sector.mask((6, 8)), expected)
    assert sector.box == (1, 2, 4, 6)
