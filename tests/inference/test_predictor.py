"""An exported model runs without torch and says what the network says."""

from __future__ import annotations

import csv
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import examples

from sonodistill.errors import WeightsError
from sonodistill.frames import read
from sonodistill.inference.predictor import Predictor
from sonodistill.networks.unet import Segmenter
from sonodistill.transforms.dictionary import FrameToInputd, OutputToMaskd


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return Segmenter("resnet18").eval()


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    example = torch.rand(2, 1, 64, 64)
    batch = torch.export.Dim("batch")
    torch.onnx.export(network, (example,), str(path), dynamo=True, dynamic_shapes=({0: batch},), external_data=False)
    return path


def test_it_says_what_the_bundles_transforms_and_network_say(network, model):
    frames = list(read(examples.get_path("ybr_color")))[:6]
    predictions = list(Predictor(model)(frames, batch_size=4))
    assert [prediction.frame.index for prediction in predictions] == [0, 1, 2, 3, 4, 5]
    item = FrameToInputd("image", (64, 64))({"image": frames[5]})
    with torch.no_grad():
        item["pred"] = network(item["image"][None].as_tensor())[0]
    expected = OutputToMaskd("pred")(item)["pred"][0].numpy().astype(bool)
    assert predictions[5].mask.shape == (240, 320)
    assert (predictions[5].mask != expected).mean() < 1e-3  # pixels exactly at the threshold


@pytest.mark.parametrize("content", [b"", b"not a model"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="model.onnx"):
        Predictor(path)


def test_a_missing_model_says_how_to_make_one(tmp_path):
    with pytest.raises(WeightsError, match="onnx_export"):
        Predictor(tmp_path / "none.onnx")


def sonodistill(*arguments):
    command = [sys.executable, "-m", "sonodistill", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_predict_writes_masks_and_an_index_and_goes_on_past_bad_files(model, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        (source / name).mkdir(parents=True)
        Image.fromarray(np.full((90, 80), 100, np.uint8)).save(source / name / "same.png")
    (source / "bad.png").write_bytes(b"")
    done = sonodistill("predict", model, source, "--out", out)
    assert done.returncode == 2 and "bad.png" in done.stderr and "Traceback" not in done.stderr
    rows = list(csv.DictReader((out / "index.csv").open()))
    assert {row["file"] for row in rows} == {"a/same.png_00000_mask.png", "b/same.png_00000_mask.png"}
    for row in rows:
        mask = cv2.imread(str(out / row["file"]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == (90, 80) and int((mask > 0).sum()) == int(row["area_pixels"])
        assert row["area_mm2"] == ""  # a PNG has no physical scale


def test_predicting_needs_no_torch(model, tmp_path):
    program = (
        "import sys; sys.modules['torch'] = None; sys.modules['monai'] = None\n"
        "from sonodistill.frames import read; from sonodistill.inference.predictor import Predictor\n"
        f"print(len(list(Predictor({str(model)!r})(read({str(examples.get_path('rgb_color'))!r})))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "1", done.stderr
