"""The models: ResNet-18 U-Nets with random weights, exported as any other, that find one disk, or speckle.

What is written after the inference depends on what was found: a trained model finds one or two structures a frame, and
random weights hundreds of specks. So the head of the first model, a convolution of 3 x 3, is fitted by least squares to
the disk of the synthetic cine, everything before it being random: it finds the disk, and in some frames a speck beside
it. That of the second is random too, its bias such that half of the pixels are foreground.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sonodistill.networks.unet import Segmenter
from sonodistill.transforms.geometry import to_input
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo
from sonodistill_training.bench.dicom.clips import Loop
from sonodistill_training.export.export import export, prepare
from sonodistill_training.export.frames import default_frames
from sonodistill_training.export.targets import find_target

_LOGIT = 8.0


def export_models(folder: Path, loop: Loop, size: int, seed: int) -> tuple[Path, Path]:
    """ONNX files of the model that finds the disk, and of that which finds speckle."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Segmenter("resnet18").eval()
    images = np.stack([to_input(image, (size, size)) for image in loop.images])
    disks = np.stack([to_input(disk.astype(np.uint8) * 255, (size, size)) for disk in loop.disks]) > 0.5
    head: nn.Conv2d = network.segmentation_head[0]  # type: ignore[assignment]
    with torch.no_grad():
        features = network.decoder(_maps(network, torch.from_numpy(images)))
        _speckle(head, features)
        speckle = _exported(folder / "speckle.onnx", network, size)
        _fit(head, features, torch.from_numpy(disks))
        disk = _exported(folder / "disk.onnx", network, size)
    return disk, speckle


def _maps(network: Segmenter, images: torch.Tensor) -> list[torch.Tensor]:
    return [images, *network.encoder.pyramid(images)]


def _speckle(head: nn.Conv2d, features: torch.Tensor) -> None:
    logits = head(features)
    scale = 4 / float(logits.std())
    head.weight.mul_(scale)
    head.bias.copy_((head.bias - logits.median()) * scale)  # type: ignore[union-attr]


def _fit(head: nn.Conv2d, features: torch.Tensor, disks: torch.Tensor) -> None:
    """Least squares of the disks, as +1 and -1, by the neighbourhoods of the features."""
    rows = nn.functional.unfold(features, 3, padding=1).transpose(1, 2).reshape(-1, head.weight[0].numel()).double()
    rows = torch.cat((rows, torch.ones(len(rows), 1, dtype=torch.float64)), dim=1)
    wanted = disks.reshape(-1, 1).double() * 2 - 1
    ridge = 1e-6 * (rows.T @ rows).diagonal().mean() * torch.eye(rows.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted)[:, 0] * _LOGIT
    head.weight.copy_(found[:-1].reshape(head.weight.shape))
    head.bias.copy_(found[-1:])  # type: ignore[union-attr]


def _exported(path: Path, network: Segmenter, size: int) -> Path:
    info = WeightsInfo("segmenter", "resnet18", input_size=(size, size), labels=("disk",), origin="for a benchmark")
    checkpoint = path.with_suffix(".safetensors")
    save_weights(checkpoint, network.state_dict(), info)
    export(prepare(checkpoint, default_frames), find_target("onnx"), path)
    checkpoint.unlink()
    return path
