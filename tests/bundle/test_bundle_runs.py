"""The bundle at work: training, classification, evaluation, inference, resume, other folders, bad settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import timm
import torch
from bundle_case import BUNDLE, CONFIGS, SMALL, labelled_folder
from pydicom import examples
from safetensors.torch import save_file

from sonodistill.errors import BundleConfigError, DatasetError, UnreadableFileError, WeightsError
from sonodistill.frames import read
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.whole import load_into
from sonodistill.transforms.geometry import to_input
from sonodistill.weights import read_info
from sonodistill_training.corpus.labelled import classification_items
from sonodistill_training.workflow import run_bundle


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled_folder(tmp_path_factory.mktemp("frames") / "simulated")


def train(data, folder, **more):
    return run_bundle("train.yaml", dataset_dir=data, ckpt_dir=folder, output_dir=folder, **{**SMALL, **more})


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(data, folder, max_epochs=3)
    return folder


def monai(*arguments, cwd, **environment):
    command = [sys.executable, "-m", "monai.bundle", "run", *map(str, arguments)]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=400, check=False)


def test_training_leaves_the_best_weights_with_their_header_and_a_log(trained):
    info = read_info(trained / "model.safetensors")
    assert (info.kind, info.architecture, info.input_size, info.labels) == (
        "segmenter",
        "resnet18",
        (64, 64),
        ("lesion",),
    )
    rows = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3] and {"loss", "val_dice", "learning_rate"} <= set(rows[0])
    assert set(torch.load(trained / "model.pt", weights_only=True))


@pytest.mark.slow
def test_interrupted_after_an_epoch_and_resumed_it_reaches_the_same_weights(data, trained, tmp_path):
    train(data, tmp_path, max_epochs=1)
    train(data, tmp_path, max_epochs=3)
    whole, resumed = (torch.load(f / "last.pt", weights_only=True) for f in (trained, tmp_path))
    assert resumed["epoch"] == 3 and resumed["best"] == whole["best"]
    assert all(torch.equal(resumed["network"][name], value) for name, value in whole["network"].items())
    assert (tmp_path / "log.jsonl").read_text() == (trained / "log.jsonl").read_text()


def test_a_frozen_encoder_stays_as_it_was(data, trained, tmp_path):
    train(data, tmp_path, max_epochs=1, freeze_encoder=True, encoder_weights=trained / "model.safetensors")
    before = torch.load(trained / "model.pt", weights_only=True)
    after = torch.load(tmp_path / "last.pt", weights_only=True)["network"]
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"decoder", "segmentation_head"}


def test_classification_is_an_overlay(data, tmp_path):
    run_bundle(["train.yaml", "classify.yaml"], dataset_dir=data, ckpt_dir=tmp_path, output_dir=tmp_path, **SMALL)
    info = read_info(tmp_path / "model.safetensors")
    assert info.kind == "classifier" and len(info.labels) >= 3
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    network = Classifier("resnet18", classes=len(info.labels))
    load_into(network, tmp_path / "model.safetensors")
    items = classification_items(data, "validation")
    images = [to_input(next(iter(read(item["image"]))).image, SMALL["input_size"]) for item in items]
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(np.stack(images))).argmax(1)
    right = sum(int(one) == item["label"] for one, item in zip(found, items, strict=True))
    assert max(row["val_accuracy"] for row in rows) == pytest.approx(right / len(items))


def test_evaluation_measures_a_split_image_by_image(data, trained, tmp_path):
    settings = {key: SMALL[key] for key in ("encoder", "input_size", "device")}
    run_bundle(["train.yaml", "evaluate.yaml"], dataset_dir=data, ckpt_dir=trained, output_dir=tmp_path, **settings)
    assert (tmp_path / "metrics.csv").is_file()
    assert (tmp_path / "val_dice_raw.csv").is_file()


def test_inference_writes_a_mask_for_every_frame_of_a_real_cine(trained, tmp_path):
    cine = examples.get_path("ybr_color")
    settings = {"encoder": "resnet18", "input_size": [64, 64], "device": "cpu"}
    weights = trained / "model.safetensors"
    run_bundle("inference.yaml", run_id="run", dataset_dir=cine, output_dir=tmp_path, weights=weights, **settings)
    masks = sorted(tmp_path.glob("*.png"))
    assert len(masks) == 30 and masks[7].name == f"{cine.name}_00007_mask.png"
    mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (240, 320) and mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}


def test_inference_goes_on_past_a_bad_file_and_ends_by_naming_it(trained, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(examples.get_path("rgb_color"), source / "good.dcm")
    (source / "bad.dcm").write_text("no DICOM at all")
    settings = {"encoder": "resnet18", "input_size": [64, 64], "device": "cpu"}
    weights = trained / "model.safetensors"
    with pytest.raises(UnreadableFileError, match="bad.dcm"):
        run_bundle("inference.yaml", "run", dataset_dir=source, output_dir=tmp_path, weights=weights, **settings)
    assert [mask.name for mask in tmp_path.glob("*.png")] == ["good.dcm_00000_mask.png"]


def test_weights_of_another_encoder_are_refused(trained, tmp_path):
    with pytest.raises(WeightsError, match="resnet18"):
        run_bundle(
            "inference.yaml",
            "run",
            dataset_dir=examples.get_path("rgb_color"),
            output_dir=tmp_path,
            weights=trained / "model.safetensors",
            encoder="resnet34",
        )


@pytest.mark.parametrize("name", ["distill.yaml", "pretrain.yaml", "train.yaml", "inference.yaml"])
def test_a_misspelt_setting_is_refused_by_name(name, data):
    with pytest.raises(BundleConfigError, match="--outptu_dir .did you mean --output_dir"):
        run_bundle(name, run_id="run", dataset_dir=data, outptu_dir="x")


def test_a_new_setting_that_something_uses_is_allowed(data, tmp_path):
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("half: 0.5\nthreshold: '@half'\n")
    with pytest.raises(DatasetError, match="--weights does not exist"):
        run_bundle(["inference.yaml", str(overlay)], run_id="run", dataset_dir=data, weights=tmp_path / "none.pt")


def test_a_missing_data_folder_is_said_before_anything_is_built(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        run_bundle("train.yaml", dataset_dir=tmp_path / "nowhere", encoder="no_such_encoder")


@pytest.mark.parametrize("how", [pytest.param("--config_file", marks=pytest.mark.slow), "--args_file"])
def test_the_command_line_trains_from_any_folder(how, data, tmp_path):
    file = CONFIGS / ("train.yaml" if how == "--config_file" else "train_args.yaml")
    settings = ["--encoder", "resnet18", "--input_size", "[64,64]", "--max_epochs", "1", "--device", "cpu"]
    folders = ["--dataset_dir", data, "--ckpt_dir", tmp_path, "--output_dir", tmp_path]
    done = monai("training", how, os.path.relpath(file, tmp_path), *settings, *folders, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.safetensors").is_file()


def test_the_command_line_ends_with_code_2_and_no_traceback(tmp_path):
    done = monai("training", "--args_file", CONFIGS / "distill_args.yaml", "--max_epoch", "3", cwd=tmp_path)
    assert done.returncode == 2
    assert "--max_epoch (did you mean --max_epochs?)" in done.stderr and "Traceback" not in done.stderr


def torchrun(*arguments):
    launch = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "monai.bundle",
        "run",
        "training",
    ]
    command = [sys.executable, *launch, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)


@pytest.mark.slow
def test_two_processes_train_together(data, tmp_path):
    files = [str(CONFIGS / name) for name in ("train.yaml", "multi_gpu_train.yaml")]
    settings = ["--encoder", "resnet18", "--input_size", "[64,64]", "--max_epochs", "1", "--batch_size", "4"]
    folders = ["--dataset_dir", data, "--ckpt_dir", tmp_path, "--output_dir", tmp_path]
    done = torchrun("--config_file", files, *settings, *folders)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1
    assert not any(name.startswith("module.") for name in torch.load(tmp_path / "model.pt", weights_only=True))


def test_a_copy_of_the_bundle_infers_without_the_installed_package(trained, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(BUNDLE, copy, ignore=shutil.ignore_patterns("output", "__pycache__", "*.safetensors", "*.pt"))
    shutil.copy(trained / "model.safetensors", copy / "models" / "model.safetensors")
    program = f"""
import sys
checkout = {str(BUNDLE.parent)!r}
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [entry for entry in sys.path if not entry.startswith(checkout)]
import monai.bundle
monai.bundle.run(config_file="configs/inference.yaml", encoder="resnet18", input_size=[64, 64], device="cpu",
    dataset_dir={str(examples.get_path("rgb_color"))!r})
import sonodistill
assert sonodistill.__file__.startswith({str(copy)!r}), sonodistill.__file__
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((copy / "output" / "masks").glob("*_mask.png"))) == 1


@pytest.fixture(scope="module")
def tiny_distillation(tmp_path_factory):
    """Settings of a distillation of three steps on real files."""
    folder = tmp_path_factory.mktemp("distillation")
    (folder / "in").mkdir()
    for name in ("ybr_color", "rgb_color"):
        shutil.copy(examples.get_path(name), folder / "in")
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), folder / "teacher.safetensors")
    return {
        "dataset_dir": folder / "in",
        "teacher_name": folder / "teacher.safetensors",
        "teacher_architecture": "vit_tiny_patch16_224",
        "student_name": "resnet18",
        "input_size": 64,
        "batch_size": 8,
        "max_steps": 3,
        "device": "cpu",
    }


def test_distillation_runs_through_the_bundle_on_real_files(tiny_distillation, tmp_path):
    run_bundle("distill.yaml", output_dir=tmp_path, **tiny_distillation)
    info = read_info(tmp_path / "student.safetensors")
    assert info.kind == "encoder" and info.architecture == "resnet18" and len(info.corpus_hash) == 64
    assert info.teacher == "teacher"


@pytest.mark.slow  # tests/training/test_distributed.py asks the loop itself
def test_two_processes_distil_together(tiny_distillation, tmp_path):
    files = [str(CONFIGS / name) for name in ("distill.yaml", "multi_gpu_distill.yaml")]
    settings = {**tiny_distillation, "output_dir": tmp_path, "workers": 1}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    done = torchrun("--config_file", files, *words)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2  # of the first step and the last
    assert read_info(tmp_path / "student.safetensors").architecture == "resnet18"
