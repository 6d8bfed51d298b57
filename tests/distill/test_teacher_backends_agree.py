"""timm and transformers give one target for the same weights; the original checkpoints' names are read on the way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sonodistill.errors import WeightsError
from sonodistill_training.distill.teacher import load_teacher

transformers = pytest.importorskip("transformers")

# transformers' names to those of the original DINOv2 and DINOv3 checkpoints
ORIGINAL = (
    (r"^embeddings\.patch_embeddings\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(encoder|model)\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.(o_proj|output\.dense)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
)


def original_names(state: dict[str, torch.Tensor], registers: str) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        if match := re.search(r"layer\.(\d+)\.attention\.(?:attention\.)?([qkv])\w*\.(weight|bias)$", key):
            parts.setdefault(f"blocks.{match[1]}.attn.qkv.{match[3]}", {})[match[2]] = value
            continue
        for pattern, replacement in ORIGINAL:
            key = re.sub(pattern, replacement, key)
        out[key.replace("register_tokens", registers)] = value
    for key, qkv in parts.items():
        out[key] = torch.cat([qkv["q"], qkv.get("k", torch.zeros_like(qkv["q"])), qkv["v"]])
    return out


def small(config: str, model: str, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    settings = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, **settings}
    network = getattr(transformers, model)(getattr(transformers, config)(**settings))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network


CASES = [
    (
        "vit_small_patch14_dinov2",
        "register_tokens",
        {"config": "Dinov2Config", "model": "Dinov2Model", "patch_size": 14, "image_size": 56},
    ),
    (
        "vit_small_patch14_reg4_dinov2",
        "register_tokens",
        {
            "config": "Dinov2WithRegistersConfig",
            "model": "Dinov2WithRegistersModel",
            "patch_size": 14,
            "image_size": 56,
        },
    ),
    (
        "vit_small_patch16_dinov3_qkvb",
        "storage_tokens",
        {
            "config": "DINOv3ViTConfig",
            "model": "DINOv3ViTModel",
            "patch_size": 16,
            "num_register_tokens": 4,
            "intermediate_size": 1536,
        },
    ),
]


@pytest.mark.parametrize("patches", [4, 3], ids=["pretraining size", "resampled size"])
@pytest.mark.parametrize(("architecture", "registers", "settings"), CASES, ids=[case[0] for case in CASES])
def test_backends_agree(tmp_path: Path, architecture: str, registers: str, settings: dict, patches: int) -> None:
    network = small(**settings)
    network.save_pretrained(tmp_path / "folder")
    torch.save({"teacher": original_names(network.state_dict(), registers)}, tmp_path / "original.pth")
    size = patches * settings["patch_size"]
    by_transformers = load_teacher(tmp_path / "folder", input_size=size)
    by_timm = load_teacher(tmp_path / "original.pth", architecture=architecture, input_size=size)
    x = torch.rand(2, 1, size, size)
    target = by_timm(x)
    assert target.shape == (2, 768, patches, patches)
    assert target.std() > 0.1
    torch.testing.assert_close(by_transformers(x), target, atol=1e-4, rtol=1e-4)
    assert (by_transformers.dim, by_transformers.patch_size) == (by_timm.dim, by_timm.patch_size)
    assert by_transformers.licence_notice == by_timm.licence_notice != ""


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    transformers.ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="is a vit"):
        load_teacher(tmp_path)


def test_a_folder_that_lacks_tensors_is_refused_not_filled_at_random(tmp_path: Path) -> None:
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    network = transformers.Dinov2Model(config)
    state = {key: value for key, value in network.state_dict().items() if "fc1" not in key}
    network.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(WeightsError, match=r"lacks 2 tensors: encoder\.layer\.0\.mlp\.fc1\.bias"):
        load_teacher(tmp_path)
