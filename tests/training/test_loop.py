"""The training loop: resume after a kill, Ctrl-C, divergence, schedule and log."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_case import make_loop

from sonodistill.errors import SonoDistillError
from sonodistill.weights import read_info
from sonodistill_training.loop import DivergedError, Settings

CASE = Path(__file__).with_name("training_case.py")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    make_loop(folder).run()
    return folder


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def assert_same_training(folder, other):
    ours, theirs = load_file(folder / "student.safetensors"), load_file(other / "student.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [(row["step"], row["loss"]) for row in log_of(folder)] == [
        (row["step"], row["loss"]) for row in log_of(other)
    ]


def test_killed_in_mid_epoch_and_resumed_it_reaches_the_same_weights(uninterrupted, tmp_path):
    # Sums have the same bits only when as many threads share them.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, str(CASE), str(tmp_path), "7"], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert [row["step"] for row in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 5  # 35 of 20 frames: inside the second epoch
    before = torch.load(tmp_path / "last.pt", weights_only=True)["cost"]
    make_loop(tmp_path).run()
    assert_same_training(tmp_path, uninterrupted)
    cost = read_info(tmp_path / "student.safetensors").cost
    assert cost["seconds"] > sum(before.values()) > 0 and sum(cost["hardware"].values()) == cost["seconds"]


def test_ctrl_c_finishes_the_step_saves_and_goes_on(uninterrupted, tmp_path):
    loop = make_loop(tmp_path)
    loop.on_log = lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == 3 else None
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
    assert not (tmp_path / "student.safetensors").exists()
    make_loop(tmp_path).run()
    assert_same_training(tmp_path, uninterrupted)


class WithoutBegin:
    """A method whose every step does all of its work."""

    def __init__(self, method):
        self._method = method

    def __getattr__(self, name):
        if name == "begin":
            raise AttributeError(name)
        return getattr(self._method, name)


def test_a_teacher_that_begins_with_the_next_batch_changes_nothing(uninterrupted, tmp_path):
    loop = make_loop(tmp_path)
    loop.method = WithoutBegin(loop.method)
    loop.run()
    assert_same_training(tmp_path, uninterrupted)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_of_each_batch_the_teacher_begins_one_step_ahead(tmp_path, accumulate):
    loop = make_loop(tmp_path, max_steps=4 // accumulate, batch_size=4, accumulate=accumulate)
    happened = []
    begin, step = loop.method.begin, loop.method.step
    loop.method.begin = lambda batch, number: happened.append(("begin", number)) or begin(batch, number)
    loop.method.step = lambda network, batch, number: happened.append(("step", number)) or step(network, batch, number)
    loop.run()
    assert happened == [("begin", 0)] + [
        event for number in range(3) for event in (("begin", number + 1), ("step", number))
    ] + [("step", 3)]


def test_a_training_that_shares_its_threads_looks_with_all_and_gives_them_back(tmp_path):
    before, during, looked = torch.get_num_threads(), [], []
    torch.set_num_threads(3)
    try:
        loop = make_loop(tmp_path, max_steps=1, precision="bf16")
        loop.method.teacher_engine, loop.method.teacher_threads = "openvino", 1
        loop.on_log = lambda _: during.append(torch.get_num_threads())
        loop.monitors = [lambda *_: looked.append(torch.get_num_threads()) or {}]
        loop.run()
        assert (during, looked, torch.get_num_threads()) == ([2], [3], 3)
    finally:
        torch.set_num_threads(before)


def test_other_settings_cannot_go_on_from_a_checkpoint(uninterrupted):
    with pytest.raises(SonoDistillError, match="learning_rate"):
        make_loop(uninterrupted, learning_rate=5e-4).run()


def test_another_student_cannot_go_on_from_a_checkpoint(uninterrupted):
    with pytest.raises(SonoDistillError, match="resnet18.*resnet34"):
        make_loop(uninterrupted, student="resnet34").run()


def test_a_diverging_training_stops_with_a_named_error(tmp_path):
    with pytest.raises(DivergedError, match="step"):
        make_loop(tmp_path, learning_rate=1e30, max_steps=10, clip=1e30).run()


def test_only_network_optimiser_and_step_are_saved(uninterrupted):
    state = torch.load(uninterrupted / "last.pt", weights_only=True)
    assert set(state) == {"step", "identity", "network", "optimizer", "cost"}
    assert {name.split(".")[0] for name in state["network"]} == {"student", "projectors"}


def test_the_log_says_what_a_run_is_judged_by(uninterrupted):
    row = log_of(uninterrupted)[-1]
    assert row["step"] == 8 and row["epoch"] == pytest.approx(8 * 7 / 20)
    assert {
        "loss",
        "eq6",
        "target_variance",
        "learning_rate",
        "gradient_norm",
        "images_per_second",
        "data_wait",
    } <= set(row)
    assert row["eq6"] == pytest.approx(row["loss"] * 2 * 192, rel=1e-4)


def test_warm_up_then_cosine_to_zero():
    settings = Settings(max_steps=100, batch_size=10, learning_rate=1.0, warmup_epochs=2)
    rates = [settings.learning_rate_at(step, samples=20) for step in range(100)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert all(later <= earlier for earlier, later in zip(rates[4:], rates[5:], strict=False))
    assert rates[52] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 95 / 96)))


@pytest.mark.parametrize("wrong", [{"precision": "fp8"}, {"batch_size": 0}])
def test_a_setting_that_cannot_work_is_refused(wrong):
    with pytest.raises(SonoDistillError, match=next(iter(wrong))):
        Settings(**wrong)


def test_the_paper_is_316_thousand_steps():
    assert Settings().steps(162_000) == math.ceil(162_000 * 1000 / 512)
