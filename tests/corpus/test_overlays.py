"""Overlays are found where they were drawn and in real frames, echoes stay, and removal touches nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pydicom.examples
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonodistill.frames import read
from sonodistill_training.corpus.overlays import find_overlay, remove, shrink_mask, still_overlay
from sonodistill_training.corpus.simulator import simulate_cine, simulate_frame

_SPEC = importlib.util.spec_from_file_location("overlay_case", Path(__file__).with_name("overlay_case.py"))
case = importlib.util.module_from_spec(_SPEC)
sys.modules["overlay_case"] = case
_SPEC.loader.exec_module(case)

COLUMN, COLUMNS = (2, 528, 100, 560), (2, 528, 210, 560)  # settings of the scanner beside one image, or two

# Text and calipers that a reader sees in raw DDTI frames: (top, left, bottom, right) in pixels.
DDTI_TEXT = {
    "15": [COLUMN, (16, 436, 32, 454), (328, 100, 350, 145)],
    "320_1": [COLUMN, (16, 436, 32, 454), (325, 105, 347, 148)],
    "399_1": [COLUMN, (16, 436, 32, 454), (325, 89, 347, 135)],
    "198": [COLUMNS, (15, 490, 31, 507), (320, 70, 342, 103)],
    "295_1": [COLUMN, (16, 436, 32, 454), (329, 101, 351, 143)],
    "354_1": [COLUMN, (16, 436, 32, 454), (325, 92, 349, 133), (325, 166, 350, 300)],
    "293_1": [COLUMN, (330, 98, 354, 132), (333, 172, 356, 364)],
    "31": [COLUMN, (16, 436, 32, 454), (322, 101, 344, 134)],
    "297_1": [COLUMN, (16, 436, 32, 454), (326, 90, 348, 123)],
    "18": [COLUMN, (16, 436, 32, 454), (326, 123, 348, 166)],
    "129": [COLUMNS, (15, 244, 31, 260), (318, 57, 340, 249)],
    "251_1": [COLUMNS, (15, 490, 31, 507), (333, 65, 354, 107)],
    "113": [COLUMN, (15, 436, 32, 454)],
    "244": [COLUMNS, (15, 244, 31, 260), (326, 77, 348, 110)],
    "136": [COLUMNS, (15, 490, 31, 507), (322, 48, 344, 90)],
    "118": [COLUMNS, (15, 490, 31, 507), (330, 86, 352, 118)],
    "124": [
        *((180, 220, 200, 251), (146, 350, 166, 384), (168, 408, 189, 442)),
        *((104, 427, 123, 446), (138, 475, 156, 494), (140, 110, 155, 129)),
    ],
    "92": [
        *((132, 126, 153, 156), (140, 208, 157, 225), (217, 154, 242, 182)),
        *((215, 232, 233, 250), (150, 385, 174, 414), (178, 520, 197, 539)),
    ],
}


def picture(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(gray, rgb) of an image file."""
    rgb = np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), rgb


def background(frames: list[np.ndarray]) -> SimpleNamespace:
    """What a survey of a cine says."""
    stack = np.stack(frames)
    change = np.abs(np.diff(stack.astype(np.int16), axis=0)).mean(axis=0).astype(np.float32)
    return SimpleNamespace(count=len(stack), brightest=stack.max(0), darkest=stack.min(0), change=change)


def simulated(seed: int) -> np.ndarray:
    return simulate_frame(seed, size=(320, 400)).image


# what is drawn


@pytest.mark.parametrize(
    ("colour", "least"), [("white", 0.95), ("gray", 0.8), ("yellow", 0.95), ("green", 0.95), ("cyan", 0.95)]
)
def test_writing_stamped_on_simulated_frames_is_found(colour, least):
    found = []
    for seed in range(6):
        clean = simulated(seed)
        stamped = case.stamp(clean, seed, colour, quality=(75, 85, 95)[seed % 3])
        sector = case.insonified(clean)
        mask = find_overlay(stamped.gray, stamped.rgb, sector=sector)
        found.append(case.judge(mask, stamped, sector))
    assert np.mean([one.recall for one in found]) > least
    assert np.mean([one.tissue for one in found]) < 0.005


def test_writing_stamped_on_a_real_cine_frame_is_found():
    clean = next(iter(read(pydicom.examples.get_path("ybr_color")))).image
    clean = cv2.resize(clean, (640, 480), interpolation=cv2.INTER_CUBIC)
    sector = case.insonified(clean)
    found = []
    for seed in range(8):
        stamped = case.stamp(clean, seed)
        found.append(case.judge(find_overlay(stamped.gray, sector=sector), stamped, sector))
    assert np.mean([one.recall for one in found]) > 0.95
    assert max(one.tissue for one in found) < 0.005


@pytest.mark.parametrize(("colour", "least"), [("white", 0.95), ("gray", 0.8), ("yellow", 0.95), ("green", 0.95)])
def test_writing_stamped_on_real_stills_is_found(shared, colour, least):
    recall = []
    for number, path in enumerate(real_stills(shared)):
        clean = picture(path)[0]
        sector = case.insonified(clean)
        stamped = case.stamp(clean, number, colour, quality=(75, 85, 95)[number % 3])
        mask = find_overlay(stamped.gray, stamped.rgb, sector=sector)
        recall.append(case.judge(mask, stamped, sector).recall)
    assert np.mean(recall) > least


def real_stills(shared: Path) -> list[Path]:
    frames = shared / "data" / "frames"
    folders = ("hc18", "pocus_lung", "muscle_timtrack", "aul")
    return [path for folder in folders for path in sorted((frames / folder / "images").glob("*.jpg"))[::80]]


def test_text_and_calipers_of_real_thyroid_frames_are_taken_out(shared):
    left, drawn = 0, 0
    for name, boxes in DDTI_TEXT.items():
        gray, rgb = picture(shared / "data" / "raw" / "ddti" / f"{name}.jpg")
        cleaned = remove(gray, find_overlay(gray, rgb))
        strokes = (gray >= 180) | (np.ptp(rgb.astype(int), axis=2) >= 60)
        inside = np.zeros_like(strokes)
        for top, start, bottom, end in boxes:
            inside[top:bottom, start:end] = True
        drawn += np.count_nonzero(strokes & inside)
        left += np.count_nonzero((cleaned == gray) & strokes & inside)
    assert drawn > 10_000
    assert left < 0.005 * drawn


def test_what_stands_still_in_a_moving_cine_is_found_at_a_level_that_a_single_frame_hides():
    frames = [frame.image.copy() for frame in simulate_cine(3, frames=8, size=(240, 320))]
    moving = background(frames)
    text = cv2.putText(np.zeros(frames[0].shape, np.uint8), "2.31 cm", (90, 130), cv2.FONT_HERSHEY_PLAIN, 1.4, 1) > 0
    level = int(np.percentile(moving.brightest, 90))
    frames = [np.where(text, np.uint8(level), frame) for frame in frames]
    alone = find_overlay(frames[0])
    together = find_overlay(frames[0], background=background(frames))
    assert together[text].mean() > 0.9
    assert together[text].sum() > alone[text].sum()


def test_a_cine_in_which_nothing_moves_says_nothing():
    frame = simulated(1)
    frame[100:104, 50:120] = 255
    assert not still_overlay(background([frame] * 10)).any()


# what is not


def test_simulated_tissue_is_left_alone():
    flagged = []
    for seed in range(12):
        gray = simulated(seed)
        sector = case.insonified(gray)
        flagged.append(find_overlay(gray, sector=sector)[sector].mean())
    assert np.mean(flagged) < 0.001


@pytest.mark.parametrize("folder", ["hc18", "pocus_lung", "muscle_timtrack", "aul"])
def test_real_tissue_is_left_alone(shared, folder):
    flagged = []
    for path in (path for path in real_stills(shared) if path.parent.parent.name == folder):
        gray, _ = picture(path)
        sector = case.insonified(gray)
        flagged.append(find_overlay(gray, sector=sector)[sector].mean())
    assert np.mean(flagged) < 0.005


def test_real_cine_frames_are_left_alone():
    for frame in read(pydicom.examples.get_path("ybr_color")):
        if frame.index % 10 == 0:
            sector = case.insonified(frame.image)
            assert find_overlay(frame.image, frame.rgb(), sector=sector)[sector].mean() < 0.005


def test_a_tinted_frame_is_no_overlay():
    gray = simulated(2)
    sepia = np.stack([gray, (gray * 0.8).astype(np.uint8), (gray * 0.5).astype(np.uint8)], axis=2)
    assert np.array_equal(find_overlay(gray, sepia), find_overlay(gray))


def test_the_step_at_the_edge_of_the_sector_is_no_writing():
    gray = np.zeros((200, 200), np.uint8)
    skin = 250 - 6 * np.arange(30)  # bright where the sector begins, and fading with depth as echoes do
    gray[60:90, 20:180] = skin[:, None]
    sector = np.zeros(gray.shape, bool)
    sector[60:90, 20:180] = True
    assert find_overlay(gray).any()
    assert not find_overlay(gray, sector=sector).any()


# removal

MASKS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((37, 53)) < (seed % 100) / 100)


@pytest.mark.parametrize("how", ["inpaint", "mask"])
@given(mask=MASKS)
@settings(max_examples=30, deadline=None)
def test_outside_of_the_mask_not_one_pixel_changes(how, mask):
    gray = np.random.default_rng(0).integers(0, 256, mask.shape, dtype=np.uint8)
    kept = gray.copy()
    result = remove(gray, mask, how)
    assert np.array_equal(gray, kept)
    assert np.array_equal(result[~mask], gray[~mask])
    assert how == "inpaint" or not result[mask].any()


def test_inpainted_strokes_look_like_the_tissue_they_covered():
    clean = simulated(4)
    stamped = case.stamp(clean, 4)
    mask = cv2.dilate(stamped.drawn.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    filled = remove(stamped.gray, mask)
    assert filled[mask].mean() == pytest.approx(clean[mask].mean(), abs=8)
    assert filled[mask].std() == pytest.approx(clean[mask].std(), rel=0.3)


def test_a_hole_wider_than_every_window_gets_a_level_too():
    gray = np.full((600, 600), 90, np.uint8)
    mask = np.ones(gray.shape, bool)
    mask[:3] = False
    assert (remove(gray, mask) == 90).all()


def test_an_unknown_way_of_removal_is_named():
    with pytest.raises(ValueError, match="blur"):
        remove(np.zeros((4, 4), np.uint8), np.zeros((4, 4), bool), "blur")


@given(mask=MASKS, height=st.integers(1, 37), width=st.integers(1, 53))
@settings(max_examples=60, deadline=None)
def test_a_shrunken_mask_keeps_every_pixel_that_is_touched(mask, height, width):
    rows, columns = np.nonzero(mask)
    expected = np.zeros((height, width), bool)
    for row, column in zip(rows, columns, strict=True):
        bottom, right = -(-(row + 1) * height // mask.shape[0]), -(-(column + 1) * width // mask.shape[1])
        expected[row * height // mask.shape[0] : bottom, column * width // mask.shape[1] : right] = True
    assert np.array_equal(shrink_mask(mask, (height, width)), expected)
