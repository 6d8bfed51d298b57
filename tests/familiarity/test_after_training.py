"""A fine-tuning through the bundle ends with the warning score that the command fits, and with what it cost."""

from __future__ import annotations

import csv
import logging
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from pydicom import examples
from typer.testing import CliRunner

from sonodistill.errors import SonoDistillError
from sonodistill.inference.predictor import Predictor
from sonodistill.inference.runtimes import open_runtime
from sonodistill.networks.classifier import Classifier
from sonodistill.weights import load_weights, network_part, read_info
from sonodistill_training.corpus.labelled import read_labelled
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.cost import Cost
from sonodistill_training.evaluate.familiarity.fit import Embedder, fit_to
from sonodistill_training.export_commands import export
from sonodistill_training.finetune.finish import Finish
from sonodistill_training.finetune.handlers import Resume, SaveBest
from sonodistill_training.weights_commands import app
from sonodistill_training.workflow import run_bundle

run = CliRunner().invoke
SMALL = {"encoder": "resnet18", "input_size": [64, 64], "batch_size": 8, "device": "cpu", "encoder_weights": "random"}
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """72 simulated frames, dealt into splits."""
    return write_simulated(tmp_path_factory.mktemp("fit") / "frames", 72, size=(64, 64), progress=False)


def train(folder: Path, out: Path, epochs: int = 1, *overlays: str, **more):
    files = ["train.yaml", *overlays]
    return run_bundle(files, dataset_dir=folder, ckpt_dir=out, output_dir=out, max_epochs=epochs, **{**SMALL, **more})


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(folder, out)
    return out


def test_the_model_of_a_training_warns_as_if_the_command_had_fitted_it(trained, folder, tmp_path, strange):
    info = read_info(trained / MODEL)
    splits = [frame.split for frame in read_labelled(folder)]
    about = info.familiarity
    assert (about["frames"], about["calibration_frames"]) == (splits.count("train"), splits.count("validation"))
    state = load_weights(trained / MODEL)[0]
    kept = torch.load(trained / "model.pt", weights_only=True)
    assert all(torch.equal(network_part(state)[name], value) for name, value in kept.items())
    assert not any(name.startswith("familiarity.") for name in kept)
    said = run(app, ["familiarity", str(trained / MODEL), "--data", str(folder), "--out", str(tmp_path / MODEL)])
    assert said.exit_code == 0, said.output
    again = load_weights(tmp_path / MODEL)[0]
    assert all(torch.equal(state[name], value) for name, value in again.items())
    assert (Predictor(trained / MODEL, runtime="torch").runtime.both(strange)[1] > 1).all()


@pytest.mark.slow
def test_an_export_in_few_bits_whose_score_moved_is_written_without_it_unless_it_was_asked_for(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setattr("sonodistill_training.export.check._SCORE_ROUNDED", 0.0)  # any change is too much
    command = typer.Typer()
    command.command()(export)
    settings = [
        "--to",
        "onnx",
        "--precision",
        "fp16",
        "--min-dice",
        "0",
        "--frames",
        str(examples.get_path("ybr_color")),
    ]
    refused = run(command, [str(trained / MODEL), *settings, "--out", str(tmp_path / "asked"), "--familiarity"])
    assert refused.exit_code == 2 and "warning score differs" in refused.output
    assert not list((tmp_path / "asked").glob("*"))
    said = run(command, [str(trained / MODEL), *settings, "--out", str(tmp_path / "model")])
    assert said.exit_code == 0, said.output
    assert "it is written without the score" in said.output
    runtime = open_runtime(next((tmp_path / "model").glob("*.onnx")), "onnxruntime")
    assert not runtime.scored and not runtime.info.weights.familiarity


def test_one_that_goes_on_adds_its_seconds_and_keeps_the_score_of_the_best_epoch(trained, folder, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    before = read_info(out / MODEL)
    assert before.cost["seconds"] > 0 and sum(before.cost["hardware"].values()) == pytest.approx(before.cost["seconds"])
    shown = run(app, ["show", str(out / MODEL)])
    assert "cost" in shown.output and "seconds" in shown.output and "thread" in shown.output
    unchanged = (out / MODEL).read_bytes()
    train(folder, out)  # it was over
    assert (out / MODEL).read_bytes() == unchanged
    train(folder, out, 2)
    after = read_info(out / MODEL)
    assert after.cost["seconds"] > before.cost["seconds"]
    assert after.familiarity["frames"] == before.familiarity["frames"]
    assert Predictor(out / MODEL, runtime="torch").runtime.scored


def test_too_few_frames_are_said_and_the_model_is_there_without(tmp_path, caplog):
    few = write_simulated(tmp_path / "few", 12, size=(64, 64), progress=False)
    with caplog.at_level(logging.WARNING):
        train(few, tmp_path / "out")
    assert "the model has no warning score: " in caplog.text and "frames to fit" in caplog.text
    assert not read_info(tmp_path / "out" / MODEL).familiarity
    assert not Predictor(tmp_path / "out" / MODEL, runtime="torch").runtime.scored


def test_a_classifier_has_one_too_and_the_setting_leaves_it_out(folder, tmp_path):
    train(folder, tmp_path / "with", 1, "classify.yaml")
    train(folder, tmp_path / "without", 1, "classify.yaml", familiarity=False)
    assert read_info(tmp_path / "with" / MODEL).familiarity["frames"] > 32
    assert not read_info(tmp_path / "without" / MODEL).familiarity


def test_where_the_index_names_no_splits_they_are_dealt_as_for_the_training(checkpoints, folder, tmp_path):
    plain = tmp_path / "frames"
    shutil.copytree(folder, plain)
    with (plain / "index.csv").open(newline="") as file:
        rows = [{name: row[name] for name in ("file", "mask", "label", "group")} for row in csv.DictReader(file)]
    with (plain / "index.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    embedder = Embedder(checkpoints[0])
    for seed in (3, 4):
        fitted = fit_to(embedder, plain, seed=seed, splits=("train", "validation"))
        dealt = {
            split: {f.group for f in read_labelled(plain, seed=seed) if f.split == split} for split in fitted.inside
        }
        assert {split: set(one.groups) for split, one in fitted.inside.items()} == dealt
        assert fitted.about["seed"] == seed


def test_a_file_that_another_training_left_is_not_touched(folder, tmp_path):
    best = SaveBest(tmp_path, Classifier("resnet10t", classes=2), "accuracy", (64, 64), ("a", "b"))
    best.file.write_bytes(b"of another training")
    Finish(best, folder)()
    assert best.file.read_bytes() == b"of another training"


def test_a_checkpoint_of_an_earlier_release_goes_on_without_its_seconds_and_no_other_part_may_lack(tmp_path):
    torch.save({"epoch": 2}, tmp_path / "last.pt")
    engine = SimpleNamespace(state=SimpleNamespace(epoch=0, iteration=0, epoch_length=3, max_epochs=5))
    Resume(tmp_path / "last.pt", {"cost": Cost("cpu")}, []).load(engine)
    assert (engine.state.epoch, engine.state.iteration) == (2, 6)
    with pytest.raises(SonoDistillError, match="its network does not fit"):
        Resume(tmp_path / "last.pt", {"network": torch.nn.Linear(1, 1)}, []).load(engine)


def test_seconds_of_several_runs_and_machines_are_summed_by_hardware(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 5.0).tolist())
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    first = Cost("cpu")
    first.start()
    first.lap()
    first.lap()
    second = Cost("cpu")
    second.load_state_dict(first.state_dict())
    second.hardware = "1 x another"
    second.start()
    assert second.record() == {"seconds": 20.0, "hardware": {first.hardware: 15.0, "1 x another": 5.0}}
    assert "thread" in first.hardware
