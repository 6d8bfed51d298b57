"""The external check by its command: real and simulated frames, damage, overlap, and numbers that can be recomputed."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from sonodistill.weights import load_weights, save_weights
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.evaluate.external.cases import SHEET_BYTES, Case, choose, write_sheet
from sonodistill_training.evaluate.external.frames import index_sha256, items_of
from sonodistill_training.evaluate.metrics.calibration import BINS, CalibrationDataError, reliability
from sonodistill_training.evaluate_commands import app

run = CliRunner().invoke


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    return write_simulated(tmp_path_factory.mktemp("sets") / "simulated", 12, size=(64, 64), progress=False)


def call(model: Path, out: Path, *sets: str, **options: str):
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    data = [word for each in sets for word in ("--data", each)]
    return run(app, ["external", str(model), *data, "--out", str(out), "--runtime", "torch", *flags])


def test_rows_summary_and_page_say_the_same(checkpoints, simulated, tmp_path):
    said = call(checkpoints[1], tmp_path, f"sim={simulated}")
    assert said.exit_code == 0, said.output
    with (tmp_path / "sim.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = json.loads((tmp_path / "external.json").read_text())["sets"]["sim"]
    assert len(rows) == 12 == found["counts"]["images"]
    dice = np.array([float(row["dice"]) for row in rows])
    assert found["intervals"]["dice_empty1"]["estimate"] == pytest.approx(dice.mean())
    strange = np.array([float(row["unfamiliarity"]) > 1 for row in rows])
    assert found["familiarity"]["unfamiliar"]["estimate"] == pytest.approx(strange.mean())
    assert found["calibration"]["brier"] == pytest.approx(np.mean([float(row["brier"]) for row in rows]))
    page = (tmp_path / "external.html").read_text()
    assert "Reliability" in page and page.count("<figure") == 12 and "http" not in page.split("<body>")[1]


def test_the_cases_are_the_worst_false_alarms_the_median_and_the_best_and_none_is_of_two_kinds():
    dice = [*np.linspace(0, 0.98, 50), 0, 0, 0, 1]  # 50 lesions, three false alarms, one normal image that is right
    found = [0, *[50] * 49, 5, 80, 20, 0]
    rows = [
        {"dice": one, "truth_pixels": 0 if at >= 50 else 100 + at, "predicted_pixels": pixels, "pixels": 4096}
        for at, (one, pixels) in enumerate(zip(dice, found, strict=True))
    ]
    chosen = choose(rows)
    assert chosen["worst"] == list(range(12))
    assert chosen["false_alarm"] == [51, 52, 50]  # the largest first
    assert chosen["best"] == [49, 48, 47, 46, 45, 44]
    assert set(chosen["median"]) == {22, 23, 24, 25, 26, 27}
    few = choose(rows[:14])
    assert few["worst"] == list(range(12)) and few["best"] == [13, 12] and not few["median"]
    assert not any(choose(rows[53:]).values())


def test_a_sheet_of_the_cases_is_small_and_shows_each_with_its_outlines(checkpoints, tmp_path):
    frames = write_simulated(tmp_path / "frames", 40, size=(300, 420), progress=False)
    said = call(checkpoints[0], tmp_path, f"busi={frames}")
    assert said.exit_code == 0, said.output
    path = tmp_path / "busi-cases.jpg"
    assert 0 < path.stat().st_size <= SHEET_BYTES
    sheet = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2HSV)
    blue, amber = (((abs(sheet[..., 0].astype(int) - hue) < 8) & (sheet[..., 1] > 100)).sum() for hue in (98, 21))
    assert blue > 500 and amber > 500
    assert "CC BY 4.0. Changed: made smaller" in (tmp_path / "external.html").read_text()
    assert not write_sheet(tmp_path / "none.jpg", "title", {"worst": []})
    assert not (tmp_path / "none.jpg").exists()


def test_of_one_false_alarm_and_one_missed_structure_the_words_differ():
    image, empty, full = np.zeros((9, 9), np.uint8), np.zeros((9, 9), bool), np.ones((9, 9), bool)
    assert Case("a", image, empty, full, 0.0, float("nan")).words == "none there, 100 % found"
    assert Case("a", image, full, empty, 0.0, 1.5).words == "Dice 0, nothing found, unfamiliar (1.50)"
    assert Case("a", image, full, full, 0.5, 0.9).words == "Dice 0.500"


def test_a_damaged_image_is_listed_and_the_others_are_judged(checkpoints, simulated, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(simulated, folder)
    first, second, third = items_of("", folder)[:3]
    first.path.write_bytes(first.path.read_bytes()[:60])
    cv2.imwrite(str(second.mask), np.zeros((9, 9), np.uint8))
    cv2.imwrite(str(third.mask), np.arange(64 * 64, dtype=np.uint8).reshape(64, 64))
    said = call(checkpoints[0], tmp_path / "out", f"sim={folder}")
    assert said.exit_code == 2
    assert "skipped 3 images" in said.output
    found = json.loads((tmp_path / "out" / "external.json").read_text())["sets"]["sim"]
    assert found["counts"]["images"] == 9
    assert set(found["skipped"]) == {first.name, second.name, third.name}
    assert found["familiarity"] is None  # the model has no score


def test_images_beside_masks_need_no_index(checkpoints, simulated, tmp_path):
    folder = tmp_path / "plain"
    for item in items_of("", simulated)[:4]:
        for kind, path in (("images", item.path), ("masks", item.mask)):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / kind / f"{item.path.stem}{path.suffix}")
    said = call(checkpoints[0], tmp_path / "out", f"mine={folder}")
    assert said.exit_code == 0, said.output


def test_the_set_that_the_score_was_fitted_to_is_refused_but_for_its_test_split(checkpoints, simulated, tmp_path):
    state, info = load_weights(checkpoints[1])
    about = {**info.familiarity, "index_sha256": index_sha256(simulated)}
    save_weights(tmp_path / "own.safetensors", state, replace(info, familiarity=about))
    refused = call(tmp_path / "own.safetensors", tmp_path / "out", f"sim={simulated}")
    assert refused.exit_code != 0
    assert "hash of this very index" in str(refused.exception)
    assert not (tmp_path / "out").exists()
    held = call(tmp_path / "own.safetensors", tmp_path / "out", f"sim={simulated}", split="test")
    assert held.exit_code in (0, 1) and "very index" not in str(held.exception)


def test_pictures_that_training_frames_show_are_refused(checkpoints, simulated, tmp_path):
    folder = tmp_path / "copies"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    training = [item for item in items_of("", simulated) if item.split == "train"]
    image = cv2.imread(str(training[0].path), 0)
    cv2.imwrite(str(folder / "images" / "copy.jpg"), image[:, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])  # mirrored
    cv2.imwrite(str(folder / "masks" / "copy.png"), np.zeros_like(image))
    said = call(checkpoints[0], tmp_path / "out", f"theirs={folder}", trained_on=str(simulated))
    assert "1 of 1 images of theirs show what a training frame shows" in str(said.exception)


def test_what_cannot_be_judged_at_all_is_named(checkpoints, simulated, tmp_path):
    (tmp_path / "empty").mkdir()
    for sets, says in ((f"a={tmp_path / 'none'}", "no such folder"), ("a", "names no data set")):
        assert says in str(call(checkpoints[0], tmp_path / "out", sets).exception)
    assert "no label liver" in str(call(checkpoints[0], tmp_path / "out", f"s={simulated}", label="liver").exception)


def test_real_frames_of_busi(checkpoints, shared, tmp_path):
    said = call(checkpoints[1], tmp_path, f"busi={shared / 'data' / 'frames' / 'busi'}", limit="12")
    assert said.exit_code == 0, said.output
    found = json.loads((tmp_path / "external.json").read_text())["sets"]["busi"]
    assert found["counts"]["images"] == 12
    assert 0 <= found["calibration"]["ece"] <= 1


def test_calibration_is_that_of_its_definition():
    generator = np.random.default_rng(0)
    probability = generator.random((40, 50)).astype(np.float32)
    truth = generator.random((40, 50)) < probability**2  # too sure of foreground
    found = reliability(probability, truth)
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [abs(truth[bins == b].mean() - probability[bins == b].mean()) * (bins == b).mean() for b in range(BINS)]
    assert found.error == pytest.approx(sum(gaps), rel=1e-5)
    assert found.brier == pytest.approx(np.mean((probability - truth) ** 2), rel=1e-5)
    halves = reliability(probability[:20], truth[:20])
    halves.add(reliability(probability[20:], truth[20:]))
    assert halves.error == pytest.approx(found.error)
    perfect = reliability(truth.astype(np.float32), truth)
    assert perfect.error == perfect.brier == perfect.worst == 0
    with pytest.raises(CalibrationDataError):
        reliability(probability + 1, truth)
