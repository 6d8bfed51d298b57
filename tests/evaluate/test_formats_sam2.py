"""The image encoder of a SAM 2 checkpoint, of the sam2 package or of transformers, gives transformers' features."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sonodistill.errors import WeightsError
from sonodistill_training.evaluate.encoders.load import load_encoder

transformers = pytest.importorskip("transformers")

MEAN, STD = ((torch.tensor(v).view(1, 3, 1, 1)) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
SIDE = 64

# transformers' names to those of the sam2 package
PACKAGE = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"layer_norm(\d)\.", r"norm\1."),
    (r"mlp\.proj_in\.", "mlp.layers.0."),
    (r"mlp\.proj_out\.", "mlp.layers.1."),
)
# What the rest of a checkpoint looks like.
REST = ("image_encoder.neck.convs.0.conv.weight", "sam_mask_decoder.iou_token.weight", "memory_attention.norm.weight")


def package_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    out = {}
    for key, value in state.items():
        for pattern, replacement in PACKAGE:
            key = re.sub(pattern, replacement, key)
        out[f"image_encoder.trunk.{key}"] = value
    return out | {key: torch.ones(2) for key in REST}


@pytest.fixture(scope="module")
def network():
    """SAM 2's smallest image encoder, random."""
    torch.manual_seed(0)
    model = transformers.Sam2HieraDetModel(transformers.Sam2HieraDetConfig())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


@pytest.fixture(scope="module")
def expected(network) -> list[torch.Tensor]:
    with torch.no_grad():
        maps = network((image() - MEAN) / STD).intermediate_hidden_states
    return [m.permute(0, 3, 1, 2) for m in maps]


def image() -> torch.Tensor:
    return torch.rand(1, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def assert_pyramid(spec: str, expected: list[torch.Tensor]) -> None:
    with torch.no_grad():
        maps = load_encoder(spec, input_size=SIDE).eval().pyramid(image())
    assert all(m.std() > 0.1 for m in expected)
    torch.testing.assert_close(maps, expected, atol=5e-4, rtol=5e-4)


@pytest.mark.parametrize("before", ["", "sam2."], ids=["published", "within another network"])
def test_a_checkpoint_of_the_sam2_package(tmp_path: Path, network, expected: list[torch.Tensor], before: str) -> None:
    state = {before + key: value for key, value in package_names(network.state_dict()).items()}
    torch.save({"model": state}, tmp_path / "sam2_hiera_tiny.pt")
    assert_pyramid(f"Mine:sam2_hiera_tiny={tmp_path / 'sam2_hiera_tiny.pt'}", expected)


@pytest.mark.parametrize("part", ["vision_encoder.backbone.", "backbone."], ids=["Sam2Model", "Sam2VisionModel"])
def test_a_folder_of_transformers(tmp_path: Path, network, expected: list[torch.Tensor], part: str) -> None:
    state = {part + key: value for key, value in network.state_dict().items()}
    neck = part.replace("backbone.", "neck.convs.0.weight")
    save_file(state | {neck: torch.ones(2)}, tmp_path / "model.safetensors")
    kind = "sam2" if "vision" in part else "sam2_vision_model"
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}', encoding="utf-8")
    assert_pyramid(f"Mine:sam2_hiera_tiny={tmp_path}", expected)


def test_the_row_is_a_real_pyramid_that_can_be_trained(tmp_path: Path) -> None:
    with torch.device("meta"):
        shapes = timm.create_model("sam2_hiera_base_plus", num_classes=0).state_dict()
    generator = torch.Generator().manual_seed(0)
    names = {
        key: torch.rand(value.shape, generator=generator) / 10
        for key, value in shapes.items()
        if not key.startswith("head.")
    }
    published = {
        key.replace(".fc1.", ".layers.0.").replace(".fc2.", ".layers.1."): value for key, value in names.items()
    }
    path = tmp_path / "sam2_hiera_base_plus.pt"
    torch.save({"model": {f"image_encoder.trunk.{key}": value.half() for key, value in published.items()}}, path)
    encoder = load_encoder(f"SAM2={path}", input_size=SIDE)
    path.unlink()
    assert (encoder.channels, encoder.reductions) == ((112, 224, 448, 896), (4, 8, 16, 32))
    maps = encoder.pyramid(image())
    assert [tuple(m.shape) for m in maps] == [(1, 112, 16, 16), (1, 224, 8, 8), (1, 448, 4, 4), (1, 896, 2, 2)]
    own = encoder.model.state_dict()
    assert all(torch.equal(own[f"model.{key}"], value.half().float()) for key, value in names.items())
    maps[-1].mean().backward()
    assert encoder.model.model.patch_embed.proj.weight.grad.any()
    assert encoder.input.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_another_size_of_encoder_is_refused_for_the_row(tmp_path: Path, network) -> None:
    torch.save({"model": package_names(network.state_dict())}, tmp_path / "sam2_hiera_tiny.pt")
    with pytest.raises(WeightsError, match="for Temporal SAM2 Hiera-B.*: sam2_hiera_base_plus.*missing") as caught:
        load_encoder(f"SAM2={tmp_path / 'sam2_hiera_tiny.pt'}", input_size=SIDE)
    assert "facebookresearch/sam2" in caught.value.remedy


def test_a_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam"}', encoding="utf-8")
    with pytest.raises(WeightsError, match="holds a sam, not a SAM 2"):
        load_encoder(f"SAM2={tmp_path}", input_size=SIDE)
