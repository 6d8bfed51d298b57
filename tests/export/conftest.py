"""A segmenter whose masks have regions and borders, as a checkpoint, and everything an export of it needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import examples

from sonodistill.frames import read
from sonodistill.networks.unet import Segmenter
from sonodistill.transforms.geometry import to_input
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.export.export import Exported, Source, export, prepare
from sonodistill_training.export.frames import given_frames
from sonodistill_training.export.targets import TARGETS

SIZE = (64, 64)


@pytest.fixture(scope="session")
def cine() -> Path:
    """30 frames of real ultrasound, which pydicom brings."""
    return Path(examples.get_path("ybr_color"))


@pytest.fixture(scope="session")
def checkpoint(cine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 U-Net of random weights that has seen the statistics of real frames: half of each is foreground."""
    torch.manual_seed(0)
    network = Segmenter("resnet18").train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.ones_(module.weight)
    images = torch.from_numpy(np.stack([to_input(frame.image, SIZE) for frame in read(cine, only=range(0, 30, 4))]))
    head = network.segmentation_head[0]
    with torch.no_grad():
        network(images)
        logits = network.eval()(images)
        head.weight *= 3 / logits.std()
        head.bias -= 3 / logits.std() * logits.median()
    path = tmp_path_factory.mktemp("checkpoint") / "model.safetensors"
    info = WeightsInfo("segmenter", "resnet18", labels=('bright <tissue> & "more" é',), input_size=SIZE, version="1.2")
    save_weights(path, network.state_dict(), info)
    return path


@pytest.fixture(scope="session")
def source(checkpoint: Path, cine: Path) -> Source:
    """The checkpoint, ready for export."""
    return prepare(checkpoint, partial(given_frames, [cine], calibrate=True))


@pytest.fixture(scope="session")
def torchscript(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The checkpoint in TorchScript."""
    return export(source, TARGETS["torchscript"], tmp_path_factory.mktemp("torchscript") / "model.ts")
