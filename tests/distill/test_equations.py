"""Paper A, Eq. 1 to 7, written out with loops and NumPy, beside one step of the method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sonodistill.networks.encoder import Encoder
from sonodistill_training.distill.method import Distillation
from sonodistill_training.distill.teacher import load_teacher


def bilinear(image, height, width):
    """(C, H, W) resized with half-pixel centres and clamped edges: ``align_corners=False``."""
    channels, rows, columns = image.shape
    out = np.empty((channels, height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
            below = image[:, bottom, left] * (1 - (x - left)) + image[:, bottom, right] * (x - left)
            out[:, i, j] = above * (1 - (y - top)) + below * (y - top)
    return out


def equation_6(student_maps, projector, teacher_blocks):
    """Per image: tokens of the last blocks concatenated (1), projected (2) and resized (3) student, distance (6)."""
    weight, bias = (p.detach().double().numpy() for p in (projector.weight[:, :, 0, 0], projector.bias))
    total = 0.0
    for features, *blocks in zip(student_maps, *teacher_blocks, strict=True):
        target = np.concatenate([block.double().numpy() for block in blocks])  # Eq. 1: (n * d_T, h, w)
        projected = np.einsum("oc,chw->ohw", weight, features.double().numpy()) + bias[:, None, None]  # Eq. 2
        student = bilinear(projected, *target.shape[1:])  # Eq. 3
        tokens = zip(target.reshape(len(target), -1).T, student.reshape(len(student), -1).T, strict=True)
        total += np.mean([np.sum((z_t - z_s) ** 2) for z_t, z_s in tokens])  # Eq. 6
    return total / len(student_maps)


@pytest.mark.parametrize("mixup", ["batch", "off"])
def test_a_step_computes_equations_1_to_7(mixup):
    torch.manual_seed(0)
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=96)
    method = Distillation(teacher, Encoder("resnet18"), mixup=mixup, seed=5, input_size=96)
    method.network.eval()  # so that the student can be asked again
    images = torch.randint(0, 256, (3, 1, 96, 96), dtype=torch.uint8)
    with torch.no_grad():
        values = method.step(method.network, {"image": images, "blur": torch.zeros(3)}, step=7)
        x = images / 255
        if mixup == "batch":  # Eq. 7, with the draws of step 7
            generator = torch.Generator().manual_seed(5 * 1_000_003 + 7)
            weight, partner = float(torch.rand((), generator=generator)), torch.randperm(3, generator=generator)
            x = torch.stack([weight * x[i] + (1 - weight) * x[partner[i]] for i in range(3)])
        rgb = (x - torch.tensor(teacher.input.mean)) / torch.tensor(teacher.input.std)
        blocks = teacher.backbone.model.get_intermediate_layers(rgb.expand(-1, 3, -1, -1), n=2, reshape=True, norm=True)
        expected = equation_6(method.network.student(x), method.network.projectors[0][0], blocks)
    assert values["eq6"].item() == pytest.approx(expected, rel=1e-4)
    assert values["loss"].item() == pytest.approx(expected / (2 * 192), rel=1e-4)
