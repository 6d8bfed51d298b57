"""The bundle's configs begin with the shipped models; random weights and one's own are to be had in words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from bundle_case import BUNDLE, config
from monai.bundle import ConfigParser
from pydicom import examples

from sonodistill.errors import DatasetError, WeightsError
from sonodistill.frames import read
from sonodistill.inference.predictor import Predictor
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import load_weights
from sonodistill_training.workflow import run_bundle

STILL = Path(examples.get_path("rgb_color"))
SMALL = "resnet10t"


def parsed(name: str, **settings: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(config(name))
    parser.config.update({"bundle_root": str(BUNDLE), "device": "cpu", **settings})
    return parser


def test_inference_takes_the_shipped_segmenter_with_its_encoder_and_size(shipped: Path, tmp_path: Path) -> None:
    run_bundle("inference.yaml", run_id="run", dataset_dir=STILL, output_dir=tmp_path / "unnamed", device="cpu")
    run_bundle(
        "inference.yaml",
        run_id="run",
        dataset_dir=STILL,
        output_dir=tmp_path / "named",
        weights="breast-lesion",
        device="cpu",
    )
    wanted = Predictor("breast-lesion").predict_one(next(iter(read(STILL)))).mask
    for folder in ("unnamed", "named"):
        (written,) = (tmp_path / folder).rglob("*.png")
        assert ((cv2.imread(str(written), cv2.IMREAD_GRAYSCALE) > 0) == wanted).all()
    parser = parsed("inference.yaml")
    assert parser.get_parsed_content("encoder") == SMALL
    assert parser.get_parsed_content("input_size") == [64, 64]


def test_inference_takes_an_exported_model_by_name(shipped: Path, tmp_path: Path) -> None:
    run_bundle(
        "inference.yaml",
        run_id="run",
        dataset_dir=STILL,
        output_dir=tmp_path,
        exported="breast-lesion.onnx",
        device="cpu",
    )
    assert list(tmp_path.rglob("*.png"))


def test_what_was_trained_in_the_bundle_comes_before_what_is_shipped(shipped: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "models").mkdir(parents=True)
    shutil.copy(shipped / "breast-class.safetensors", bundle / "models" / "model.safetensors")
    weights = parsed("inference.yaml", bundle_root=str(bundle)).get_parsed_content("weights")
    assert weights == str(bundle / "models" / "model.safetensors")


def test_without_anything_shipped_inference_asks_for_weights_as_ever(none_shipped: None, tmp_path: Path) -> None:
    parser = parsed("inference.yaml", bundle_root=str(tmp_path))
    assert parser.get_parsed_content("weights") == str(tmp_path / "models" / "model.safetensors")
    assert parser.get_parsed_content("encoder") == "resnet50"
    assert parser.get_parsed_content("input_size") == [256, 256]
    with pytest.raises(DatasetError, match="--weights does not exist"):
        run_bundle("inference.yaml", run_id="run", dataset_dir=STILL, output_dir=tmp_path, weights=tmp_path / "none.pt")


def test_an_unknown_name_is_told_before_anything_is_built(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no shipped model"):
        run_bundle("inference.yaml", run_id="run", dataset_dir=STILL, output_dir=tmp_path, weights="brest-lesion")


@pytest.mark.parametrize("name", ["train.yaml", "interactive.yaml", "classify.yaml"])
def test_training_begins_with_the_shipped_encoder_of_its_architecture(shipped: Path, name: str) -> None:
    files = [config("train.yaml"), *([] if name == "train.yaml" else [config(name)])]
    parser = ConfigParser()
    parser.read_config(files)
    parser.config.update({"bundle_root": str(BUNDLE), "device": "cpu", "encoder": SMALL})
    held = load_weights(shipped / "resnet18-us.safetensors")[0]
    network = parser.get_parsed_content("network_def")
    assert all(torch.equal(network.encoder.model.state_dict()[key], value) for key, value in held.items())


def test_training_is_random_where_it_is_said_or_where_there_is_no_such_encoder(shipped: Path) -> None:
    assert parsed("train.yaml", encoder="resnet14t").get_parsed_content("encoder_weights") == "random"
    parser = parsed("train.yaml", encoder=SMALL, encoder_weights="random")
    torch.manual_seed(3)
    network = parser.get_parsed_content("network_def")
    torch.manual_seed(3)
    wanted = Segmenter(SMALL)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in wanted.state_dict().items())
