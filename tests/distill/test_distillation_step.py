"""The distillation step of paper A: objective, projector, mixup and what is saved."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch.nn import functional

from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill_training.distill.augment import mixup
from sonodistill_training.distill.method import Distillation, Projector, StudentWithProjectors
from sonodistill_training.distill.objective import Objective
from sonodistill_training.distill.teacher import load_teacher


@pytest.fixture(scope="module")
def tiny_teacher():
    return load_teacher("vit_tiny_patch16_224", random=True, input_size=64)


def batch_of(size, count=4):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)
    return {"image": images, "blur": torch.zeros(count)}


@pytest.mark.parametrize(
    ("layers", "parameters"), [(1, 512 * 768 + 768), (2, 512 * 2048 + 4096 + 2048 + 2048 * 768 + 768)]
)
def test_projector_has_the_layers_it_says(layers, parameters):
    projector = Projector(512, 768, layers)
    assert sum(p.numel() for p in projector.parameters()) == parameters
    assert projector(torch.zeros(2, 512, 7, 7)).shape == (2, 768, 7, 7)


def test_projecting_first_equals_upsampling_first():
    projector, features = Projector(64, 32), torch.randn(2, 64, 7, 7)

    def upsample(x):
        return functional.interpolate(x, size=(14, 14), mode="bilinear", align_corners=False)

    torch.testing.assert_close(upsample(projector(features)), projector(upsample(features)), rtol=1e-5, atol=1e-5)


def test_equation_3_gives_resnet50_tokens_that_go_onto_the_teachers_grid():
    network = StudentWithProjectors(Encoder("resnet50"), dims=[1536])
    (tokens,) = network(torch.rand(1, 1, 224, 224))
    assert tokens.shape == (1, 1536, 7, 7)
    assert torch.isfinite(Objective()(tokens, torch.zeros(1, 1536, 14, 14))["loss"])


def test_mixup_mixes_two_images_with_one_weight_for_the_batch():
    images = torch.rand(5, 1, 4, 4)
    mixed = mixup(images, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    weight, partner = torch.rand((), generator=generator), torch.randperm(5, generator=generator)
    torch.testing.assert_close(
        mixed, torch.stack([weight * images[i] + (1 - weight) * images[partner[i]] for i in range(5)])
    )
    assert torch.equal(mixed, mixup(images, torch.Generator().manual_seed(3)))


def test_mixup_weight_is_uniform():
    pair = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    drawn = [mixup(pair, torch.Generator().manual_seed(seed))[1].item() for seed in range(600)]
    swapped = [value for value in drawn if value != 1.0]  # the partner was the other image
    assert 200 < len(swapped) < 400
    assert abs(sum(swapped) / len(swapped) - 0.5) < 0.06
    assert min(swapped) < 0.05 and max(swapped) > 0.95


@pytest.mark.parametrize("mixup", ["batch", "sample", "off"])
def test_teacher_and_student_see_the_same_view(tiny_teacher, mixup):
    seen = {}
    method = Distillation(tiny_teacher, Encoder("resnet18"), mixup=mixup)
    hooks = [
        tiny_teacher.register_forward_pre_hook(lambda _, args: seen.update(teacher=args[0].clone())),
        method.network.student.input.register_forward_pre_hook(lambda _, args: seen.update(student=args[0].clone())),
    ]
    batch = batch_of(64)
    method.step(method.network, batch, step=0)
    for hook in hooks:
        hook.remove()
    assert torch.equal(seen["teacher"], seen["student"])
    assert torch.equal(seen["student"], batch["image"] / 255) is (mixup == "off")


@pytest.mark.parametrize("student", ["resnet18", "convnext_tiny", "mobilenetv4_conv_small"])
def test_any_encoder_learns_from_a_step(tiny_teacher, student):
    method = Distillation(tiny_teacher, Encoder(student))
    method.step(method.network, batch_of(64), step=0)["loss"].backward()
    norms = [p.grad.abs().sum() for p in method.network.parameters() if p.grad is not None]
    assert len(norms) > 10 and all(torch.isfinite(norm) for norm in norms)
    assert not any(p.grad is not None for p in tiny_teacher.parameters())


@pytest.mark.parametrize(("teacher", "size"), [("vit_small_patch14_dinov2", 98), ("vit_tiny_patch16_224", 96)])
def test_any_patch_and_input_size(teacher, size):
    method = Distillation(load_teacher(teacher, random=True, input_size=size), Encoder("resnet18"))
    assert torch.isfinite(method.step(method.network, batch_of(size, 2), step=0)["loss"])


def test_the_teacher_is_never_saved_with_the_student(tiny_teacher, tmp_path):
    method = Distillation(tiny_teacher, Encoder("resnet18"), corpus_sha256="abc", input_size=64)
    method.export(tmp_path / "student.safetensors")
    with safe_open(tmp_path / "student.safetensors", framework="pt") as file:
        keys, header = set(file.keys()), file.metadata()
    assert keys == set(plain_state_dict(method.network.student))
    assert not any("teacher" in key for key in method.network.state_dict())
    assert header["teacher"] == tiny_teacher.name and header["corpus_hash"] == "abc"


def test_an_exported_student_comes_back_exactly(tiny_teacher, tmp_path):
    method = Distillation(tiny_teacher, Encoder("resnet18"))
    method.export(tmp_path / "student.safetensors")
    again = Encoder("resnet18", weights=tmp_path / "student.safetensors").eval()
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), method.network.student.eval()(images))
