"""The teacher: frozen, dense, gray in; by name, by path, and with an error that says what to do."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sonodistill.errors import BundleConfigError, HubUnreachableError, WeightsError
from sonodistill.networks import hub
from sonodistill_training.distill.teacher import load_teacher


@pytest.mark.parametrize(
    ("name", "size", "shape", "patch"),
    [
        ("vit_tiny_patch16_224", 64, (2, 384, 4, 4), 16),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 56, (2, 768, 4, 4), 14),
        ("convnext_tiny.dinov3_lvd1689m", 64, (2, 384 + 768, 2, 2), 32),
        ("resnet18", 64, (2, 256 + 512, 2, 2), 32),
    ],
)
def test_target_shape_of_every_kind_of_backbone(name: str, size: int, shape: tuple[int, ...], patch: int) -> None:
    teacher = load_teacher(name, random=True, input_size=size)
    assert teacher(torch.rand(2, 1, size, size)).shape == shape
    assert (teacher.name, teacher.dim, teacher.patch_size, teacher.input_multiple) == (name, shape[1], patch, patch)


def test_the_papers_teacher_has_the_papers_size() -> None:
    teacher = load_teacher("vit_base_patch16_dinov3.lvd1689m", random=True)
    assert sum(p.numel() for p in teacher.parameters()) == 85_641_216
    assert teacher(torch.rand(1, 1, 224, 224)).shape == (1, 1536, 14, 14)
    assert teacher.licence_notice.startswith("Built with DINOv3.")


def test_it_is_frozen_whatever_is_called_on_it() -> None:
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=32)
    torch.nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    x = torch.rand(1, 1, 32, 32, requires_grad=True)
    assert not teacher(x).requires_grad


def test_the_target_is_the_normed_patch_tokens_of_the_last_blocks_in_order() -> None:
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=32, blocks=3)
    model, x = teacher.backbone.model, torch.rand(1, 1, 32, 32)
    kept: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: kept.append(out)) for block in model.blocks[-3:]]
    target = teacher(x)
    for hook in hooks:
        hook.remove()
    expected = torch.cat([model.norm(k)[:, 1:].transpose(1, 2).reshape(1, 192, 2, 2) for k in kept], dim=1)
    torch.testing.assert_close(target, expected)


def test_earlier_stages_are_resized_to_the_last_grid() -> None:
    teacher = load_teacher("resnet18", random=True)
    x = torch.rand(1, 1, 64, 64)
    early, last = teacher.backbone(teacher.input(x))
    resized = torch.nn.functional.interpolate(early, (2, 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(teacher(x), torch.cat([resized, last], dim=1))


def test_other_sizes_work_and_wrong_ones_are_refused() -> None:
    teacher = load_teacher("vit_small_patch14_dinov2", random=True, input_size=56)
    assert teacher(torch.rand(1, 1, 28, 84)).shape == (1, 768, 2, 6)
    with pytest.raises(ValueError, match="multiples of 14"):
        teacher(torch.rand(1, 1, 60, 56))
    with pytest.raises(ValueError, match="takes"):
        teacher(torch.rand(1, 3, 56, 56))
    with pytest.raises(BundleConfigError, match="the teacher has 12"):
        load_teacher("vit_small_patch14_dinov2", random=True, blocks=13)


@pytest.mark.parametrize(
    "spec", ["vit_base_patch16_dinov3.lvd1689m", "resnet18", "facebook/dinov3-vitb16-pretrain-lvd1689m"]
)
def test_an_unreachable_hub_is_said_within_seconds(spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(HubUnreachableError) as caught:
        load_teacher(spec)
    assert time.monotonic() - start < 10
    assert spec in caught.value.message
    assert "refused" in caught.value.message
    assert "local copy" in caught.value.remedy
    assert "sonodistill weights fetch dinov2_vits14" in caught.value.remedy


def test_local_specs_never_ask_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_args, **_kwargs):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub.huggingface_hub.utils, "get_session", forbidden)
    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", forbidden)
    model = timm.create_model("vit_tiny_patch16_224")
    save_file(model.state_dict(), tmp_path / "t.safetensors")
    teacher = load_teacher(tmp_path / "t.safetensors", architecture="vit_tiny_patch16_224")
    assert torch.equal(teacher.backbone.model.cls_token, model.cls_token)


def test_a_file_of_another_architecture_is_refused_with_both_names(tmp_path: Path) -> None:
    state = timm.create_model("vit_tiny_patch16_224").state_dict()
    save_file(state, tmp_path / "anonymous.safetensors")
    with pytest.raises(WeightsError, match="does not say which architecture"):
        load_teacher(tmp_path / "anonymous.safetensors")
    with pytest.raises(WeightsError, match=r"vit_small_patch14_dinov2 was asked for.*starts with blocks") as caught:
        load_teacher(tmp_path / "anonymous.safetensors", architecture="vit_small_patch14_dinov2")
    assert "architecture=" in caught.value.remedy
    save_file(state, tmp_path / "named.safetensors", metadata={"architecture": "timm vit_tiny_patch16_224"})
    load_teacher(tmp_path / "named.safetensors")
    with pytest.raises(WeightsError, match="vit_tiny_patch16_224, but vit_base_patch16_dinov3"):
        load_teacher(tmp_path / "named.safetensors", architecture="vit_base_patch16_dinov3")


def test_missing_paths_and_unknown_names_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_teacher(tmp_path / "t.pth")
    with pytest.raises(WeightsError, match="no such file or folder"):
        load_teacher(tmp_path / "folder")
    with pytest.raises(WeightsError, match=r"no config\.json"):
        load_teacher(tmp_path)
    with pytest.raises(BundleConfigError, match="did you mean"):
        load_teacher("vit_base_patch16_dinov4")


def test_offline_teacher_that_was_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONODISTILL_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="sonodistill weights fetch dinov2_vits14"):
        load_teacher("dinov2_vits14")


def test_real_dinov2_weights_tell_images_apart(shared: Path) -> None:
    teacher = load_teacher(shared / "weights" / "dinov2_vits14.fp16.safetensors", input_size=196)
    target = teacher(torch.stack([torch.zeros(1, 196, 196), torch.rand(1, 196, 196)]))
    assert target.shape == (2, 768, 14, 14)
    assert target.isfinite().all()
    assert (target[0] - target[1]).abs().mean() > 0.5
    assert "Apache" in teacher.licence_notice
