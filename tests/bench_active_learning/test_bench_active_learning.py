"""`sonodistill bench active-learning`: what it simulates and prints, and that it goes on where it was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sonodistill.annotate.acquire.strategies import STRATEGIES
from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill_training.bench.active_learning.curve import divide, run_curve
from sonodistill_training.bench.active_learning.frames import Frames, load_frames
from sonodistill_training.bench.active_learning.head import dice, fit
from sonodistill_training.bench.active_learning.setup import Setup, setup_of
from sonodistill_training.bench.active_learning.summary import area, summarise
from sonodistill_training.bench.active_learning.write import markdown, write_active_learning
from sonodistill_training.bench.commands import app

ROUNDS = (4, 8, 16)
QUICK = ["--frames", "40", "--seeds", "2", "--rounds", "4,8,16", "--input-size", "64", "--encoder", "tiny:test_resnet"]


def options(**changes: Any) -> Setup:
    given = {
        "data": (),
        "encoder": "tiny:test_resnet",
        "strategies": ["random"],
        "seeds": 2,
        "rounds": "4,8,16",
        "input_size": 64,
        "simulated": 40,
    }
    return setup_of(**{**given, **changes})


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Frames:
    return load_frames("simulated", None, options(), tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out")
    result = CliRunner().invoke(app, ["active-learning", *QUICK, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout.splitlines()[-1])


def test_the_last_line_is_json_with_a_curve_for_each_strategy(printed):
    _, found = printed
    curves = found["curves"]["simulated"]
    assert list(curves) == list(STRATEGIES)
    for curve in curves.values():
        assert curve["labelled"] == list(ROUNDS) and len(curve["dice"]) == 3
        ends = zip(curve["low"], curve["dice"], curve["high"], strict=True)
        assert all(0 <= low <= mean <= high <= 1 for low, mean, high in ends)
    assert curves["random"]["dice"][0] == curves["uncertainty"]["dice"][0], "without a model both draw the same"
    assert curves["auto"]["dice"] == curves["typicality"]["dice"], "up to 20 labels they are the same"
    assert curves["spread"] == curves["random"], "each still is a file of its own"
    both = found["both"]
    assert found["best"] == max(both, key=lambda name: both[name]["mean"])
    assert "difference" not in both["random"]
    assert both["kcenter"]["difference"] == pytest.approx(both["kcenter"]["mean"] - both["random"]["mean"], abs=2e-4)
    assert found["seeds"] == 2 and found["data"]["simulated"]["frames"] == 40 and found["threads"] == 1


def test_table_and_plot_are_written(printed):
    out, found = printed
    assert json.loads((out / "active_learning.json").read_text())["curves"] == found["curves"]
    text = (out / "active_learning.md").read_text()
    assert "| strategy | 4 | 8 | 16 | area | to random |" in text and f"Highest area: {found['best']}" in text
    assert (out / "active_learning.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "active_learning.svg").read_text()


def test_finished_runs_are_not_computed_again(printed):
    out, found = printed
    runs = sorted((out / "runs").iterdir())
    assert len(runs) == 2 * len(STRATEGIES)
    before = {path: path.stat().st_mtime_ns for path in runs}
    gone = runs[3]
    content = json.loads(gone.read_text())
    gone.unlink()
    result = CliRunner().invoke(app, ["active-learning", *QUICK, "--out", str(out), "--json"])
    again = json.loads(result.stdout.splitlines()[-1])
    assert again["curves"] == found["curves"]
    assert {path for path in runs if path.stat().st_mtime_ns != before[path]} == {gone}
    redone = json.loads(gone.read_text())
    assert (redone["chosen"], redone["dice"]) == (content["chosen"], content["dice"]), "the same seed, the same run"


@pytest.mark.slow
def test_it_goes_on_where_it_was_killed(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sonodistill",
        "bench",
        "active-learning",
        *QUICK,
        "--out",
        str(tmp_path),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*.json")):
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=30)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*.json")}
    assert len(done) < 2 * len(STRATEGIES)
    result = CliRunner().invoke(app, ["active-learning", *QUICK, "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert len(list(tmp_path.glob("runs/*.json"))) == 2 * len(STRATEGIES)


def test_patients_are_never_divided_between_pool_and_test(frames):
    grouped = replace(frames, groups=np.array([f"patient {at // 3}" for at in range(len(frames.rows))]))
    divisions = [divide(grouped, seed) for seed in range(4)]
    for pool, test in divisions:
        assert not set(grouped.groups[pool]) & set(grouped.groups[test])
        assert sorted([*pool, *test]) == list(range(40)) and 8 <= len(test) <= 16
    assert len({tuple(test) for _, test in divisions}) > 1


def test_a_run_labels_only_the_pool_and_no_frame_twice(frames):
    found = run_curve(frames, "auto", 1, ROUNDS)
    pool, test = divide(frames, 1)
    files = {frames.data.files[row]: at for at, row in enumerate(frames.rows.tolist())}
    chosen = [files[name] for name in found["chosen"]]
    assert len(set(chosen)) == 16 and set(chosen) <= set(pool.tolist()) and found["test"] == len(test)


def test_the_head_learns_from_its_labels(frames):
    some = np.flatnonzero(frames.structured)[:6]
    scores = dice(frames, fit(frames, some), some)
    assert scores.shape == (6,) and scores.min() >= 0 and scores.max() <= 1
    blank = replace(frames, truths=np.zeros_like(frames.truths))
    assert (dice(frames, fit(blank, some), some) == 0).all(), "who is shown nothing finds nothing"
    answers = replace(frames, pixels=np.repeat(frames.truths[:, :, None], 8, axis=2).astype(np.float16))
    said = fit(answers, some).probabilities(answers.pixels[some])
    assert said[frames.truths[some] > 0.2].min() > said[frames.truths[some] == 0].max()


def test_the_area_counts_each_doubling_alike():
    assert area(np.array([[0.0, 1.0]]), [5, 10]) == pytest.approx([0.5])
    assert area(np.array([[0.2, 0.2, 0.2], [0.0, 1.0, 1.0]]), [5, 10, 20]) == pytest.approx([0.2, 0.75])
    assert area(np.array([[0.3]]), [5]) == pytest.approx([0.3])


def test_differences_are_paired_by_seed():
    hard = np.linspace(0, 0.5, 8)  # test frames of some seeds are harder than those of others

    def runs(offset: float) -> list[dict[str, Any]]:
        return [{"dice": [at, at + offset], "dice_all": [at, at], "labelled": [5, 10]} for at in hard.tolist()]

    found = summarise(
        {"one": {"random": runs(0.1), "best": runs(0.2)}, "two": {"random": runs(0.1), "best": runs(0.1)}}
    )
    best = found["area"]["one"]["best"]
    assert best["difference"] == best["difference_low"] == best["difference_high"] == pytest.approx(0.05)
    assert best["wins"] == 8 and best["low"] < best["mean"] - 0.05
    assert found["both"]["best"]["difference"] == pytest.approx(0.025) and found["best"] == "best"
    alone = summarise({"one": {"kcenter": runs(0.1)[:1]}})
    assert alone["area"]["one"]["kcenter"]["low"] == alone["area"]["one"]["kcenter"]["high"]


def test_two_sets_and_one_strategy_are_written_too(tmp_path):
    run = [{"dice": [0.1, 0.2], "dice_all": [0.1, 0.2], "labelled": [5, 10]}]
    about = {"frames": 9, "with_structure": 9, "groups": 9, "sha256": ""}
    made = summarise({"one": {"random": run}, "two": {"random": run}})
    result = {**made, "data": {"one": about, "two": about}, "encoder": "e", "seeds": 1, "rounds": [5, 10]}
    assert "### Mean over the sets" in markdown(result)
    assert len(write_active_learning(result, tmp_path)) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategies": ["best"]}, "no strategy best"),
        ({"rounds": "8,4"}, "rounds of '8,4'"),
        ({"rounds": "four"}, "rounds of 'four'"),
        ({"rounds": "1,2"}, "rounds of '1,2'"),
        ({"input_size": 50}, "50 pixels"),
        ({"data": ["nothing"]}, "names no data set"),
        ({"encoder": "magic"}, "magic"),
    ],
)
def test_an_option_that_cannot_work_is_refused(changes, said):
    with pytest.raises(BundleConfigError, match=said):
        options(**changes)


def test_a_weights_file_is_an_encoder(tmp_path):
    (tmp_path / "student.safetensors").write_bytes(b"x")
    assert options(encoder=str(tmp_path / "student.safetensors")).encoder.name == "student"


def test_more_labels_than_frames_are_refused(frames):
    with pytest.raises(DatasetError, match=r"ask for fewer --rounds"):
        run_curve(frames, "random", 0, (4, 400))
