"""What lies in the bundle's folder of models: every file is the one of the index, loads, and is free to share."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
import torch
from bundle_case import BUNDLE

from sonodistill.files import sha256
from sonodistill.inference.predictor import Predictor
from sonodistill.models import DEFAULTS, INDEX, Model, catalogue, folder
from sonodistill.networks.checkpoint import PREDICTING, load_network
from sonodistill.weights import load_weights, read_info
from sonodistill_training.corpus import registry
from sonodistill_training.ship.index import PAGE, page, require_sizes
from sonodistill_training.ship.terms import is_free

HOME = folder()
MODELS = catalogue(HOME)
CARD = BUNDLE / "docs" / "model_card.md"
_NONE = pytest.param(None, marks=pytest.mark.skip(reason="no models are shipped in monai_bundle/models yet"))
each = pytest.mark.parametrize("model", MODELS.values() or [_NONE], ids=lambda model: model.name if model else "none")
TASKS = {
    "segmentation": "segmenter",
    "classification": "classifier",
    "interactive": "interactive",
    "embedding": "encoder",
}


def test_the_page_beside_the_index_has_its_table() -> None:
    assert (HOME / PAGE).read_text("utf-8") == page(MODELS.values())


def test_no_file_and_not_all_together_are_too_large() -> None:
    require_sizes(MODELS.values())


def test_git_keeps_what_is_shipped_and_leaves_out_what_a_training_leaves() -> None:
    def ignored(name: str) -> bool:
        command = ["git", "-C", str(BUNDLE), "check-ignore", "--no-index", "-q", f"models/{name}"]
        return subprocess.run(command, check=False).returncode == 0

    if subprocess.run(["git", "-C", str(BUNDLE), "rev-parse"], capture_output=True, check=False).returncode:
        pytest.skip("this is no git checkout")
    assert not any(map(ignored, [INDEX, PAGE, "resnet18-us.safetensors", "a.onnx", "a.int8.xml", "a.int8.bin"]))
    assert all(
        map(ignored, ["model.safetensors", "model.pt", "last.pt", "model.onnx", "model.int8.bin", ".ship-a/b.onnx"])
    )


@each
def test_its_files_are_those_of_the_index(model: Model) -> None:
    for part in model.parts:
        path = HOME / part.file
        assert (path.stat().st_size, sha256(path)) == (part.bytes, part.sha256), path
    assert model.here
    assert not any(path.is_symlink() for path in HOME.iterdir())


@each
def test_it_is_what_the_index_says_and_answers_in_numbers(model: Model) -> None:
    size = model.input_size or (256, 256)
    if model.path.suffix == ".safetensors":
        info = read_info(model.path)
        assert (info.kind, info.architecture, info.labels) == (model.kind, model.architecture, model.labels)
        assert (info.input_size, info.encoder_file) == (model.input_size, model.encoder)
        assert info.licence_notice == model.licence_notice
        floats = {
            value.dtype for key, value in load_weights(model.path)[0].items() if not key.startswith("familiarity.")
        }
        assert floats <= {torch.float16, torch.int64}
    if model.kind == "interactive":
        network, _ = load_network(model.path, kinds=(*PREDICTING, "interactive"))
        with torch.inference_mode():
            assert torch.isfinite(network(torch.rand(1, 1, *size))).all()
    else:
        predictor = Predictor(model.path)
        assert (predictor.kind, predictor.labels) == (model.kind, model.labels)
        assert np.isfinite(predictor.runtime(np.random.default_rng(0).random((1, 1, *size), np.float32))).all()


@each
def test_its_data_are_named_and_free(model: Model) -> None:
    assert model.data, "nothing says what it was trained on"
    assert set(model.data) <= set(registry.data_sets())
    assert "ddti" not in model.data
    assert all(map(is_free, (*model.data.values(), *model.licences)))


@each
def test_the_model_card_names_it_and_its_data(model: Model) -> None:
    card = CARD.read_text("utf-8")
    assert f"`{model.name}`" in card
    assert all(f"`{key}`" in card for key in model.data)


def test_every_default_is_of_the_kind_that_its_task_needs() -> None:
    if not MODELS:
        pytest.skip("no models are shipped in monai_bundle/models yet")
    for task, name in DEFAULTS.items():
        if name in MODELS:
            assert MODELS[name].kind == TASKS[task], task
    said = json.loads((HOME / INDEX).read_text("utf-8"))
    assert said["schema"] == 1
