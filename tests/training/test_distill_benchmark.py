"""The benchmark of a distillation: its figures, its JSON, and a peer that is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from sonodistill.errors import BundleConfigError
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.bench.commands import app
from sonodistill_training.bench.distill import Setup
from sonodistill_training.bench.peer import Peer


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A folder of frames and the file of a teacher."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "frames").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 120), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "frames" / f"{number}.png")
    torch.manual_seed(0)
    state = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).state_dict()
    info = WeightsInfo(
        kind="teacher", architecture="vit_tiny_patch16_224", normalisation=((0.5,), (0.5,)), input_size=(64, 64)
    )
    save_weights(folder / "teacher.safetensors", state, info)
    return folder


def test_the_last_line_is_json_with_the_figures_that_matter(case):
    options = ["distill", str(case / "frames"), "--teacher", str(case / "teacher.safetensors"), "--input-size", "64"]
    result = CliRunner().invoke(app, [*options, "--batch-size", "4", "--steps", "4", "--rounds", "1", "--json"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["images_per_second"] > 0 and figures["ratio_bf16_vs_fp32"] > 0 and figures["peak_memory_mb"] > 100
    assert figures["step_efficiency"] > 0 and figures["compute_images_per_second"] > 0
    assert figures["settings"]["frames"] == 4 and not any(key.startswith("peer") for key in figures)


def test_a_python_without_the_peer_is_refused(tmp_path):
    with pytest.raises(BundleConfigError, match="no lightly-train beside this Python"):
        Peer(Path(sys.executable), tmp_path, corpus=None, setup=Setup())
