"""What is no B-mode image is refused with its reason, real ultrasound passes, and colour Doppler is no tint."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pydicom.examples
import pytest
from sklearn.datasets import load_sample_images

from sonodistill.frames import read
from sonodistill_training.corpus.screen import colour_doppler, is_tinted, refusal
from sonodistill_training.corpus.simulator import simulate_frame


def simulated(seed: int) -> np.ndarray:
    return simulate_frame(seed, size=(320, 400)).image


def as_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, axis=2)


def m_mode(seed: int) -> np.ndarray:
    """(400, 600): one scan line of a simulated frame over time, moved by a heart."""
    line = simulate_frame(seed, size=(400, 400), probe="linear").image[:, 200]
    depth = np.arange(400.0)
    moved = 10 * np.exp(-(((depth - 200) / 120) ** 2))
    columns = [np.interp(depth + moved * np.sin(2 * np.pi * time / 150), depth, line) for time in range(600)]
    noise = np.random.default_rng(seed).normal(0, 3, (400, 600))
    return np.clip(np.stack(columns, axis=1) + noise, 0, 255).astype(np.uint8)


def spectrum(seed: int) -> np.ndarray:
    """(300, 600): the velocities of an artery over five beats, above a drawn baseline."""
    random = np.random.default_rng(seed)
    phase = (np.arange(600) % 120) / 120
    envelope = 150 * (
        0.25 + 0.75 * np.exp(-(((phase - 0.2) / 0.12) ** 2)) + 0.2 * np.exp(-(((phase - 0.6) / 0.2) ** 2))
    )
    row = np.arange(300)[:, None]
    inside = (row < 225) & (row > 225 - envelope)
    picture = np.where(inside, random.rayleigh(60, (300, 600)), random.rayleigh(3, (300, 600)))
    picture = cv2.GaussianBlur(picture, (0, 0), 1)
    picture[225:227] = 180
    return np.clip(picture, 0, 255).astype(np.uint8)


def document() -> np.ndarray:
    page = np.full((600, 450), 250, np.uint8)
    for row in range(40, 580, 24):
        cv2.putText(page, "Findings: no abnormality seen", (20, row), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 0, 1, cv2.LINE_AA)
    return page


# refused


@pytest.mark.parametrize("level", [0, 90, 255])
def test_a_constant_frame_is_blank(level):
    assert refusal(np.full((200, 300), level, np.uint8)) == "blank"


def test_a_dark_sector_is_blank_although_the_margins_are_not():
    gray = np.full((200, 300), 200, np.uint8)
    gray[:, :150] = simulated(1)[:200, :150]
    sector = np.zeros(gray.shape, bool)
    gray[20:180, 160:290] = 3
    sector[20:180, 160:290] = True
    assert refusal(gray, sector=sector) == "blank"


def test_a_sector_whose_box_has_a_short_side_is_too_small():
    gray = simulated(1)
    sector = np.zeros(gray.shape, bool)
    sector[100:160, 100:300] = True
    assert refusal(gray, sector=sector) == "too_small"
    assert refusal(gray, sector=sector, smallest=60) is None


@pytest.mark.parametrize(
    ("formats", "reason"),
    [((2,), "m_mode"), ((3,), "spectral"), ((2, 3, 5), "spectral"), ((1, 2), None), ((1, 3), None)],
)
def test_regions_without_a_2d_one_are_refused(formats, reason):
    regions = [{"box": [0, 0, 10, 10], "format": one, "data_type": 1} for one in formats]
    assert refusal(simulated(2), regions=regions) == reason


@pytest.mark.parametrize("seed", range(3))
def test_traces_over_time_are_refused_from_the_picture(seed):
    assert refusal(m_mode(seed)) == "m_mode"
    assert refusal(spectrum(seed)) == "spectral"


@pytest.mark.parametrize("number", [0, 1], ids=["china", "flower"])
def test_photographs_are_refused(number):
    photo = load_sample_images().images[number]
    assert refusal(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY), photo) == "not_ultrasound"


def test_gray_photographs_are_refused_too():
    for photo in load_sample_images().images:
        assert refusal(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)) == "not_ultrasound"


def test_a_document_is_refused():
    page = document()
    assert refusal(page) == refusal(page, as_rgb(page)) == "not_ultrasound"


def test_what_moves_stands_for_a_sector_that_nobody_found():
    gray = np.full((400, 600), 250, np.uint8)  # a screen recording: the image is small, the page around is white
    gray[100:260, 200:420] = simulated(3)[:160, :220]
    change = np.zeros(gray.shape, np.float32)
    change[100:260, 200:420] = 5
    cine = SimpleNamespace(count=10, brightest=gray, darkest=gray, change=change)
    assert refusal(gray) == "not_ultrasound"
    assert refusal(gray, background=cine) is None


# not refused


@pytest.mark.parametrize("probe", ["linear", "convex"])
def test_simulated_frames_pass(probe):
    for seed in range(8):
        gray = simulate_frame(seed, size=(320, 400), probe=probe).image
        assert refusal(gray, as_rgb(gray)) is None


@pytest.mark.parametrize("name", ["rgb_color", "palette_color", "ybr_color"])
def test_real_dicom_frames_pass(name):
    for frame in read(pydicom.examples.get_path(name)):
        assert refusal(frame.image, frame.rgb()) is None


def test_real_stills_pass(shared):
    data = shared / "data"
    paths = [path for folder in sorted((data / "frames").iterdir()) for path in sorted(folder.glob("images/*"))[::30]]
    paths += sorted((data / "raw" / "ddti").glob("*.jpg"))[::12]
    refused = {}
    for path in paths:
        rgb = np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
        reason = refusal(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), rgb)
        if reason:
            refused[path.name] = reason
    assert len(paths) > 150
    assert not refused


def test_real_videos_pass(shared):
    for path in sorted((shared / "data" / "raw" / "video").glob("*.mp4")):
        for frame in read(path):
            if frame.index > 20:
                break
            if frame.index % 10 == 0:
                assert refusal(frame.image, frame.rgb()) is None


# colour


def doppler(seed: int) -> np.ndarray:
    """A simulated frame with a red and a blue vessel."""
    rgb = as_rgb(simulated(seed))
    flow = np.zeros(rgb.shape, np.uint8)
    cv2.ellipse(flow, (160, 150), (40, 14), 20, 0, 360, (220, 40, 10), -1)
    cv2.ellipse(flow, (240, 190), (30, 10), -30, 0, 360, (10, 60, 230), -1)
    shade = np.random.default_rng(seed).uniform(0.6, 1, rgb.shape[:2])[..., None]
    return np.where(flow.any(axis=2, keepdims=True), (flow * shade).astype(np.uint8), rgb)


def test_simulated_colour_doppler_is_told():
    for seed in range(4):
        assert colour_doppler(doppler(seed))
        assert not colour_doppler(as_rgb(simulated(seed)))


def test_real_power_doppler_is_told():
    for name, scale in (("rgb_color", 1), ("jpeg2k", 2)):
        frame = next(iter(read(pydicom.examples.get_path(name))))
        sector = np.zeros(frame.image.shape, bool)
        sector[60 * scale : 170 * scale, 30 * scale : 290 * scale] = True  # inside of the colour bars
        assert colour_doppler(frame.rgb(), sector)


def test_real_b_mode_of_a_colour_scanner_is_no_doppler():
    for frame in read(pydicom.examples.get_path("ybr_color")):
        sector = np.zeros(frame.image.shape, bool)
        sector[15:210, 40:300] = True  # above the buttons
        assert not colour_doppler(frame.rgb(), sector)


def test_real_b_mode_with_coloured_marks_is_no_doppler(shared):
    for path in sorted((shared / "data" / "raw" / "ddti").glob("*.jpg"))[::20]:
        assert not colour_doppler(np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]))


def test_coloured_calipers_and_bold_text_are_no_doppler():
    rgb = as_rgb(simulated(5))
    cv2.putText(rgb, "TIRADS 4C", (60, 150), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 0), 3, cv2.LINE_AA)
    cv2.line(rgb, (80, 200), (300, 240), (0, 255, 0), 2)
    rgb = cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)
    assert not colour_doppler(rgb)


@pytest.mark.parametrize("tint", [(1.0, 0.8, 0.5), (0.7, 0.85, 1.0)], ids=["sepia", "blue"])
def test_a_tinted_gray_map_is_b_mode(tint):
    gray = simulated(6)
    rgb = (gray[..., None] * np.array(tint)).astype(np.uint8)
    assert is_tinted(rgb)
    assert not colour_doppler(rgb)
    assert refusal(gray, rgb) is None


def test_doppler_gray_and_photographs_are_not_tinted():
    assert not is_tinted(as_rgb(simulated(6)))
    assert not is_tinted(doppler(1))
    assert not any(is_tinted(photo) for photo in load_sample_images().images)


def test_a_tint_does_not_hide_colour_doppler():
    flow = doppler(2)
    gray = as_rgb(simulated(2))
    tinted = np.where(flow != gray, flow, (gray * np.array((1.0, 0.9, 0.75))).astype(np.uint8))
    assert colour_doppler(tinted)


def test_a_real_tinted_frame_is_told():
    frame = next(iter(read(pydicom.examples.get_path("palette_color"))))
    assert is_tinted(frame.rgb())
