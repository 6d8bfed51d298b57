"""The loop beyond its plain run: averages, parts of a batch, monitors, a full disk, schedulers and other surprises."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from training_case import Frames, make_loop

from sonodistill.errors import SonoDistillError
from sonodistill_training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from sonodistill_training.distill.data import CorpusViews

CASE = Path(__file__).with_name("training_case.py")
HERE = str(Path(__file__).parent)


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def student(folder):
    return load_file(folder / "student.safetensors")


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    make_loop(folder, max_steps=4).run()
    return folder


class Recorder:
    """Notes how often it looked, and draws random numbers while it does."""

    def __init__(self):
        self.modes = []

    def __call__(self, encoder, device):
        torch.rand(3)
        self.modes.append(encoder.training)
        with torch.no_grad():
            return {"mean": float(encoder(torch.full((1, 1, 64, 64), 0.5)).mean())}


def test_monitors_look_in_eval_mode_and_change_nothing(plain, tmp_path):
    recorder = Recorder()
    make_loop(tmp_path, max_steps=4, monitors=[recorder], monitor_steps=3).run()
    assert recorder.modes == [False, False]  # after the third step and at the end
    assert ["mean" in row for row in rows(tmp_path)] == [False, False, True, True]
    assert_equal(student(tmp_path), student(plain))


def test_what_monitors_found_last_and_the_recipe_stand_in_the_product(tmp_path):
    make_loop(tmp_path, max_steps=2, monitors=[Recorder()], record={"code_version": "abc"}).run()
    with safe_open(tmp_path / "student.safetensors", framework="pt") as file:
        header = file.metadata()
    assert json.loads(header["metrics"]) == {"mean": rows(tmp_path)[-1]["mean"]}
    assert json.loads(header["recipe"])["batch_size"] == 7 and header["code_version"] == "abc"


def test_a_finished_training_that_is_run_again_keeps_what_was_found(tmp_path):
    for _ in range(2):
        make_loop(tmp_path, max_steps=2, monitors=[Recorder()]).run()
        with safe_open(tmp_path / "student.safetensors", framework="pt") as file:
            assert json.loads(file.metadata()["metrics"]) == {"mean": rows(tmp_path)[-1]["mean"]}


def test_the_average_follows_the_weights_and_is_what_is_exported(plain, tmp_path):
    make_loop(tmp_path, max_steps=4, ema=0.999).run()
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    name = "student.model.conv1.weight"
    assert_equal({name: state["network"][name]}, {name: student(plain)["conv1.weight"]})
    assert torch.equal(student(tmp_path)["conv1.weight"], state["average"][name])
    assert not torch.equal(state["average"][name], state["network"][name])


def test_a_training_with_an_average_resumes_exactly(tmp_path):
    make_loop(tmp_path / "whole", max_steps=4, ema=0.9).run()
    loop = make_loop(tmp_path / "broken", max_steps=4, ema=0.9)
    loop.on_log = lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == 2 else None
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    make_loop(tmp_path / "broken", max_steps=4, ema=0.9).run()
    assert_equal(student(tmp_path / "broken"), student(tmp_path / "whole"))


def gradients(tmp_path, accumulate):
    """Of the one step of a training of a student without batch normalisation, by what AdamW remembers of it."""
    settings = {"mixup": "off", "student": "convnext_atto", "precision": "fp32", "batch_size": 8, "clip": 1e9}
    make_loop(tmp_path, max_steps=1, accumulate=accumulate, **settings).run()
    state = torch.load(tmp_path / "last.pt", weights_only=True)["optimizer"]["state"]
    return [moments["exp_avg"] for moments in state.values()]


def test_parts_of_a_batch_add_up_to_the_whole(tmp_path):
    whole, parts = gradients(tmp_path / "1", 1), gradients(tmp_path / "4", 4)
    assert len(whole) > 50
    for expected, found in zip(whole, parts, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


def test_a_batch_that_cannot_be_parted_is_refused(tmp_path):
    with pytest.raises(SonoDistillError, match="multiple of 3"):
        make_loop(tmp_path, batch_size=7, accumulate=3).run()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_scheduler_that_stops_the_training_finds_it_saved(plain, tmp_path, number, code):
    loop = make_loop(tmp_path, max_steps=4)
    loop.on_log = lambda row: signal.raise_signal(number) if row["step"] == 2 else None
    with pytest.raises(SystemExit) as stopped:
        loop.run()
    assert stopped.value.code == code
    make_loop(tmp_path, max_steps=4).run()
    assert_equal(student(tmp_path), student(plain))


FULL_DISK = f"""
import resource, signal, sys
sys.path.insert(0, {HERE!r})
from training_case import make_loop
from sonodistill_training.checkpoint import CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def train(how):
    def fill(row):
        if row["step"] == 3:
            limit(1_000_000)
        if row["step"] == 6 and how == "freed":
            limit(resource.RLIM_INFINITY)
    make_loop(f"{{sys.argv[1]}}/{{how}}", max_steps=8, checkpoint_steps=2, on_log=fill).run()
train("freed")
sys.stderr.write("the disk stays full\\n")
try:
    train("full")
except CheckpointError as error:
    print(error)
    sys.exit(7)
"""


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """The trainings "freed" and "full" in a folder, and what their process said; a limit is for all of a process."""
    folder = tmp_path_factory.mktemp("disk")
    ran = subprocess.run([sys.executable, "-c", FULL_DISK, str(folder)], capture_output=True, text=True, timeout=300)
    return folder, ran


def test_a_disk_that_is_full_for_a_while_costs_nothing(filled):
    folder, ran = filled
    said, parted, _ = ran.stderr.partition("the disk stays full")
    assert parted, ran.stderr
    assert "cannot be saved" in said
    assert torch.load(folder / "freed" / "last.pt", weights_only=True)["step"] == 8


def test_a_disk_that_stays_full_is_a_named_error_and_the_checkpoint_before_it_is_whole(filled):
    folder, ran = filled
    assert ran.returncode == 7 and "What to do" in ran.stdout and "last.pt" in ran.stdout
    folder = folder / "full"
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 2
    assert not list(folder.glob(".last.pt*"))
    make_loop(folder, max_steps=8, checkpoint_steps=2).run()
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 8


def test_a_damaged_checkpoint_is_a_named_error(plain, tmp_path):
    save_checkpoint(tmp_path, {"step": 1, "identity": {}})
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="delete it"):
        load_checkpoint(tmp_path, {}, torch.device("cpu"))


class Vanishing(CorpusViews):
    """Raises a named error at the fourth batch, as a corpus does whose shard is gone."""

    def __getitems__(self, positions):
        if positions[0][0] >= 21:
            raise SonoDistillError("the shard is gone", path="a.arrow", remedy="bring it back")
        return super().__getitems__(positions)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_vanishes_in_mid_epoch_loses_no_step_that_was_saved(plain, tmp_path, workers):
    loop = make_loop(tmp_path, max_steps=4, checkpoint_steps=1, workers=workers)
    views, loop.dataset = loop.dataset, Vanishing(Frames(), 64)
    with pytest.raises(SonoDistillError, match=r"a\.arrow: the shard is gone") as error:
        loop.run()
    # While the error lives, its traceback keeps the loader; the program's end would wait for a worker that is there.
    assert error.tb and not multiprocessing.active_children()
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 3
    loop = make_loop(tmp_path, max_steps=4, checkpoint_steps=1)
    assert views.identity() == loop.dataset.identity()
    loop.run()
    assert_equal(student(tmp_path), student(plain))


@pytest.mark.slow
def test_a_flat_loss_is_said_once(tmp_path, caplog):
    settings = {"student": "test_resnet", "batch_size": 2, "learning_rate": 1e-12, "checkpoint_steps": 160}
    make_loop(tmp_path, max_steps=160, **settings).run()
    said = [record.getMessage() for record in caplog.records if "flat" in record.getMessage().lower()]
    assert len(said) == 1 and "learning rate" in said[0]
