"""The ViT that is masked, stochastic depth, the teacher, and files in and out."""

from __future__ import annotations

import pytest
import timm
import torch
from pretrain_case import SIZE, make_method

from sonodistill.errors import BundleConfigError
from sonodistill.weights import read_info
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.pretrain.build import make_vit, plain_vit_state
from sonodistill_training.pretrain.method import SelfDistillation

IMAGES = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def test_tokens_are_those_of_timm():
    vit = make_vit("test_vit", input_size=SIZE, registers=4, mean=0.0, std=1.0).eval()
    classes, patches = vit.tokens(IMAGES)
    expected = vit.model.forward_features(IMAGES)
    torch.testing.assert_close(classes, expected[:, 0])
    torch.testing.assert_close(patches, expected[:, 5:])
    assert vit(IMAGES).shape == (3, 64, 3, 3)
    torch.testing.assert_close(vit(IMAGES).flatten(2).transpose(1, 2), patches)


def test_what_is_hidden_does_not_reach_the_tokens():
    vit = make_vit("test_vit", input_size=SIZE).eval()
    masks = torch.zeros(3, 9, dtype=torch.bool)
    masks[0, 4] = True
    changed = IMAGES.clone()
    changed[0, :, 16:32, 16:32] = 0.5  # the patch in the middle
    shown, hidden = vit.tokens(IMAGES)[1], vit.tokens(IMAGES, masks)[1]
    torch.testing.assert_close(hidden, vit.tokens(changed, masks)[1])
    assert not torch.allclose(shown[0], hidden[0]) and torch.equal(shown[1:], hidden[1:])


@pytest.mark.parametrize("drop_path", [0.05, 0.4])
def test_stochastic_depth_keeps_the_mean_and_is_off_in_eval(drop_path):
    vit = make_vit("test_vit", input_size=SIZE, drop_path=drop_path)
    x, residual = torch.zeros(5, 2, 4), torch.ones(5, 2, 4)
    draws = torch.stack([vit._branch(x, lambda some: residual[: len(some)]) for _ in range(2000)])
    assert draws.mean() == pytest.approx(1, abs=0.03)
    assert {0.0} < {round(v, 4) for v in draws[:, :, 0, 0].unique().tolist()}
    vit.eval()
    assert torch.equal(vit._branch(x, lambda some: residual[: len(some)]), residual)


def test_the_teacher_follows_exactly_and_never_drops_or_learns():
    method = make_method(separate_head=True)
    network = method.network
    before = {name: value.clone() for name, value in network.named_parameters()}
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.startswith("student"):
                value.add_(torch.randn_like(value))
    network.follow(0.9)
    for name, value in network.named_parameters():
        if name.startswith("teacher"):
            student = dict(network.named_parameters())[name.replace("teacher", "student", 1)]
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * student)
            assert not value.requires_grad
    network.train()
    assert not network.teacher.training and network.student.training
    network.follow(0.0)
    assert torch.equal(network.teacher.model.pos_embed, network.student.model.pos_embed)


def test_first_weights_depend_on_the_seed_alone():
    """The public code has its seeds commented out."""
    torch.manual_seed(1)
    first = make_method().network.state_dict()
    torch.manual_seed(2)
    again, other = make_method().network.state_dict(), make_vit("test_vit", input_size=SIZE, seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["student.model.pos_embed"], other["model.pos_embed"])


@pytest.mark.parametrize(("channels", "registers"), [(1, None), (1, 4), (3, None), (3, 2)])
def test_a_pretrained_file_is_a_teacher_a_start_and_a_timm_model(channels, registers, tmp_path):
    method = make_method()
    vit = make_vit("test_vit", input_size=SIZE, channels=channels, registers=registers)
    torch.nn.init.normal_(vit.model.cls_token)
    method.network.teacher = vit.eval()
    path = tmp_path / "teacher.safetensors"
    method.export(path)
    info = read_info(path)
    assert (info.kind, info.architecture, info.normalisation) == ("teacher", "test_vit", ((0.1843,), (0.2188,)))
    expected = vit(IMAGES)
    torch.testing.assert_close(load_teacher(path, input_size=SIZE, blocks=1)(IMAGES), expected)
    again = make_vit("test_vit", path, SIZE, channels=channels).eval()
    torch.testing.assert_close(again(IMAGES), expected)
    shape = {"in_chans": channels, "reg_tokens": registers or 0, "no_embed_class": bool(registers), "init_values": 1e-5}
    overlay = {"file": str(path), "num_classes": 0}
    model = timm.create_model(
        "test_vit", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=SIZE, **shape
    ).eval()
    tokens = model.forward_features(vit.input(IMAGES)[:, :channels])[:, model.num_prefix_tokens :]
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize(("inside", "outside"), [(3, 1), (1, 3), (3, 3)])
def test_channels_and_normalisation_change_without_changing_what_is_computed(inside, outside, tmp_path):
    method = make_method()
    vit = make_vit("test_vit", input_size=SIZE, channels=inside)
    method.network.teacher = vit
    method.export(tmp_path / "vit.safetensors")
    other = make_vit("test_vit", tmp_path / "vit.safetensors", SIZE, channels=outside, mean=0.4, std=0.3)
    assert other.channels == outside
    torch.testing.assert_close(other.eval()(IMAGES), vit.eval()(IMAGES), rtol=1e-4, atol=1e-4)


def test_imagenets_three_means_fold_into_one_channel(tmp_path):
    three = make_vit("test_vit", input_size=SIZE, channels=3).eval()
    three.input = type(three.input)((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    method = make_method()
    method.network.teacher = three
    method.export(tmp_path / "vit.safetensors")
    one = make_vit("test_vit", tmp_path / "vit.safetensors", SIZE, channels=1).eval()
    torch.testing.assert_close(one(IMAGES), three(IMAGES), rtol=1e-4, atol=1e-4)


def test_the_licence_of_the_weights_it_started_from_goes_along(tmp_path):
    assert make_method().licence_notice == ""
    method = make_method(licence_notice="Built with DINOv3")
    method.export(tmp_path / "vit.safetensors")
    student = make_vit("test_vit", tmp_path / "vit.safetensors", SIZE)
    other = SelfDistillation(student, method.crops, prototypes=8, hidden=8, bottleneck=8)
    assert other.licence_notice == "Built with DINOv3"


def test_the_papers_networks_can_be_built():
    for name, width in (("vit_small_patch16_224", 384), ("vit_base_patch16_224", 768)):
        with torch.device("meta"):
            assert timm.create_model(name).embed_dim == width
    vit = make_vit("vit_tiny_patch16_224", input_size=32, registers=4)
    assert vit.channels == 1 and vit.model.num_reg_tokens == 4 and plain_vit_state(vit)["register_tokens"].shape[1] == 4


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "resnet18"}, "no plain ViT"),
        ({"channels": 2}, "channels is 2"),
        ({"drop_path": 1.0}, "drop_path is 1"),
    ],
)
def test_what_cannot_be_is_refused(wrong, said):
    with pytest.raises(BundleConfigError, match=said):
        make_vit(**{"name": "test_vit", "input_size": SIZE, **wrong})
