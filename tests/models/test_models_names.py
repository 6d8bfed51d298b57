"""A shipped model's name stands wherever the path of one can, and is what is taken where none is given."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydicom import examples
from typer.testing import CliRunner

from sonodistill import models
from sonodistill.cli import build
from sonodistill.dicom.config import read_settings
from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.networks.whole import load_into
from sonodistill.weights import load_weights
from sonodistill_training.evaluate.encoders.load import load_encoder
from sonodistill_training.evaluate.encoders.spec import parse_encoder
from sonodistill_training.finetune.handlers import SaveBest

STILL = examples.get_path("rgb_color")
SMALL = "resnet10t"


def run(*words: object) -> Any:
    """The command line here; errors come out as they are."""
    done = CliRunner().invoke(build(), list(map(str, words)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def rows(out: Path, name: str = "index.csv") -> list[dict[str, str]]:
    with (out / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def same(network: torch.nn.Module, path: Path) -> bool:
    """Whether a network holds the tensors of a file; an encoder those of its part of it."""
    whole, prefix = load_weights(path)[0], "" if hasattr(network, "kind") else "encoder."
    own = network.state_dict()
    return all(
        torch.equal(value, whole.get(prefix + key, whole.get(key.removeprefix("model.")))) for key, value in own.items()
    )


def test_predict_takes_a_name_and_the_shipped_segmenter_where_there_is_none(shipped: Path, tmp_path: Path) -> None:
    run("predict", "breast-lesion", STILL, "--out", tmp_path / "named")
    done = run("predict", STILL, "--out", tmp_path / "unnamed")
    run("predict", shipped / "breast-lesion.safetensors", STILL, "--out", tmp_path / "path")
    assert "model: breast-lesion" in done.stderr
    assert rows(tmp_path / "named") == rows(tmp_path / "unnamed") == rows(tmp_path / "path")
    run("predict", STILL, STILL, "--out", tmp_path / "two")  # two sources, and no model
    assert rows(tmp_path / "two")[0] == rows(tmp_path / "named")[0]


def test_predict_refuses_what_is_neither(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no shipped model") as caught:
        run("predict", "brest-lesion", STILL, "--out", tmp_path)
    assert "did you mean breast-lesion" in str(caught.value.remedy)
    with pytest.raises(BundleConfigError, match="there is no source beside breast-lesion"):
        run("predict", "breast-lesion", "--out", tmp_path)


def test_predict_without_shipped_models_is_as_ever(none_shipped: None, tmp_path: Path) -> None:
    with pytest.raises(BundleConfigError, match="there is no model beside") as caught:
        run("predict", STILL, "--out", tmp_path)
    assert "give a model" in str(caught.value.remedy)
    with pytest.raises(WeightsError, match="no runtime reads this kind of file"):
        run("predict", STILL, STILL, "--out", tmp_path)


def test_without_torch_predict_takes_the_exported_twin(shipped: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from sonodistill.cli import main; main()"
    command = [sys.executable, "-c", code, "predict", STILL, "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime" in done.stderr or "openvino" in done.stderr
    assert len(rows(tmp_path)) == 1


def test_dicom_predict_takes_a_name_and_the_shipped_segmenter_where_there_is_none(
    shipped: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "still.dcm").write_bytes(Path(STILL).read_bytes())
    run("dicom", "predict", study, "--out", tmp_path / "unnamed")
    run("dicom", "predict", study, "--model", "breast-lesion", "--out", tmp_path / "named")
    named, unnamed = (rows(tmp_path / name, "results.csv")[0] for name in ("named", "unnamed"))
    assert named["state"] == unnamed["state"]
    assert named["structures"] == unnamed["structures"]


def test_dicom_predict_without_shipped_models_asks_for_one(none_shipped: None, tmp_path: Path) -> None:
    with pytest.raises(BundleConfigError, match="the model is not clear"):
        run("dicom", "predict", tmp_path, "--out", tmp_path / "out")


def test_a_route_of_the_service_names_its_model_and_a_file_beside_it_comes_first(shipped: Path, tmp_path: Path) -> None:
    config = tmp_path / "service.toml"
    config.write_text('[[route]]\nname = "all"\nmodel = "breast-lesion"\neverything = true\n', "utf-8")
    assert read_settings(config).route[0].model == shipped / "breast-lesion.safetensors"
    (tmp_path / "breast-lesion").write_bytes(b"a model of one's own")
    assert read_settings(config).route[0].model == tmp_path / "breast-lesion"
    config.write_text('[[route]]\nname = "all"\nmodel = "brest-lesion"\neverything = true\n', "utf-8")
    with pytest.raises(ServiceConfigError, match="there is no file"):
        read_settings(config)
    config.write_text('[[route]]\nname = "all"\neverything = true\n', "utf-8")
    with pytest.raises(ServiceConfigError, match="model is missing"):
        read_settings(config)  # a service is told its model


def test_networks_take_a_name(shipped: Path) -> None:
    encoder, lesion = shipped / "resnet18-us.safetensors", shipped / "breast-lesion.safetensors"
    assert same(Encoder(SMALL, "resnet18-us"), encoder)
    assert same(Encoder(SMALL, "breast-lesion"), lesion), "the encoder is taken out of a segmenter"
    assert same(Segmenter(SMALL, weights="breast-lesion"), lesion)
    assert same(Classifier(SMALL, classes=3, weights="breast-class"), shipped / "breast-class.safetensors")
    network = Segmenter(SMALL)
    load_into(network, "breast-lesion")
    assert same(network, lesion)
    assert load_network("breast-lesion")[1].labels == ("lesion",)
    with pytest.raises(WeightsError, match="no shipped model"):
        Encoder(SMALL, "resnet18")


def test_random_is_said_in_words_too(shipped: Path) -> None:
    torch.manual_seed(5)
    wanted = Encoder(SMALL)
    torch.manual_seed(5)
    found = Encoder(SMALL, "random")
    assert all(torch.equal(found.state_dict()[key], value) for key, value in wanted.state_dict().items())


def test_what_a_training_leaves_says_where_a_named_encoder_came_from(shipped: Path, tmp_path: Path) -> None:
    for named, teacher in (("resnet18-us", "a teacher"), ("random", ""), (None, "")):
        best = SaveBest(tmp_path, Segmenter(SMALL), "dice", (64, 64), ["lesion"], named)
        assert best.info.teacher == teacher
        assert best.info.encoder_file == ""


def test_an_encoder_to_evaluate_is_named(shipped: Path) -> None:
    file = shipped / "resnet18-us.safetensors"
    assert parse_encoder("resnet18-us").file == file
    assert parse_encoder("Mine=resnet18-us").file == parse_encoder("R18-Distill-US=resnet18-us").file == file
    assert same(load_encoder("resnet18-us", input_size=64), file)
    assert same(load_encoder("Mine=breast-lesion", input_size=64), shipped / "breast-lesion.safetensors")


def test_show_and_list_know_the_names(shipped: Path) -> None:
    shown = json.loads(run("weights", "show", "breast-lesion", "--json").stdout)
    assert (shown["kind"], shown["encoder_file"]) == ("segmenter", "resnet18-us.safetensors")
    assert "breast-lesion.onnx" in CliRunner().invoke(build(), ["weights", "list"], env={"COLUMNS": "200"}).stdout


def test_a_named_model_is_exported_only_to_where_it_is_told(shipped: Path) -> None:
    with pytest.raises(BundleConfigError, match="where breast-lesion is to be exported to is not said"):
        run("export", "breast-lesion", "--to", "onnx")
    assert sorted(models.catalogue()) == sorted(
        ["resnet18-us", "breast-lesion", "breast-class", "clicks", "breast-lesion.onnx"]
    )
