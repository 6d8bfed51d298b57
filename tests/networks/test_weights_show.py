"""`sonodistill weights show`: everything the header says, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sonodistill.errors import WeightsError
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training import weights_commands

INFO = WeightsInfo(
    "encoder",
    "resnet18",
    input_size=(224, 224),
    teacher="vit_base_patch16_dinov3",
    licence_notice="Built with DINOv3. [/b] [red]",
    recipe={"mixup": True, "augmentation": {"scale": [0.5, 1.0], "blur": 0.5}, "learning_rate": 1e-4},
    corpus_licences={"CC BY-NC-SA 4.0": 1200},
    corpus_restrictions={"non-commercial": 1200},
    metrics={"knn": float("nan"), "loss": 1.25},
    code_version="c0ffee" * 6 + "abcd",
)


def show(*arguments: object):
    return CliRunner().invoke(weights_commands.app, ["show", *map(str, arguments)], env={"COLUMNS": "160"})


@pytest.fixture
def student(tmp_path: Path) -> Path:
    save_weights(tmp_path / "student.safetensors", {"conv1.weight": torch.ones(4, 3)}, INFO)
    return tmp_path / "student.safetensors"


def test_the_table_has_every_field_with_recipe_and_metrics_below_theirs(student: Path) -> None:
    shown = show(student)
    assert shown.exit_code == 0, shown.output
    rows = {}
    for line in shown.output.splitlines():
        name, _, value = line.strip(" │┃").partition("│")
        rows[name.strip()] = value.strip()
    expected = {
        "teacher": "vit_base_patch16_dinov3",
        "input_size": "224, 224",
        "normalisation": "(0.449), (0.226)",
        "recipe": "",
        "mixup": "yes",
        "scale": "0.5, 1",
        "learning_rate": "0.0001",
        "CC BY-NC-SA 4.0": "1200",
        "non-commercial": "1200",
        "loss": "1.25",
        "knn": "-",
        "code_version": INFO.code_version,
        "parameters": "0.000 M in 1 tensors",
        "first tensors": "conv1.weight (4, 3) torch.float32",
    }
    assert {name: rows.get(name) for name in expected} == expected


def test_words_in_brackets_are_shown_as_they_are(student: Path) -> None:
    assert "Built with DINOv3. [/b] [red]" in show(student).output


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    info = WeightsInfo("encoder", "resnet18", teacher="a\x1b[2Jb", recipe={"c\rd": "\ud800"})
    save_weights(tmp_path / "w.safetensors", {"x\x1b[1m": torch.ones(1)}, info)
    shown = show(tmp_path / "w.safetensors")
    assert shown.exit_code == 0, shown.output
    assert "\x1b" not in shown.output and "\r" not in shown.output and "a\\x1b[2Jb" in shown.output


def test_json_is_the_header_as_one_object(student: Path) -> None:
    found = json.loads(show(student, "--json").output)
    assert found["recipe"] == INFO.recipe and found["input_size"] == [224, 224]
    assert found["metrics"] == {"knn": None, "loss": 1.25}
    assert found["licence_notice"] == INFO.licence_notice
    assert (found["parameters"], found["tensors"]) == (12, 1)


def test_a_foreign_file_is_said_to_have_no_header(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    assert "not written by SonoDistill" in show(tmp_path / "foreign.safetensors").output
    assert json.loads(show(tmp_path / "foreign.safetensors", "--json").output) == {"parameters": 2, "tensors": 1}


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_file_with_a_flipped_bit_is_not_shown(student: Path, options: list[str]) -> None:
    damaged = bytearray(student.read_bytes())
    damaged[-1] ^= 1
    student.write_bytes(damaged)
    shown = show(student, *options)
    assert isinstance(shown.exception, WeightsError) and shown.output == ""


def test_a_bad_file_ends_in_its_name_a_remedy_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    command = [sys.executable, "-m", "sonodistill", "weights", "show", str(tmp_path / "bad.safetensors"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "bad.safetensors: not a weights file" in done.stderr and "What to do" in done.stderr
    assert "Traceback" not in done.stderr
