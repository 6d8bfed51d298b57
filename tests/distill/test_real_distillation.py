"""Distillation on real ultrasound learns: the long check, and its short twin on what pip brings."""

from __future__ import annotations

import json

import pytest
from pydicom import examples

from sonodistill_training.distill.offline import fetch_offline_teacher
from sonodistill_training.workflow import run_bundle

RECIPE = {"student_name": "resnet18", "input_size": 196, "batch_size": 32, "learning_rate": 1e-3, "clip": 3.0}


def losses(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows]


def mean(values):
    return sum(values) / len(values)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_loss_on_3449_real_frames_falls_by_more_than_half_in_300_steps(shared, tmp_path):
    fetch_offline_teacher()
    sources = [shared / "data" / "frames" / name for name in ("hc18", "aul", "muscle_timtrack", "pocus_lung")]
    run_bundle("distill.yaml", dataset_dir=sources, output_dir=tmp_path, max_steps=300, **RECIPE)
    found = losses(tmp_path)  # of the first step, then of every tenth
    assert mean(found[-5:]) < 0.5 * found[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_loss_on_pydicoms_ultrasound_falls_by_more_than_half_in_60_steps(tmp_path):
    fetch_offline_teacher()
    sources = [examples.get_path(name) for name in ("ybr_color", "rgb_color", "palette_color", "jpeg2k")]
    run_bundle("distill.yaml", dataset_dir=sources, output_dir=tmp_path, max_steps=60, **RECIPE)
    found = losses(tmp_path)
    assert mean(found[-3:]) < 0.5 * found[0]
