"""Weights cast once: what the teacher computes under autocast stays the same to the bit."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from sonodistill_training.distill.teacher import Teacher, load_teacher

X = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
KINDS = ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "convnext_tiny.dinov3_lvd1689m", "resnet18", "nf_resnet26"]


def under_autocast(teacher: Teacher) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return teacher(X)


@pytest.mark.parametrize("name", KINDS)
def test_the_target_under_autocast_is_the_same_to_the_bit(name: str) -> None:
    teacher = load_teacher(name, random=True, input_size=64)
    expected = under_autocast(teacher)
    assert not torch.equal(expected.float(), teacher(X))
    assert torch.equal(under_autocast(teacher.precast()), expected)
    assert torch.equal(under_autocast(copy.deepcopy(teacher)), expected)
    assert torch.equal(teacher(X), expected)  # autocast is on by itself


def test_a_transformers_teacher_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, patch_size=16, image_size=64
    )
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, input_size=64)
    expected = under_autocast(teacher)
    assert torch.equal(under_autocast(teacher.precast()), expected)


def test_only_linear_and_convolution_weights_are_cast() -> None:
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=64).precast()
    cast = {key for key, value in teacher.backbone.named_parameters() if value.dtype == torch.bfloat16}
    layers = (nn.Linear, nn.Conv2d)
    assert cast == {
        f"{name}.{key}"
        for name, module in teacher.backbone.named_modules()
        if isinstance(module, layers)
        for key, _ in module.named_parameters(recurse=False)
    }
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_weights_that_a_layer_standardises_first_stay_as_they_are() -> None:
    teacher = load_teacher("nf_resnet26", random=True).precast()
    assert all(p.dtype == torch.float32 for p in teacher.backbone.model.stages.parameters())


def test_casting_again_changes_nothing_and_float32_is_refused() -> None:
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=64).precast()
    expected = teacher(X)
    assert torch.equal(teacher.precast(torch.bfloat16)(X), expected)
    with pytest.raises(ValueError, match="bfloat16 or float16"):
        teacher.precast(torch.float32)
