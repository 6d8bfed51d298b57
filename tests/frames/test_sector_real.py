"""The insonified region of real frames and of frames that the acoustic simulator makes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from sector_case import iou

from sonodistill.frames.read import read
from sonodistill.frames.sector import find_sector
from sonodistill_training.corpus.acoustics import scan_convert
from sonodistill_training.corpus.scene import random_scene
from sonodistill_training.corpus.simulator import simulate_frame


@pytest.mark.parametrize("probe", ["linear", "convex"])
def test_the_scanned_region_of_simulated_frames_is_found(probe):
    scores, size = [], (300, 400)
    for seed in range(12):
        image = simulate_frame(seed, size=size, probe=probe).image
        scanner = random_scene(np.random.default_rng(seed), size, probe).probe
        _, truth = scan_convert(scanner, np.zeros((2, 2), np.float32), size)
        sector = find_sector(image)
        assert sector.kind == probe
        scores.append(iou(sector.mask(size), truth))
    assert np.median(scores) >= 0.97
    assert min(scores) >= 0.9


def _cine(path):
    """Brightest, mean and change over time, and the regions, of a real cine."""
    frames = list(read(path))
    stack = np.stack([frame.image for frame in frames])
    change = np.abs(np.diff(stack.astype(np.int16), axis=0)).mean(axis=0, dtype=np.float32)
    regions = frames[0].provenance.details.get("regions")
    return stack.max(axis=0), stack.mean(axis=0, dtype=np.float32), change, regions


def test_the_fan_of_an_echocardiogram_is_found_without_its_screen(pydicom_file):
    brightest, mean, change, _ = _cine(pydicom_file("examples_ybr_color.dcm"))
    sector = find_sector(brightest, mean=mean, change=change)
    mask = sector.mask(brightest.shape)
    assert sector.kind == "phased"
    assert not mask[:17].any()  # texts above the fan
    assert not mask[224:].any()  # the row of buttons
    assert not mask[:, 301:].any()  # scale and texts at the right
    assert mask[60:170, 150:170].all()  # the heart
    assert change[mask].sum() >= 0.93 * change[17:224, :301].sum()


def test_one_of_two_images_side_by_side_is_taken_and_its_region_named(pydicom_file):
    frame = next(iter(read(pydicom_file("gdcm-US-ALOKA-16.dcm"))))
    regions = frame.provenance.details["regions"]
    sector = find_sector(frame.image, regions=regions)
    top, left, bottom, right = sector.box
    assert sector.source == "SequenceOfUltrasoundRegions"
    assert any(
        box[0] <= top and box[1] <= left and bottom <= box[2] and right <= box[3]
        for box in (region["box"] for region in regions if region["format"] == 1)
    )
    assert (bottom - top) * (right - left) > 0.7 * 304 * 392


def test_texts_around_a_linear_image_stay_outside(pydicom_file):
    frame = next(iter(read(pydicom_file("examples_rgb_color.dcm"))))
    sector = find_sector(frame.image)
    assert sector.kind == "linear"
    mask = sector.mask(frame.image.shape)
    assert not mask[:8].any()
    assert not mask[180:].any()
    assert mask[80:160, 30:290].all()


def _stills(shared, name, count=6):
    files = sorted((shared / "data" / "frames" / name / "images").glob("*"))
    return [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files[:: len(files) // count][:count]]


def test_breast_frames_cropped_to_their_tissue_come_out_whole(shared):
    shares = [find_sector(image).mask(image.shape).mean() for image in _stills(shared, "busi", 40)]
    # A few are trapezoids with black corners.
    assert np.mean(np.array(shares) == 1) >= 0.9
    assert min(shares) >= 0.8


@pytest.mark.parametrize("name", ["aul", "hc18", "pocus_lung"])
def test_real_stills_keep_what_is_bright(shared, name):
    for image in _stills(shared, name, 8):
        sector = find_sector(image)
        assert sector.agreement >= 0.7
        # The brightest tissue, without the thin strokes of texts, rulers and bars.
        solid = cv2.morphologyEx(image, cv2.MORPH_OPEN, np.ones((13, 13), np.uint8))
        inside = sector.mask(image.shape)[(solid > 60) & (solid < 250)]
        assert inside.size == 0 or inside.mean() >= 0.9


def test_the_fans_of_liver_frames_are_convex(shared):
    kinds = [find_sector(image).kind for image in _stills(shared, "aul", 20)]
    assert kinds.count("convex") >= 18


def test_a_curvilinear_volume_slice_is_found_to_the_edge(shared):
    image = next(iter(read(shared / "data" / "raw" / "volumes" / "BkCurvilinearScanConvertedData.igs.mha"))).image
    sector = find_sector(image)
    assert sector.kind == "convex"
    assert iou(sector.mask(image.shape), _outer(image)) >= 0.98


def _outer(image):
    """What is not connected background: the truth for a frame without furniture on pure black."""
    closed = cv2.morphologyEx((image > 0).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    around = cv2.copyMakeBorder(closed, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(around, None, (0, 0), 2)
    return around[1:-1, 1:-1] != 2
