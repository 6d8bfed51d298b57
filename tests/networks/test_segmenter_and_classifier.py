"""Segmenter and classifier: smp's U-Net exactly, our files strictly, and export without a difference."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch

from sonodistill.errors import WeightsError
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, save_weights


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet50", 32_521_105), ("resnet18", 14_328_209), ("convnext_tiny", 31_928_753)]
)
def test_segmenter_is_smps_unet(name: str, parameters: int) -> None:
    ours = Segmenter(name).eval()
    theirs = smp.Unet(f"tu-{name}", encoder_weights=None).eval()
    theirs.load_state_dict(ours.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == parameters
    x = torch.rand(1, 1, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(ours.encoder.input(x)), atol=1e-5, rtol=0)


def test_resnet_weights_of_smps_own_encoder_go_in(tmp_path: Path) -> None:
    theirs = smp.Unet("resnet18", encoder_weights=None)
    torch.save(theirs.state_dict(), tmp_path / "smp.pth")
    encoder = Encoder("resnet18", tmp_path / "smp.pth")
    assert torch.equal(encoder.model.conv1.weight, theirs.encoder.conv1.weight)


def test_sizes_that_are_no_multiple_of_32_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        Segmenter("resnet18").eval()(torch.rand(1, 1, 64, 70))


@pytest.mark.parametrize(("network", "kind"), [(Segmenter, "segmenter"), (Classifier, "classifier")])
def test_a_whole_network_comes_back_from_its_file(tmp_path: Path, network, kind: str) -> None:
    path = tmp_path / "net.safetensors"
    source = network("resnet18", classes=2).eval()
    save_weights(path, source.state_dict(), WeightsInfo(kind, "resnet18", labels=("a", "b")))
    loaded = network("resnet18", classes=2, weights=path).eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), source(x), atol=0, rtol=0)
    with pytest.raises(WeightsError, match="2 recorded labels does not fit: size mismatch"):
        network("resnet18", classes=3, weights=path)


def test_a_segmenters_encoder_starts_a_classifier(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    source = Segmenter("resnet18")
    save_weights(path, source.state_dict(), WeightsInfo("segmenter", "resnet18"))
    classifier = Classifier("resnet18", classes=3, weights=path)
    assert torch.equal(classifier.encoder.model.conv1.weight, source.encoder.model.conv1.weight)


def test_classifier_pools_and_projects() -> None:
    classifier = Classifier("resnet18", classes=3, dropout=0.5).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        expected = classifier.head(classifier.encoder(x).flatten(2).mean(2))
        torch.testing.assert_close(classifier(x), expected)
    assert expected.shape == (2, 3)


@pytest.mark.filterwarnings("ignore")
def test_torchscript_keeps_the_normalisation() -> None:
    segmenter = Segmenter("resnet18", mean=0.2, std=0.3).eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(segmenter, torch.rand(1, 1, 64, 64)), buffer)
    buffer.seek(0)
    x = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(buffer)(x), segmenter(x))


@pytest.mark.filterwarnings("ignore")
def test_onnx_with_any_batch_agrees(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    segmenter = Segmenter("resnet18").eval()
    batch = {"x": {0: torch.export.Dim("batch")}}
    program = torch.onnx.export(
        segmenter, (torch.rand(2, 1, 64, 64),), dynamo=True, dynamic_shapes=batch, verbose=False
    )
    program.save(tmp_path / "net.onnx")
    session = ort.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    x = torch.rand(5, 1, 64, 64)
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, segmenter(x).numpy(), atol=1e-4)
