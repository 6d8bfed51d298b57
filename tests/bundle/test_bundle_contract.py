"""What MONAI asks of a bundle: metadata, properties, network shapes and exports."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest
import torch
from bundle_case import BUNDLE, CONFIGS, SMALL, config, labelled_folder
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out

from sonodistill import __version__
from sonodistill.networks.unet import Segmenter

METADATA = CONFIGS / "metadata.json"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled_folder(tmp_path_factory.mktemp("frames") / "simulated")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("models") / "model.pt"
    torch.save(Segmenter("resnet18").state_dict(), path)
    return path


def test_the_metadata_obey_the_schema(shared):
    schema = next((shared / "schema").glob("meta_schema_*.json"))
    verify_metadata(meta_file=str(METADATA), filepath=str(schema))


def test_the_metadata_name_this_version_and_the_public_schema():
    metadata = json.loads(METADATA.read_text())
    assert metadata["version"] == __version__ and __version__ in metadata["changelog"]
    assert metadata["schema"].startswith("https://project-monai.github.io/schema/")


@pytest.mark.parametrize("name", ["train.yaml", "classify.yaml"])
def test_a_training_config_has_every_property(name, data, tmp_path):
    files = config("train.yaml") if name == "train.yaml" else config("train.yaml", name)
    folders = {"dataset_dir": str(data), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, **folders, **SMALL)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_inference_config_has_every_property(data, checkpoint, tmp_path):
    workflow = ConfigWorkflow(
        config("inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        dataset_dir=str(data / "images"),
        output_dir=str(tmp_path),
        weights=str(checkpoint),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", ["distill.yaml", "pretrain.yaml", "train.yaml"])
def test_the_nested_ids_that_monai_label_sets_are_there(name):
    parser = ConfigParser()
    parser.read_config(config(name))
    for nested in ("train#trainer#max_epochs", "train#dataset#data"):
        assert nested in parser
    assert parser["training"] == parser["run"] or parser["training"] == "%run"
    if name == "train.yaml":
        assert {"validate#dataset#data", "train#handlers"} <= {
            i for i in ("validate#dataset#data", "train#handlers") if i in parser
        }


@pytest.mark.parametrize("name", ["inference.yaml", "train.yaml"])
def test_the_network_fits_the_metadata(name):
    verify_net_in_out(net_id="network_def", meta_file=str(METADATA), config_file=config(name), device="cpu")


def test_torchscript_and_onnx_exports_compute_what_the_network_does(checkpoint, tmp_path):
    shared_arguments = {
        "net_id": "network_def",
        "ckpt_file": str(checkpoint),
        "meta_file": str(METADATA),
        "config_file": config("inference.yaml"),
        "input_shape": [1, 1, 64, 64],
        "use_trace": True,
        "encoder": "resnet18",
    }
    ckpt_export(filepath=str(tmp_path / "model.ts"), **shared_arguments)
    onnx_export(filepath=str(tmp_path / "model.onnx"), **shared_arguments)
    network = Segmenter("resnet18")
    network.load_state_dict(torch.load(checkpoint, weights_only=True))
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = network.eval()(image).numpy()
        script = torch.jit.load(tmp_path / "model.ts").eval()(image).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (exported,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(script, expected, atol=1e-4)
    np.testing.assert_allclose(exported, expected, atol=1e-4)


def test_every_config_says_first_what_it_is_for():
    for file in sorted(CONFIGS.glob("*.yaml")):
        assert file.read_text().startswith("# "), file.name
        if not file.stem.endswith("_args"):
            assert "change these on the command line" in file.read_text(), file.name


def test_the_bundle_has_the_files_a_model_zoo_asks_for():
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "configs/metadata.json"):
        assert (BUNDLE / name).is_file(), name
