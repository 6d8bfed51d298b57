"""`sonodistill weights familiarity`: what it stores, what it measures, and what it leaves as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sonodistill.inference.predictor import Predictor
from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill.weights import WeightsInfo, load_weights, network_part, read_info, save_head, save_weights
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.evaluate.external.frames import items_of
from sonodistill_training.weights_commands import app

run = CliRunner().invoke


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """72 simulated frames, dealt into splits."""
    return write_simulated(tmp_path_factory.mktemp("fit") / "frames", 72, size=(64, 64), progress=False)


def test_the_score_is_stored_beside_an_unchanged_network_and_tells_noise(checkpoints, folder, tmp_path):
    model = tmp_path / "model.safetensors"
    shutil.copy(checkpoints[0], model)
    said = run(app, ["familiarity", str(model), "--data", str(folder), "--against", "noise", "--json"])
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)
    assert found["outside"]["noise"]["auroc"]["estimate"] > 0.95
    before, after = load_weights(checkpoints[0])[0], network_part(load_weights(model)[0])
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    splits = [item.split for item in items_of("", folder)]
    about = read_info(model).familiarity
    assert (about["frames"], about["calibration_frames"]) == (splits.count("train"), splits.count("validation"))
    assert Predictor(model, runtime="torch").runtime.scored


def test_a_dry_run_writes_nothing_and_a_damaged_frame_is_listed(checkpoints, folder, tmp_path):
    model, damaged = tmp_path / "model.safetensors", tmp_path / "frames"
    shutil.copy(checkpoints[0], model)
    shutil.copytree(folder, damaged)
    items_of("", damaged)[0].path.write_bytes(b"\x89PNG")
    said = run(app, ["familiarity", str(model), "--data", str(damaged), "--dry-run"])
    assert said.exit_code == 2
    assert "skipped 1 files" in said.output
    assert model.read_bytes() == checkpoints[0].read_bytes()


def test_too_few_frames_are_refused_by_number(checkpoints, tmp_path):
    few = write_simulated(tmp_path / "few", 10, size=(64, 64), progress=False)
    said = run(app, ["familiarity", str(checkpoints[0]), "--data", str(few), "--out", str(tmp_path / "no.safetensors")])
    assert "frames to fit" in str(said.exception)
    assert not (tmp_path / "no.safetensors").exists()


def test_a_network_whose_encoder_lies_beside_it_stays_so(checkpoints, folder, tmp_path):
    state, info = load_weights(checkpoints[0])
    encoder = Encoder("resnet18", checkpoints[0])
    save_weights(tmp_path / "encoder.safetensors", plain_state_dict(encoder), WeightsInfo("encoder", "resnet18"))
    save_head(tmp_path / "head.safetensors", state, info, tmp_path / "encoder.safetensors")
    size = (tmp_path / "head.safetensors").stat().st_size
    said = run(app, ["familiarity", str(tmp_path / "head.safetensors"), "--data", str(folder)])
    assert said.exit_code == 0, said.output
    assert read_info(tmp_path / "head.safetensors").encoder_file == "encoder.safetensors"
    assert (tmp_path / "head.safetensors").stat().st_size < size + 200_000
    assert Predictor(tmp_path / "head.safetensors", runtime="torch").runtime.scored
