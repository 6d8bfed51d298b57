"""A fine-tuning keeps the epoch of the highest validation metric, and not that of the lowest."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from sonodistill.networks.classifier import Classifier
from sonodistill.weights import load_weights
from sonodistill_training.finetune.handlers import SaveBest


def test_the_weights_of_the_highest_metric_are_what_is_left(tmp_path):
    network = Classifier("resnet10t", classes=2)
    save = SaveBest(tmp_path, network, "val_f1", (32, 32), ("a", "b"))
    assert not (tmp_path / "model.safetensors").exists()
    for epoch, value in enumerate((0.5, 0.9, 0.2, 0.9, 0.1)):
        with torch.no_grad():
            network.head.bias.fill_(epoch)
        save(SimpleNamespace(state=SimpleNamespace(metrics={"val_f1": value})))
    assert save.state_dict() == {"best": 0.9}
    for state in (load_weights(tmp_path / "model.safetensors")[0], torch.load(tmp_path / "model.pt")):
        assert state["head.bias"].tolist() == [1.0, 1.0]  # the first of two epochs that are alike
