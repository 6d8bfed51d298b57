"""Bad input at the command line: one message with file and remedy, no traceback, exit code 2."""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest
import timm
from command_case import run_here
from PIL import Image
from pydicom import examples
from safetensors.torch import save_file


@pytest.fixture
def sonodistill(monkeypatch, capsys):
    """Run the command in this process; (exit code, everything printed)."""
    return partial(run_here, monkeypatch, capsys)


def truncated(path):
    path.write_bytes(examples.get_path("rgb_color").read_bytes()[:40_000])


def zero_bytes(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("Dear colleague, please find attached\n")


def unknown_transfer_syntax(path):
    known, unknown = b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.99"
    path.write_bytes(examples.get_path("ybr_color").read_bytes().replace(known, unknown))


BAD = {"cut.dcm": truncated, "empty.png": zero_bytes, "letter.dcm": text, "strange.dcm": unknown_transfer_syntax}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["frames info", "pack"])
def test_a_bad_file_is_named_with_what_to_do(sonodistill, tmp_path, name, command):
    BAD[name](tmp_path / name)
    more = ["--out", tmp_path / "out"] if command == "pack" else []
    code, printed = sonodistill(*command.split(), tmp_path / name, *more)
    assert code == 2
    assert name in printed.replace("\n", "") and "Traceback" not in printed


def test_a_batch_goes_on_lists_what_it_skipped_and_ends_with_2(sonodistill, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name, spoil in BAD.items():
        spoil(source / name)
    shutil.copy(examples.get_path("ybr_color"), source / "good.dcm")
    code, printed = sonodistill("pack", source, "--out", tmp_path / "pack")
    assert code == 2 and "30 frames" in printed
    assert all(name in printed for name in BAD) and "good.dcm" not in printed


def test_an_empty_folder_says_what_to_do(sonodistill, tmp_path):
    (tmp_path / "nothing").mkdir()
    code, printed = sonodistill("pack", tmp_path / "nothing", "--out", tmp_path / "pack")
    assert code == 2 and "nothing" in printed and "What to do" in printed


def test_distilling_a_missing_folder_ends_before_anything_is_built(sonodistill, tmp_path):
    code, printed = sonodistill("distill", tmp_path / "nowhere", "--out", tmp_path / "out", "--student", "no_such")
    assert code == 2 and "nowhere" in printed and "no_such" not in printed


def test_a_teacher_of_another_architecture_names_both(sonodistill, tmp_path):
    Image.fromarray(np.full((80, 80), 9, np.uint8)).save(tmp_path / "a.png")
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "teacher.safetensors")
    wrong = ["--teacher", tmp_path / "teacher.safetensors", "--set", "teacher_architecture=vit_small_patch16_224"]
    code, printed = sonodistill(
        "distill", tmp_path / "a.png", "--out", tmp_path / "out", "--student", "resnet18", "--steps", "1", *wrong
    )
    assert code == 2 and "teacher.safetensors" in printed and "vit_small_patch16_224" in printed
    assert "What to do" in printed and "Traceback" not in printed


def test_ctrl_c_says_how_to_go_on(sonodistill, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("sonodistill_training.workflow.run_bundle", interrupt)
    code, printed = sonodistill("distill", tmp_path, "--out", tmp_path / "out")
    assert code == 130 and "run the same command again" in printed


def test_an_unknown_setting_is_refused(sonodistill, tmp_path):
    Image.fromarray(np.full((80, 80), 9, np.uint8)).save(tmp_path / "a.png")
    code, printed = sonodistill("distill", tmp_path / "a.png", "--out", tmp_path / "out", "--set", "mixupp=false")
    assert code == 2 and "did you mean --mixup" in printed


@pytest.mark.parametrize(
    "command", ["frames info", "frames export", "pack", "distill", "predict", "simulate", "weights fetch", "quickstart"]
)
def test_every_command_has_help_with_an_example(sonodistill, command):
    code, printed = sonodistill(*command.split(), "--help")
    assert code == 0 and "Example" in printed
