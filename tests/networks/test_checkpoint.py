"""A checkpoint is loaded as what it is: a header that does not fit the tensors is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sonodistill.errors import WeightsError
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, load_weights, save_weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    info = WeightsInfo("segmenter", "resnet18", labels=("lesion",), input_size=(64, 64))
    save_weights(path, Segmenter("resnet18").state_dict(), info)
    return path


@pytest.mark.parametrize(
    ("kind", "build"), [("segmenter", Segmenter), ("classifier", Classifier), ("encoder", Encoder)]
)
def test_each_kind_comes_back_as_it_was(tmp_path: Path, kind: str, build: type) -> None:
    options = {} if kind == "encoder" else {"classes": 2}
    network = build("resnet18", mean=0.2, std=0.1, **options).eval()
    labels = ("a", "b") if options else ()
    info = WeightsInfo(kind, "resnet18", normalisation=((0.2,), (0.1,)), labels=labels)
    state = plain_state_dict(network) if kind == "encoder" else network.state_dict()  # as the distillation writes it
    save_weights(tmp_path / "model.safetensors", state, info)
    loaded, found = load_network(tmp_path / "model.safetensors")
    assert found == info
    assert not loaded.training
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), network(image), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ("a", "b", "c")}, "labels a, b, c, but its tensors make 1 output channels"),
        ({"architecture": "resnet34"}, "segmenter of resnet34 with the labels .*, but .* do not fit"),
        ({"architecture": "mobilenetv4_conv_small"}, "segmenter of mobilenetv4_conv_small .*, but .* do not fit"),
        ({"architecture": "resnet18000"}, "segmenter of resnet18000 .*, but"),
        ({"kind": "classifier"}, "says classifier of resnet18 .*, but its tensors are those of a segmenter"),
        ({"kind": "encoder"}, "says encoder of resnet18 .*, but its tensors are those of a segmenter"),
    ],
)
def test_a_header_that_does_not_fit_the_tensors_is_refused(
    checkpoint: Path, tmp_path: Path, change: dict, said: str
) -> None:
    state, info = load_weights(checkpoint)
    path = tmp_path / "model.safetensors"
    save_weights(path, state, replace(info, **change))
    with pytest.raises(WeightsError, match=said) as refused:
        load_network(path)
    assert refused.value.path == path


def test_labels_that_are_given_have_to_fit_too(checkpoint: Path) -> None:
    assert load_network(checkpoint, ["nodule"])[1].labels == ("nodule",)
    with pytest.raises(WeightsError, match="labels x, y, but its tensors make 1"):
        load_network(checkpoint, ["x", "y"])


@pytest.mark.parametrize("name", ["missing.safetensors", "empty.safetensors", "model.pt", "cut.safetensors"])
def test_what_is_no_checkpoint_of_ours_is_refused(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.safetensors").touch()
    (tmp_path / "model.pt").write_bytes(b"PK")
    (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:4000])
    with pytest.raises(WeightsError) as refused:
        load_network(tmp_path / name)
    assert refused.value.path == tmp_path / name
    assert refused.value.remedy


@pytest.mark.parametrize("shape", [(), (0, 512), (3,)])
def test_a_head_that_is_none_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    state = Classifier("resnet18", classes=3).state_dict()
    state["head.weight"] = torch.zeros(shape)
    path = tmp_path / "model.safetensors"
    save_weights(path, state, WeightsInfo("classifier", "resnet18"))
    with pytest.raises(WeightsError, match="its head.weight has the shape"):
        load_network(path)
