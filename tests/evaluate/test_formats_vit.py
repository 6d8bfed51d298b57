"""Checkpoints of DINOv2, DINOv3, iBOT and UltraDINO in their published naming give their networks' features by row."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from sonodistill.errors import WeightsError
from sonodistill_training.evaluate.encoders.load import load_encoder, parse_encoder

transformers = pytest.importorskip("transformers")

BLOCKS = (3, 5, 7, 11)
IMAGENET = [torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]


def image(side: int) -> torch.Tensor:
    return torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(1))


def shaken(model: nn.Module) -> nn.Module:
    """The network with every parameter moved, so that none is what any network starts from."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


@torch.no_grad()
def maps_by_hand(model: nn.Module, x: torch.Tensor, patch: int, blocks: tuple[int, ...] = BLOCKS) -> list[torch.Tensor]:
    """What leaves each block, through the final norm, the patches laid out as a map."""
    kept: dict[int, torch.Tensor] = {}
    for i in blocks:
        model.blocks[i].register_forward_hook(lambda _m, _i, out, i=i: kept.__setitem__(i, out))
    model.forward_features(x)
    h, w = x.shape[-2] // patch, x.shape[-1] // patch
    tokens = [model.norm(kept[i])[:, -h * w :] for i in blocks]
    return [t.transpose(1, 2).reshape(len(x), -1, h, w) for t in tokens]


def vit_small(patch: int, side: int, **options) -> nn.Module:
    options = {"patch_size": patch, "img_size": side, "num_classes": 0, **options}
    return shaken(timm.create_model("vit_small_patch16_224", **options))


def original(model: nn.Module) -> dict[str, torch.Tensor]:
    """facebookresearch's names of a ViT with registers, where the class token has a position of its own."""
    state = model.state_dict()
    registers = state.pop("reg_token", None)
    if registers is not None:
        position = torch.full_like(state["cls_token"], 0.1)
        state |= {"register_tokens": registers, "cls_token": state["cls_token"] - position}
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    return state


def assert_pyramid(spec: str, x: torch.Tensor, expected: list[torch.Tensor]) -> None:
    with torch.no_grad():
        maps = load_encoder(spec, input_size=x.shape[-1]).eval().pyramid(x)
    assert all(m.std() > 0.1 for m in expected)
    torch.testing.assert_close(maps, expected, atol=2e-4, rtol=2e-4)


def test_dinov2_as_published(tmp_path: Path) -> None:
    model = vit_small(14, 56, init_values=1.0)
    # dinov2_vits14_pretrain.pth: flat, "ls1.gamma", and a mask token
    torch.save(original(model) | {"mask_token": torch.ones(1, 384)}, tmp_path / "dinov2_vits14_pretrain.pth")
    x = image(56)
    expected = maps_by_hand(model, (x - IMAGENET[0]) / IMAGENET[1], 14)
    assert_pyramid(f"DINOv2-S={tmp_path / 'dinov2_vits14_pretrain.pth'}", x, expected)


def test_ibot_as_published(tmp_path: Path) -> None:
    model = vit_small(16, 64)
    torch.save({"state_dict": original(model)}, tmp_path / "checkpoint_teacher.pth")
    x = image(64)
    expected = maps_by_hand(model, (x - IMAGENET[0]) / IMAGENET[1], 16)
    assert_pyramid(f"iBOT-S={tmp_path / 'checkpoint_teacher.pth'}", x, expected)


@pytest.fixture(scope="module")
def ultradino(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    model = vit_small(16, 64, in_chans=1, reg_tokens=4, no_embed_class=True, init_values=1.0)
    named = {f"backbone.{key}": value for key, value in original(model).items()}
    named |= {"backbone.mask_token": torch.zeros(1, 384), "dino_head.mlp.0.weight": torch.ones(8, 384)}
    path = tmp_path_factory.mktemp("ultradino") / "teacher_checkpoint.pth"
    torch.save({"teacher": named}, path)
    return path, model


def test_ultradino_as_published_with_one_gray_channel(ultradino: tuple[Path, nn.Module]) -> None:
    path, model = ultradino
    x = image(64)
    assert_pyramid(f"UltraDINO-S={path}", x, maps_by_hand(model, (x - 0.1843) / 0.2188, 16))


def test_the_small_vits_file_is_refused_for_the_base_vits_row(ultradino: tuple[Path, nn.Module]) -> None:
    with pytest.raises(WeightsError, match="for UltraDINO ViT-B/16: .*width 768.*holds a ViT of width 384") as caught:
        load_encoder(f"UltraDINO-B={ultradino[0]}", input_size=64)
    assert "jakobamb/UltraDINO" in caught.value.remedy


def dinov3_original(model: nn.Module, bias: float) -> dict[str, torch.Tensor]:
    """facebookresearch's names of a DINOv3, from timm's."""
    out = {}
    for key, value in model.state_dict().items():
        key = key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        out[key.replace("reg_token", "storage_tokens")] = value
    width = out["cls_token"].shape[-1]
    for i in range(len(model.blocks)):
        out[f"blocks.{i}.attn.qkv.bias"] = torch.full((3 * width,), bias)
        out[f"blocks.{i}.attn.qkv.bias_mask"] = torch.full((3 * width,), float("nan"))
    return out | {"mask_token": torch.zeros(1, width), "rope_embed.periods": torch.ones(16)}


def test_dinov3_as_published(tmp_path: Path) -> None:
    model = shaken(timm.create_model("vit_base_patch16_dinov3", num_classes=0))
    assert sum(p.numel() for p in model.parameters()) == 85_641_216
    torch.save(dinov3_original(model, 0.0), tmp_path / "dinov3_vitb16_pretrain.pth")
    x = image(32)
    expected = maps_by_hand(model, (x - IMAGENET[0]) / IMAGENET[1], 16)
    assert_pyramid(f"DINOv3={tmp_path / 'dinov3_vitb16_pretrain.pth'}", x, expected)
    (tmp_path / "dinov3_vitb16_pretrain.pth").unlink()


def test_biases_that_timms_network_would_lose_are_refused(tmp_path: Path) -> None:
    model = timm.create_model("vit_small_patch16_dinov3", num_classes=0)
    torch.save(dinov3_original(model, 0.5), tmp_path / "dinov3.pth")
    with pytest.raises(WeightsError, match="biases that are not zero"):
        load_encoder(f"Mine:vit_small_patch16_dinov3={tmp_path / 'dinov3.pth'}", input_size=32)


def dinov3_folder(folder: Path, **settings) -> nn.Module:
    settings = {
        "hidden_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "num_register_tokens": 4,
        **settings,
    }
    config = transformers.DINOv3ViTConfig(patch_size=16, intermediate_size=96, **settings)
    torch.manual_seed(0)
    model = shaken(transformers.DINOv3ViTModel(config))
    model.save_pretrained(folder)
    return model


def test_a_transformers_folder_of_dinov3(tmp_path: Path) -> None:
    model = dinov3_folder(tmp_path)
    kept: list[torch.Tensor] = []
    for i in (1, 2, 3, 5):
        model.model.layer[i].register_forward_hook(
            lambda _m, _i, out: kept.append(out[0] if isinstance(out, tuple) else out)
        )
    x = image(64)
    with torch.no_grad():
        model((x - IMAGENET[0]) / IMAGENET[1])
        expected = [model.norm(t)[:, 5:].transpose(1, 2).reshape(1, 48, 4, 4) for t in kept]
    assert_pyramid(f"Mine={tmp_path}", x, expected)
    encoder = load_encoder(f"Mine={tmp_path}", input_size=64).train()
    first, again = encoder(x), encoder(x)
    assert torch.equal(first, again)  # no random rescaling of positions
    first.square().mean().backward()
    assert all(p.grad is not None for name, p in encoder.named_parameters() if "mask_token" not in name)


def test_a_folder_of_another_vit_is_refused_for_the_row(tmp_path: Path) -> None:
    dinov3_folder(tmp_path)
    with pytest.raises(WeightsError, match="for DINOv3 ViT-B/16: .*a dinov3_vit of width 48 with 6 blocks"):
        load_encoder(f"DINOv3={tmp_path}", input_size=64)


def test_the_parameters_of_dinov3_are_the_published_number() -> None:
    with torch.device("meta"):
        config = transformers.DINOv3ViTConfig(
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            patch_size=16,
            num_register_tokens=4,
        )
        model = transformers.DINOv3ViTModel(config)
        of_timm = timm.create_model("vit_base_patch16_dinov3", num_classes=0)
    assert sum(p.numel() for p in model.parameters()) == 85_660_416
    assert round(sum(p.numel() for p in of_timm.parameters()) / 1e6, 3) == 85.641


def test_the_key_of_a_folder_is_of_its_tensors_and_settings(tmp_path: Path) -> None:
    keys = []
    for name, settings in itertools.product(("a", "b"), ({"rope_theta": 100.0}, {"rope_theta": 50.0})):
        folder = tmp_path / f"{name}{settings['rope_theta']}"
        dinov3_folder(folder, num_hidden_layers=1, **settings)
        (folder / "README.md").write_text(name, encoding="utf-8")
        keys.append(parse_encoder(f"Mine={folder}").key())
    assert len(set(keys)) == 2
