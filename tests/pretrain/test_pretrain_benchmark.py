"""The benchmark of a self-distillation: its figures and its JSON."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from sonodistill_training.bench.commands import app


def test_the_last_line_is_json_with_the_figures_that_matter(tmp_path):
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    small = ["--network", "test_vit", "--input-size", "32", "--local-size", "16", "--local-views", "2"]
    small += ["--prototypes", "16", "--hidden", "16", "--batch-size", "4", "--steps", "2", "--json"]
    result = CliRunner().invoke(app, ["pretrain", str(tmp_path), *small])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["images_per_second"] > 0 and figures["step_efficiency"] > 0 and figures["peak_memory_mb"] > 100
    assert figures["settings"]["frames"] == 4 and figures["settings"]["network"] == "test_vit"
