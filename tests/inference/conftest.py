"""One small segmenter with masks that are not all or nothing, exported to every format; real frames."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydicom import examples

from sonodistill.frames import read
from sonodistill.inference.exported import FILE, KEY, ExportInfo, to_text
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.telemetry import no_telemetry
from sonodistill.transforms.geometry import to_input
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo

with no_telemetry():
    import openvino

SIZE = (64, 64)
NAME = "resnet18"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("SONODISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def frames():
    """The first six frames of a colour cine, 240 x 320."""
    return list(islice(read(examples.get_path("ybr_color")), 6))


@pytest.fixture(scope="session")
def images(frames):
    """The frames as the network takes them, (6, 1, 64, 64)."""
    return np.stack([to_input(frame.image, SIZE) for frame in frames])


def spread(network: Segmenter, images: np.ndarray) -> Segmenter:
    """Scale the head so that on these images each logit has mean 0 and deviation 4: masks with real regions."""
    head = network.segmentation_head[0]
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(images))
        mean, scale = logits.mean((0, 2, 3)), 4 / logits.std((0, 2, 3))
        head.bias.copy_((head.bias - mean) * scale)
        head.weight.mul_(scale.view(-1, 1, 1, 1))
    return network


@pytest.fixture(scope="session")
def network(images) -> Segmenter:
    torch.manual_seed(1)
    return spread(Segmenter(NAME), images)


@pytest.fixture(scope="session")
def logits(network, images) -> np.ndarray:
    """What the eager network says of the images."""
    with torch.no_grad():
        return network(torch.from_numpy(images)).numpy()


def header(kind: str = "segmenter", labels: tuple[str, ...] = ("lesion",), **more) -> WeightsInfo:
    return WeightsInfo(kind, NAME, input_size=SIZE, labels=labels, **more)


def info(target: str = "onnx", **more) -> ExportInfo:
    return replace(ExportInfo(header(), target, "fp32", SIZE), **more)


def with_metadata(source: Path, path: Path, text: str) -> Path:
    """A copy of an ONNX file with this text as its metadata."""
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {KEY: text})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def models(network, images, tmp_path_factory) -> Path:
    """A folder with model.safetensors, .onnx, .xml, .ts, .pt2; plain.onnx without metadata; kinds and labels."""
    folder = tmp_path_factory.mktemp("models")
    save_weights(folder / "model.safetensors", network.state_dict(), header())
    example, batch = torch.from_numpy(images[:2]), {0: torch.export.Dim("batch")}
    axes = {"image": {0: "batch"}, "output": {0: "batch"}}
    torch.onnx.export(
        network,
        (example,),
        str(folder / "plain.onnx"),
        dynamo=False,  # the quick exporter; what ours writes is read in the tests of the export
        input_names=["image"],
        output_names=["output"],
        dynamic_axes=axes,
    )
    with_metadata(folder / "plain.onnx", folder / "model.onnx", to_text(info()))
    converted = openvino.convert_model(folder / "plain.onnx")
    converted.set_rt_info(to_text(info("openvino")), KEY)
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
    with torch.no_grad():
        traced = torch.jit.trace(network, example)
    torch.jit.save(traced, folder / "model.ts", _extra_files={FILE: to_text(info("torchscript"))})
    torch.jit.save(traced, folder / "plain.ts")
    program = torch.export.export(network, (example,), dynamic_shapes=(batch,))
    torch.export.save(program, folder / "model.pt2", extra_files={FILE: to_text(info("pt2"))})
    _other_kinds(folder, images)
    return folder


def _other_kinds(folder: Path, images: np.ndarray) -> None:
    torch.manual_seed(2)
    classifier, encoder, two = Classifier(NAME, classes=3), Encoder(NAME), spread(Segmenter(NAME, classes=2), images)
    classes = ("normal", "benign", "malignant")
    save_weights(folder / "classifier.safetensors", classifier.state_dict(), header("classifier", classes))
    save_weights(folder / "encoder.safetensors", encoder.state_dict(), header("encoder", ()))
    save_weights(folder / "two.safetensors", two.state_dict(), header(labels=("left/ventricle", "wall")))
