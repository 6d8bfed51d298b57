"""The B-mode simulator: deterministic, Rayleigh speckle, shadows and enhancement where they belong, exact masks."""

from __future__ import annotations

import csv
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from sonodistill.errors import DatasetError, SonoDistillError
from sonodistill_training.corpus.acoustics import Probe, beam_envelope, round_trip_loss
from sonodistill_training.corpus.labelled import class_names, classification_items, segmentation_items
from sonodistill_training.corpus.scene import Calcification, random_scene
from sonodistill_training.corpus.simulator import COLUMNS, simulate_cine, simulate_frame, write_simulated
from sonodistill_training.simulate_commands import simulate

LINEAR = Probe("linear", depth_mm=40, width_mm=40, frequency_mhz=7.5, focus_mm=20)
CONVEX = Probe("convex", depth_mm=120, radius_mm=50, half_angle=0.55, frequency_mhz=3.5, focus_mm=60, f_number=2.5)
LESIONS = ("cyst", "hypoechoic", "hyperechoic")


def uniform_envelope(probe: Probe, seed: int = 0) -> np.ndarray:
    flat = np.zeros(probe.map_shape, np.float32)
    strengths = np.random.default_rng(seed).standard_normal((probe.map_shape[0], probe.samples), dtype=np.float32)
    return beam_envelope(probe, strengths, flat, flat)


def point_envelope(probe: Probe, depth_mm: float) -> np.ndarray:
    strengths = np.zeros((probe.map_shape[0], probe.samples), np.float32)
    strengths[probe.map_shape[0] // 2, int(depth_mm / probe.depth_mm * probe.samples)] = 1
    flat = np.zeros(probe.map_shape, np.float32)
    return beam_envelope(probe, strengths, flat, flat)


def lateral_width_mm(probe: Probe, depth_mm: float) -> float:
    """Second-moment width (FWHM of a Gaussian) of a point's intensity summed over depth."""
    profile = (point_envelope(probe, depth_mm) ** 2).sum(axis=1)
    place = np.arange(profile.size) * probe.width_mm / probe.lines
    mean = (profile * place).sum() / profile.sum()
    return 2.3548 * float(np.sqrt((profile * (place - mean) ** 2).sum() / profile.sum()))


# speckle and resolution


@pytest.mark.parametrize("probe", [LINEAR, CONVEX], ids=["linear", "convex"])
def test_uniform_tissue_gives_rayleigh_speckle(probe):
    envelope = np.concatenate([uniform_envelope(probe, seed)[:, 50:-50].ravel() for seed in range(3)])
    assert envelope.mean() / envelope.std() == pytest.approx(1.913, abs=0.04)  # sqrt(pi / (4 - pi))
    assert np.mean(envelope**2) == pytest.approx(1.0, abs=0.05)
    # A Rayleigh variable exceeds its root mean square with probability 1/e, and twice that with 1/e^4.
    assert np.mean(envelope > 1) == pytest.approx(np.exp(-1), abs=0.02)
    assert np.mean(envelope > 2) == pytest.approx(np.exp(-4), abs=0.006)


def test_lateral_resolution_is_best_at_the_focus_and_worse_away_from_it():
    focus, shallow, deep = (lateral_width_mm(LINEAR, depth) for depth in (20.0, 4.0, 36.0))
    assert shallow > 1.4 * focus
    assert deep > 1.4 * focus


def test_width_at_the_focus_is_wavelength_times_f_number():
    expected = LINEAR.wavelength_mm * LINEAR.f_number / np.sqrt(2)  # of intensity; the amplitude's is the full one
    assert lateral_width_mm(LINEAR, 20.0) == pytest.approx(expected, rel=0.1)


def test_axial_resolution_follows_the_pulse():
    profile = point_envelope(LINEAR, 20.0).max(axis=0)
    width_mm = np.count_nonzero(profile > profile.max() / 2) * LINEAR.depth_mm / profile.size
    assert 0.5 * LINEAR.wavelength_mm < width_mm < 2 * LINEAR.wavelength_mm


def test_attenuation_above_the_compensation_darkens_with_depth():
    attenuation = np.full(LINEAR.map_shape, 0.5, np.float32)
    loss = round_trip_loss(LINEAR, attenuation, compensated=0.4)
    assert loss[100, -1] == pytest.approx(2 * 0.1 * LINEAR.depth_mm, rel=0.01)
    assert loss[100, 10] < loss[100, 100] < loss[100, -1]


# frames


def test_a_seed_gives_the_same_bytes_in_any_order():
    first = simulate_frame(11, size=(128, 128))
    simulate_frame(12, size=(128, 128))
    np.random.default_rng(0).standard_normal(5)
    again = simulate_frame(11, size=(128, 128))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    assert (first.label, first.mm_per_pixel, first.probe) == (again.label, again.mm_per_pixel, again.probe)
    assert first.image.tobytes() != simulate_frame(12, size=(128, 128)).image.tobytes()


def test_labels_and_probes_are_drawn_from_the_seed():
    rng_scenes = [random_scene(np.random.default_rng(seed), (64, 64)) for seed in range(60)]
    labels = ["none" if scene.lesion is None else scene.lesion.label for scene in rng_scenes]
    assert set(labels) == {*LESIONS, "none"}
    assert 3 <= labels.count("none") <= 20
    assert {scene.probe.kind for scene in rng_scenes} == {"linear", "convex"}


@pytest.mark.parametrize("size", [(256, 256), (96, 160), (200, 120)])
@pytest.mark.parametrize("probe", ["linear", "convex"])
def test_image_and_mask_have_the_size_asked_for(size, probe):
    frame = simulate_frame(5, size=size, probe=probe, label="cyst")
    assert frame.image.shape == frame.mask.shape == size
    assert frame.image.dtype == frame.mask.dtype == np.uint8
    assert set(np.unique(frame.mask)) == {0, 255}
    assert 0.05 < frame.mm_per_pixel < 3


def test_a_frame_without_lesion_has_an_empty_mask():
    frame = simulate_frame(3, label="none")
    assert frame.label == "none"
    assert not frame.mask.any()
    assert frame.image.std() > 10


@pytest.mark.parametrize("seed", range(8))
def test_cyst_mask_is_the_dark_region(seed):
    frame = simulate_frame(seed, label="cyst")
    smooth = cv2.GaussianBlur(frame.image, (0, 0), 2)
    near = cv2.dilate(frame.mask, np.ones((25, 25), np.uint8)) > 0
    tissue = np.median(smooth[near & (frame.mask == 0)])
    dark, truth = near & (smooth < tissue / 2), frame.mask > 0
    assert 2 * np.sum(dark & truth) / (dark.sum() + truth.sum()) > 0.75


@pytest.mark.parametrize("seed", range(6))
def test_cyst_is_anechoic_and_enhances_what_is_behind_it(seed):
    frame = simulate_frame(seed, probe="linear", label="cyst")
    rows, columns = np.nonzero(frame.mask)
    assert frame.image[frame.mask > 0].mean() < 0.35 * frame.image[frame.mask == 0].mean()
    scene = random_scene(np.random.default_rng(seed), (256, 256), "linear", "cyst")
    _, attenuation = replace(scene, calcifications=()).maps()
    loss = round_trip_loss(scene.probe, attenuation, scene.compensated_db_per_mm)
    line = int((columns.mean() + 0.5) / 256 * scene.probe.lines) + 16
    behind = int((rows.max() + 5) / 256 * loss.shape[1])
    assert loss[line, behind] < np.median(loss[:, behind]) - 2  # dB


def test_enhancement_is_seen_in_the_image():
    """Behind the cysts of many frames the tissue is brighter than beside them."""
    gain = []
    for seed in range(12):
        frame = simulate_frame(seed, probe="linear", label="cyst")
        rows, columns = np.nonzero(frame.mask)
        band = frame.image[rows.max() + 6 : rows.max() + 40].astype(float)
        centre, half = int(columns.mean()), int(np.ptp(columns) / 4)
        beside = np.r_[0 : max(columns.min() - 8, 0), columns.max() + 8 : band.shape[1]]
        gain.append(band[:, centre - half : centre + half].mean() - band[:, beside].mean())
    assert np.mean(gain) > 10


@pytest.mark.parametrize("label", ["hypoechoic", "hyperechoic"])
def test_inclusions_differ_from_tissue_in_the_direction_of_their_name(label):
    for seed in range(4):
        frame = simulate_frame(seed, probe="linear", label=label)
        ring = (cv2.dilate(frame.mask, np.ones((21, 21), np.uint8)) > 0) & (frame.mask == 0)
        difference = frame.image[frame.mask > 0].mean() - frame.image[ring].mean()
        assert difference < -15 if label == "hypoechoic" else difference > 15


def test_calcification_is_bright_and_casts_a_shadow():
    scene = random_scene(np.random.default_rng(2), (256, 256), "linear", "none")
    scene = replace(scene, calcifications=(Calcification(0.0, scene.probe.depth_mm * 0.4, 1.0),))
    echo, attenuation = scene.maps()
    strengths = np.random.default_rng(0).standard_normal((echo.shape[0], scene.probe.samples), dtype=np.float32)
    loss = round_trip_loss(scene.probe, attenuation, scene.compensated_db_per_mm)
    level = 20 * np.log10(beam_envelope(scene.probe, strengths, echo, loss) + 1e-6)
    middle, row = level.shape[0] // 2, int(level.shape[1] * 0.4)
    assert level[middle - 3 : middle + 3, row - 15 : row + 15].max() > np.median(level[:, row - 15 : row + 15]) + 12
    below = level[:, row + 100 : row + 300]
    assert np.median(below[middle - 1 : middle + 1]) < np.median(below[:60]) - 15
    above = level[:, row - 300 : row - 100]
    assert np.median(above[middle - 2 : middle + 2]) > np.median(above[:60]) - 8


def test_outside_the_convex_sector_everything_is_zero():
    frame = simulate_frame(8, probe="convex", label="hyperechoic")
    outside = np.zeros((256, 256), bool)
    outside[:25, :25] = outside[:25, -25:] = outside[-25:, :5] = outside[-25:, -5:] = True
    assert not frame.image[outside].any()
    assert not frame.mask[outside].any()
    share = np.mean(cv2.morphologyEx(frame.image, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8)) > 0)
    assert 0.3 < share < 0.75


def test_linear_image_is_filled():
    assert np.mean(simulate_frame(8, probe="linear", label="hyperechoic").image > 0) > 0.95


def test_a_frame_takes_less_than_a_tenth_of_a_second():
    simulate_frame(0)
    began = time.process_time()
    for seed in range(8):
        simulate_frame(seed)
    assert (time.process_time() - began) / 8 < 0.15  # measured 0.05 s; room for a slow, busy machine


@pytest.mark.parametrize(
    "wrong",
    [{"seed": -1}, {"size": (16, 64)}, {"probe": "phased"}, {"label": "benign"}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_bad_arguments_are_named(wrong):
    with pytest.raises(SonoDistillError):
        simulate_frame(**{"seed": 0, **wrong})


# cine


@pytest.mark.parametrize("probe", ["linear", "convex"])
def test_lesion_drifts_smoothly_and_starts_at_the_still_frame(probe):
    cine = simulate_cine(4, frames=12, size=(128, 128), probe=probe, label="cyst")
    assert cine[0].image.tobytes() == simulate_frame(4, size=(128, 128), probe=probe, label="cyst").image.tobytes()
    centres = np.array([np.argwhere(frame.mask).mean(axis=0) for frame in cine])
    steps = np.linalg.norm(np.diff(centres, axis=0, append=centres[:1]), axis=1)
    assert np.ptp(centres[:, 1]) > 3
    assert steps.max() < 6
    for frame in cine:
        assert frame.image[frame.mask > 0].mean() < 25


def test_speckle_moves_with_the_tissue():
    first, *_, last = simulate_cine(4, frames=24, probe="linear", label="none")[:3]
    patch = first.image[100:160, 90:160]
    found = cv2.minMaxLoc(cv2.matchTemplate(last.image, patch, cv2.TM_CCOEFF_NORMED))
    assert found[1] > 0.75


# folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_simulated(tmp_path_factory.mktemp("sim") / "frames", 40, seed=3, size=(64, 64))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_index_is_complete_and_its_files_are_there(folder):
    rows = rows_of(folder)
    assert tuple(rows[0]) == COLUMNS
    assert [row["group"] for row in rows] == [f"sim{i:05d}" for i in range(40)]
    for number, row in enumerate(rows):
        with Image.open(folder / row["file"]) as image, Image.open(folder / row["mask"]) as mask:
            assert image.size == mask.size == (int(row["width"]), int(row["height"])) == (64, 64)
            assert image.mode == mask.mode == "L"
            assert set(np.unique(np.asarray(mask))) <= {0, 255}
            assert bool(np.asarray(mask).any()) == (row["label"] != "none")
            expected = simulate_frame(300_000 + number, size=(64, 64), label=row["label"])
            assert np.array_equal(np.asarray(image), expected.image)
            assert float(row["mm_per_pixel"]) == pytest.approx(expected.mm_per_pixel, abs=1e-6)


def test_every_file_says_that_it_is_simulated(folder):
    for path in [*folder.glob("images/*.png"), *folder.glob("masks/*.png")]:
        with Image.open(path) as image:
            assert image.text["Comment"].startswith("SIMULATED")
    assert "SIMULATED" in (folder / "README.txt").read_text()
    assert "not for claims" in (folder / "README.txt").read_text()
    assert {row["dataset"] for row in rows_of(folder)} == {"simulated"}


def test_splits_are_70_15_15_and_each_has_every_label(folder):
    rows = rows_of(folder)
    sizes = {split: sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")}
    assert sizes == {"train": 28, "validation": 6, "test": 6}
    for split in sizes:
        assert {row["label"] for row in rows if row["split"] == split} == {*LESIONS, "none"}


def test_the_reader_of_labelled_frames_takes_the_folder(folder):
    assert class_names(folder) == sorted({*LESIONS, "none"})
    assert len(segmentation_items(folder, "train")) == 28
    assert len(classification_items(folder, "test")) == 6


def test_fewer_frames_are_the_beginning_of_more(folder, tmp_path):
    short = write_simulated(tmp_path / "short", 5, seed=3, size=(64, 64))
    for name in ("images/sim00004.png", "masks/sim00004.png"):
        assert (short / name).read_bytes() == (folder / name).read_bytes()


def test_the_same_folder_is_left_alone_and_another_is_refused(tmp_path):
    made = write_simulated(tmp_path / "frames", 2, size=(64, 64))
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert write_simulated(made, 2, size=(64, 64)) == made
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before
    with pytest.raises(DatasetError, match="parameters"):
        write_simulated(made, 3, size=(64, 64))
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.docx").write_text("x")
    with pytest.raises(DatasetError):
        write_simulated(other, 2, size=(64, 64))
    assert [path.name for path in other.iterdir()] == ["thesis.docx"]


def test_an_interrupted_writing_leaves_no_folder(tmp_path, monkeypatch):
    calls = []

    def interrupted(*_args, **_kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return simulate_frame(0, size=(64, 64))

    monkeypatch.setattr("sonodistill_training.corpus.simulator.simulate_frame", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_simulated(tmp_path / "frames", 5, size=(64, 64))
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path):
    app = typer.Typer()
    app.command()(simulate)
    (tmp_path / "out").mkdir()
    result = CliRunner().invoke(app, ["--out", str(tmp_path / "out"), "--count", "3", "--size", "64"])
    assert result.exit_code == 0, result.output
    assert "3 SIMULATED frames" in result.output
    assert len(rows_of(tmp_path / "out")) == 3
    assert "Example: sonodistill simulate" in CliRunner().invoke(app, ["--help"]).output
