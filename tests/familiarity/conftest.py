"""A segmenter that has seen real frames, with a warning score fitted to them; real and strange frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydicom import examples

from sonodistill.frames import read
from sonodistill.inference import familiarity
from sonodistill.inference.scored import features, map_index
from sonodistill.networks.unet import Segmenter
from sonodistill.transforms.geometry import to_input
from sonodistill.weights import WeightsInfo, save_weights

SIZE = (64, 64)
ABOUT = {"version": familiarity.VERSION, "data": "cine", "frames": 40, "quantile": 0.99}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("SONODISTILL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def frames():
    """30 frames of a real cine."""
    return list(read(examples.get_path("ybr_color")))


@pytest.fixture(scope="session")
def images(frames) -> np.ndarray:
    """(60, 1, 64, 64): the frames and their mirror images."""
    upright = np.stack([to_input(frame.image, SIZE) for frame in frames])
    return np.concatenate([upright, upright[..., ::-1]])


@pytest.fixture(scope="session")
def strange() -> np.ndarray:
    """(8, 1, 64, 64) of noise: nothing that the segmenter knows."""
    return np.random.default_rng(0).random((8, 1, *SIZE), np.float32)


@pytest.fixture(scope="session")
def network(images) -> Segmenter:
    torch.manual_seed(0)
    network = Segmenter("resnet18").train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    head = network.segmentation_head[0]
    with torch.no_grad():
        network(torch.from_numpy(images[:8]))
        logits = network.eval()(torch.from_numpy(images[:8]))
        head.weight *= 3 / logits.std()
        head.bias -= 3 / logits.std() * logits.median()
    return network


@pytest.fixture(scope="session")
def fitted(network, images) -> familiarity.Familiarity:
    with torch.inference_mode():
        index = map_index(network.encoder)
        found = features(network.encoder.pyramid(torch.from_numpy(images)), index).numpy()
    return familiarity.fit(found[::3].repeat(2, 0) + 0, found[1::3], components=8)


@pytest.fixture(scope="session")
def checkpoints(network, fitted, tmp_path_factory) -> tuple[Path, Path]:
    """The segmenter without and with the score."""
    folder = tmp_path_factory.mktemp("scored")
    header = WeightsInfo("segmenter", "resnet18", input_size=SIZE, labels=("lesion",))
    save_weights(folder / "plain.safetensors", network.state_dict(), header)
    with_score = WeightsInfo("segmenter", "resnet18", input_size=SIZE, labels=("lesion",), familiarity=ABOUT)
    extra = {name: torch.from_numpy(value) for name, value in familiarity.to_tensors(fitted).items()}
    save_weights(folder / "scored.safetensors", {**network.state_dict(), **extra}, with_score)
    return folder / "plain.safetensors", folder / "scored.safetensors"
