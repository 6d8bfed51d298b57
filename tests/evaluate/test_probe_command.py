"""`sonodistill evaluate probe`: the figures of a training's probe, with intervals, and beside another encoder's."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from typer.testing import CliRunner

from sonodistill.networks.encoder import Encoder
from sonodistill_training.evaluate.probe import probe_encoders
from sonodistill_training.evaluate_commands import app
from sonodistill_training.monitor.probe import Probe

CPU = torch.device("cpu")


class Brightness(torch.nn.Module):
    """A map that tells bright images from dark ones, and nothing else; ``sign`` 0 tells nothing."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, images):
        noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        return torch.cat([self.sign * images + 0.01 * noise, 1 - self.sign * images + 0.01 * noise], dim=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty images of thirty patients in two classes: bright and dark."""
    folder = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(0)
    lines = ["file,label,group"]
    for number in range(60):
        low = 30 + 120 * (number // 2 % 2)
        image = generator.integers(low, low + 60, (40, 40), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), image)
        lines.append(f"{number}.png,{('dark', 'bright')[number // 2 % 2]},p{number // 2}")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_the_figures_are_those_of_a_trainings_probe(folder, kind):
    torch.manual_seed(0)
    encoder = Encoder("test_resnet").eval()
    options = {"kind": kind, "input_size": 32, "precision": "fp32"}
    found = probe_encoders({"one": lambda: encoder}, folder, device=CPU, **options)["one"]
    probe = Probe(folder, **options)
    expected, predicted = probe(encoder, CPU), probe.predicted(encoder, CPU)
    assert found.accuracy.estimate == pytest.approx(expected["probe_accuracy"])
    assert found.macro_f1.estimate == pytest.approx(f1_score(probe.labels, predicted, average="macro"))
    assert found.accuracy.estimate == pytest.approx(accuracy_score(probe.labels, predicted))
    assert found.accuracy.n_groups == 30 and found.accuracy_gain is None


def test_what_tells_more_gains_surely_and_the_same_gains_nothing(folder):
    made = {"nothing": lambda: Brightness(0), "again": lambda: Brightness(0), "bright": Brightness}
    found = probe_encoders(made, folder, input_size=32, device=CPU, precision="fp32")
    same, better = found["again"], found["bright"]
    assert (same.accuracy_gain.estimate, same.accuracy_gain.low, same.accuracy_gain.high) == (0, 0, 0)
    assert same.p_value == 1
    assert better.accuracy.estimate == 1 and better.accuracy_gain.low > 0.2 and better.macro_f1_gain.low > 0.2
    assert better.accuracy_gain.estimate == pytest.approx(1 - found["nothing"].accuracy.estimate)
    assert better.p_value < 1e-4


def test_the_command_prints_lines_or_json(folder):
    options = ["probe", "-e", "One:test_resnet", "-e", "Two:test_vit", "--data", str(folder), "--input-size", "32"]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0, said.output
    assert "One: accuracy 0." in said.stdout or "One: accuracy 1." in said.stdout
    assert "more than One: accuracy" in said.stdout and "McNemar's p" in said.stdout
    figures = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert figures["One"]["accuracy_gain"] is None and figures["Two"]["macro_f1_gain"]["n_groups"] == 30
