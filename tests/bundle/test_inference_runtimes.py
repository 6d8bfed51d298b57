"""inference.yaml on any runtime: the masks that the weights give."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from bundle_case import CONFIGS
from pydicom import examples

from sonodistill.errors import DatasetError, WeightsError
from sonodistill.networks.unet import Segmenter
from sonodistill.telemetry import no_telemetry
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo
from sonodistill_training.workflow import run_bundle

with no_telemetry():
    import openvino

SETTINGS = {"encoder": "resnet18", "input_size": [64, 64], "device": "cpu"}
SHORT = {"encoder": "resnet18", "device": "cpu"}
CINE, STILL = examples.get_path("ybr_color"), examples.get_path("rgb_color")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """model.safetensors, and what it is exported to for batches of any size; no file has metadata of ours."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(3)
    network, example = Segmenter("resnet18").eval(), torch.rand(4, 1, 64, 64)
    with torch.no_grad():
        head, logits = network.segmentation_head[0], network(example)
        head.bias.copy_((head.bias - logits.mean()) * 4 / logits.std())
        head.weight.mul_(4 / logits.std())
        torch.jit.save(torch.jit.trace(network, example), folder / "model.ts")
    info = WeightsInfo("segmenter", "resnet18", input_size=(64, 64), labels=("lesion",))
    save_weights(folder / "model.safetensors", network.state_dict(), info)
    batch = ({0: torch.export.Dim("batch")},)
    path, names = folder / "model.onnx", {"input_names": ["image"], "output_names": ["output"]}
    axes = {"image": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(network, (example,), str(path), dynamo=False, dynamic_axes=axes, **names)  # the quick exporter
    openvino.save_model(openvino.convert_model(path), folder / "model.xml", compress_to_fp16=False)
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=batch), folder / "model.pt2")
    return folder


def masks(out, source=CINE, **settings):
    run_bundle("inference.yaml", "run", dataset_dir=source, output_dir=out, **{**SETTINGS, **settings})
    return np.stack([cv2.imread(str(file), cv2.IMREAD_UNCHANGED) > 0 for file in sorted(out.glob("*.png"))])


@pytest.fixture(scope="module")
def expected(models, tmp_path_factory):
    found = masks(tmp_path_factory.mktemp("weights"), weights=models / "model.safetensors")
    assert len(found) == 30 and 0.02 < found.mean() < 0.98
    return found


@pytest.mark.parametrize(
    ("file", "runtime"),
    [
        ("model.onnx", "onnxruntime"),
        ("model.onnx", "openvino"),
        ("model.xml", "auto"),
        ("model.ts", "torch"),
        ("model.pt2", "auto"),
    ],
)
def test_an_exported_model_gives_the_masks_of_the_weights(models, expected, tmp_path, file, runtime):
    found = masks(tmp_path, exported=models / file, runtime=runtime)
    assert (found != expected).mean() < 1e-4  # pixels at the threshold


def test_bfloat16_reaches_the_runtime(models, expected, tmp_path):
    found = masks(tmp_path, exported=models / "model.xml", runtime="openvino", precision="bf16")
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.97


def test_the_models_own_size_is_taken(models, expected, tmp_path):
    found = masks(tmp_path, exported=models / "model.onnx", runtime="onnxruntime", input_size=[256, 256])
    assert (found != expected).mean() < 1e-4


def test_a_missing_export_is_found_before_anything_is_built(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.onnx"):
        masks(tmp_path, STILL, exported=tmp_path / "nowhere.onnx")


def test_a_runtime_that_does_not_read_the_file_is_a_named_error(models, tmp_path):
    with pytest.raises(WeightsError, match="torch reads"):
        masks(tmp_path, STILL, exported=models / "model.onnx", runtime="torch")


def test_it_runs_by_monais_own_command(models, tmp_path):
    settings = {"exported": models / "model.onnx", "runtime": "onnxruntime", "output_dir": tmp_path / "out"}
    words = [f"--{name}={value}" for name, value in {**settings, "dataset_dir": STILL, **SHORT}.items()]
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(CONFIGS / "inference.yaml"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_mask.png"))) == 1
