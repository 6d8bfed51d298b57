"""A small folder of models as the bundle ships one: an encoder, heads on it, and an exported twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from service_case import bright_model
from torch import nn

from sonodistill import models
from sonodistill.models import Model
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.click import ClickSegmenter
from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, save_head, save_weights
from sonodistill_training.ship.index import part_of, write_index

SMALL = "resnet10t"
SIZE = (64, 64)
ENCODER = "resnet18-us"
"""As the one that is shipped, of a smaller network."""


def write_shelf(home: Path) -> Path:
    """Write the models of ``models.DEFAULTS`` into a folder, with random weights."""
    torch.manual_seed(0)
    info = WeightsInfo("encoder", SMALL, input_size=SIZE, corpus_hash="ab", teacher="a teacher")
    encoder = home / f"{ENCODER}.safetensors"
    save_weights(encoder, plain_state_dict(Encoder(SMALL)), info)
    heads: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
        "breast-lesion": (Segmenter(SMALL, weights=encoder), ("lesion",)),
        "breast-class": (Classifier(SMALL, classes=3, weights=encoder), ("normal", "benign", "malignant")),
        "clicks": (ClickSegmenter(SMALL, 16, weights=encoder), ("lesion",)),
    }
    entries = [_entry(home, ENCODER, info)]
    for name, (network, labels) in heads.items():
        header = replace(info, kind=str(network.kind), labels=labels)
        save_head(home / f"{name}.safetensors", network.state_dict(), header, encoder)
        entries.append(replace(_entry(home, name, header), encoder=encoder.name))
    twin = "breast-lesion.onnx"
    bright_model(home / twin, ("lesion",))
    entries.append(replace(entries[1], name=twin, part=part_of(home / twin), encoder=""))
    write_index(home, entries)
    return home


def _entry(home: Path, name: str, info: WeightsInfo) -> Model:
    part = part_of(home / f"{name}.safetensors")
    return Model(name, home, part, info.kind, info.architecture, name, info.labels, info.input_size)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder."""
    return write_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def shipped(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, in the place of the bundle's."""
    monkeypatch.setenv(models.FOLDER_VARIABLE, str(shelf))
    return shelf


@pytest.fixture
def none_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder without models in the place of the bundle's."""
    monkeypatch.setenv(models.FOLDER_VARIABLE, str(tmp_path / "no-models"))
    yield
