"""Checkpoints of DINO, iBOT, DINOv2 and UltraDINO trainings give the tokens of the trained network, or an error."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.distill.teacher import load_teacher

MEAN, STD = 0.1843, 0.2188
WIDTH, DEPTH = 192, 12

# What a training saves of a ViT, written down from its published code: shapes by name.
BLOCK = {
    "norm1.weight": (WIDTH,),
    "norm1.bias": (WIDTH,),
    "attn.qkv.weight": (3 * WIDTH, WIDTH),
    "attn.qkv.bias": (3 * WIDTH,),
    "attn.proj.weight": (WIDTH, WIDTH),
    "attn.proj.bias": (WIDTH,),
    "ls1.gamma": (WIDTH,),
    "norm2.weight": (WIDTH,),
    "norm2.bias": (WIDTH,),
    "mlp.fc1.weight": (4 * WIDTH, WIDTH),
    "mlp.fc1.bias": (4 * WIDTH,),
    "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
    "mlp.fc2.bias": (WIDTH,),
    "ls2.gamma": (WIDTH,),
}
HEADS = {
    "dino_head.mlp.0.weight": (8, WIDTH),
    "dino_head.mlp.0.bias": (8,),
    "dino_head.last_layer.weight_g": (16, 1),
    "dino_head.last_layer.weight_v": (16, 8),
    "ibot_head.mlp.0.weight": (8, WIDTH),
    "ibot_head.last_layer.weight_v": (16, 8),
}


def checkpoint_names(channels: int = 1, registers: int = 4, side: int = 4, patch: int = 16) -> dict[str, tuple]:
    """Names and shapes of a backbone that is not chunked."""
    names = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, side * side + 1, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, channels, patch, patch),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    if registers:
        names["register_tokens"] = (1, registers, WIDTH)
    return names | {f"blocks.{i}.{key}": shape for i in range(DEPTH) for key, shape in BLOCK.items()}


def random_checkpoint(**shape: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {key: torch.randn(size, generator=generator) * 0.1 for key, size in checkpoint_names(**shape).items()}
    return {key: value + 1 if "norm" in key or "gamma" in key else value for key, value in values.items()}


def network(state: dict[str, torch.Tensor]) -> VisionTransformer:
    """The checkpoint's network, its tensors put one by one where they belong."""
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    _, channels, patch, _ = state["patch_embed.proj.weight"].shape
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    model = VisionTransformer(
        img_size=side * patch,
        patch_size=patch,
        in_chans=channels,
        num_classes=0,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=3,
        init_values=1.0,
        reg_tokens=registers,
        no_embed_class=True,
    ).eval()
    own = {
        "cls_token": state["cls_token"] + state["pos_embed"][:, :1],
        "pos_embed": state["pos_embed"][:, 1:],
        **({"reg_token": state["register_tokens"]} if registers else {}),
    }
    same = {key: state[key] for key in model.state_dict() if key not in own}
    model.load_state_dict(own | same)
    return model


def tokens(model: VisionTransformer, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(model.forward_intermediates(x, indices=2, norm=True, intermediates_only=True), dim=1)


def chunked(state: dict[str, torch.Tensor], chunks: int, count_through: bool) -> dict[str, torch.Tensor]:
    size = DEPTH // chunks
    out = {}
    for key, value in state.items():
        if key.startswith("blocks."):
            _, i, rest = key.split(".", 2)
            inner = int(i) if count_through else int(i) % size
            key = f"blocks.{int(i) // size}.{inner}.{rest}"
        out[key] = value
    return out


def teacher_part(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"backbone.{key}": value for key, value in state.items()} | {k: torch.ones(v) for k, v in HEADS.items()}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random_checkpoint()


@pytest.fixture(scope="module")
def checkpoint(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ultradino") / "teacher_checkpoint.pth"
    torch.save({"teacher": teacher_part(state)}, path)
    return path


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def assert_same_tokens(
    path: Path, model: VisionTransformer, x: torch.Tensor, mean: float, std: float, **options
) -> None:
    target = load_teacher(path, input_size=x.shape[-1], **options)(x)
    channels = model.patch_embed.proj.in_channels
    expected = tokens(model, ((x - mean) / std).expand(-1, channels, -1, -1))
    assert expected.std() > 0.1
    torch.testing.assert_close(target, expected, atol=1e-4, rtol=1e-4)


def test_an_ultradino_checkpoint_gives_the_tokens_of_its_network(
    checkpoint: Path, state: dict[str, torch.Tensor], x: torch.Tensor
) -> None:
    assert_same_tokens(checkpoint, network(state), x, MEAN, STD)


def test_a_named_architecture_takes_on_registers_layer_scale_and_one_channel(checkpoint: Path) -> None:
    model = load_teacher(checkpoint, architecture="vit_tiny_patch16_224", input_size=64).backbone.model
    assert (model.patch_embed.proj.in_channels, model.num_reg_tokens, model.num_prefix_tokens) == (1, 4, 5)


@pytest.mark.parametrize(("chunks", "count_through"), [(1, True), (4, True), (4, False)])
def test_chunked_blocks_come_back_in_order(
    tmp_path: Path, state: dict[str, torch.Tensor], x: torch.Tensor, chunks: int, count_through: bool
) -> None:
    path = tmp_path / "teacher_checkpoint.pth"
    torch.save({"teacher": teacher_part(chunked(state, chunks, count_through))}, path)
    assert_same_tokens(path, network(state), x, MEAN, STD)


def test_the_teacher_is_taken_out_of_a_whole_training(
    tmp_path: Path, state: dict[str, torch.Tensor], x: torch.Tensor
) -> None:
    whole = {f"teacher.{key}": value for key, value in teacher_part(state).items()}
    whole |= {key.replace("teacher.", "student.", 1): value + 1 for key, value in whole.items()}
    whole = {key.replace("backbone.", "backbone._fsdp_wrapped_module."): value for key, value in whole.items()}
    torch.save({"model": whole | {"dino_loss.center": torch.zeros(1, 16)}, "iteration": 7}, tmp_path / "model.pth")
    assert_same_tokens(tmp_path / "model.pth", network(state), x, MEAN, STD)


@pytest.mark.parametrize("scale", ["ls{}.gamma", "gamma_{}", None], ids=["LayerScale", "iBOT's LayerScale", "none"])
def test_a_dino_or_ibot_teacher_beside_its_arguments(tmp_path: Path, x: torch.Tensor, scale: str | None) -> None:
    state = random_checkpoint(channels=3, registers=0)
    del state["mask_token"]
    if scale is None:
        state = {key: torch.ones_like(value) if "gamma" in key else value for key, value in state.items()}
    saved = {f"backbone.{key}": value for key, value in state.items() if scale or "gamma" not in key}
    for i in (1, 2):
        saved = {key.replace(f"ls{i}.gamma", (scale or "").format(i)): value for key, value in saved.items()}
    saved |= {"head.mlp.0.weight": torch.ones(8, WIDTH), "head.last_layer.weight_v": torch.ones(16, 8)}
    training = {"student": saved, "teacher": saved, "epoch": 3, "args": argparse.Namespace(arch="vit_tiny", lr=0.1)}
    torch.save(training, tmp_path / "checkpoint.pth")
    model = network(state)
    imagenet = [torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    assert_same_tokens(tmp_path / "checkpoint.pth", model, x, *imagenet)
    assert_same_tokens(tmp_path / "checkpoint.pth", model, x, *imagenet, architecture="vit_tiny_patch16_224")


def test_one_channel_equals_three_channels_of_a_third_of_the_weights(
    tmp_path: Path, checkpoint: Path, state: dict[str, torch.Tensor], x: torch.Tensor
) -> None:
    key = "patch_embed.proj.weight"
    torch.save({"teacher": teacher_part(state | {key: state[key].repeat(1, 3, 1, 1) / 3})}, tmp_path / "three.pth")
    three = load_teacher(tmp_path / "three.pth", input_size=64, mean=MEAN, std=STD)
    assert three.backbone.model.patch_embed.proj.in_channels == 3
    torch.testing.assert_close(load_teacher(checkpoint, input_size=64)(x), three(x), atol=1e-4, rtol=1e-4)


def test_the_normalisation_is_implied_recorded_or_given(tmp_path: Path, checkpoint: Path) -> None:
    assert load_teacher(checkpoint, input_size=64).input.normalisation == ((MEAN,), (STD,))
    assert load_teacher(checkpoint, input_size=64, mean=0.25, std=[0.5]).input.normalisation == ((0.25,), (0.5,))
    model = timm.create_model("vit_tiny_patch16_224")
    save_file(model.state_dict(), tmp_path / "timm.safetensors")
    plain = load_teacher(tmp_path / "timm.safetensors", architecture="vit_tiny_patch16_224", input_size=64)
    assert plain.input.normalisation == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    info = WeightsInfo("teacher", "vit_tiny_patch16_224", normalisation=((0.2,), (0.3,)))
    save_weights(tmp_path / "ours.safetensors", model.state_dict(), info)
    assert load_teacher(tmp_path / "ours.safetensors", input_size=64).input.normalisation == ((0.2,), (0.3,))


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [((0.485, 0.456, 0.406), 0.2, "takes one channel"), (0.2, 0.0, "cannot be given"), ((0.1, 0.2), 0.2, "2 values")],
)
def test_a_normalisation_that_cannot_be_is_refused(checkpoint: Path, mean, std, words: str) -> None:
    with pytest.raises(BundleConfigError, match=words):
        load_teacher(checkpoint, input_size=64, mean=mean, std=std)


def test_positions_are_resampled_to_another_input_size(checkpoint: Path, state: dict[str, torch.Tensor]) -> None:
    teacher = load_teacher(checkpoint, input_size=96)
    expected = resample_abs_pos_embed(state["pos_embed"][:, 1:], new_size=[6, 6], num_prefix_tokens=0)
    torch.testing.assert_close(teacher.backbone.model.pos_embed.data, expected)
    with pytest.raises(BundleConfigError, match="grid of 0 x 0"):
        load_teacher(checkpoint, input_size=15)


@pytest.mark.parametrize(
    ("architecture", "found"),
    [
        ("vit_small_patch16_224", "width 384.*holds a ViT of width 192"),
        ("vit_small_patch14_reg4_dinov2", "14-pixel patches, 4 register.*16-pixel patches of 1 channel"),
        ("vit_small_patch16_dinov3", "was asked for, the file holds a state dict"),
        ("resnet18", "was asked for, the file holds a state dict"),
    ],
)
def test_another_architecture_is_refused_with_what_was_found(checkpoint: Path, architecture: str, found: str) -> None:
    with pytest.raises(WeightsError, match=found) as caught:
        load_teacher(checkpoint, architecture=architecture, input_size=224)
    assert caught.value.path == checkpoint
    assert "architecture=" in caught.value.remedy


def test_registers_of_the_architecture_that_the_file_lacks_are_not_made_up(tmp_path: Path) -> None:
    torch.save({"teacher": teacher_part(random_checkpoint(registers=0))}, tmp_path / "t.pth")
    name = next(name for name in timm.list_models("vit_*reg4*") if name.startswith("vit_medium_patch16_reg4_gap"))
    with pytest.raises(WeightsError, match="0 register tokens"):
        load_teacher(tmp_path / "t.pth", architecture=name, input_size=64)


def test_a_patch_or_a_grid_that_is_not_square_is_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    oblong = state | {"patch_embed.proj.weight": torch.ones(WIDTH, 1, 16, 8)}
    torch.save({"teacher": teacher_part(oblong)}, tmp_path / "patch.pth")
    with pytest.raises(WeightsError, match=r"\(192, 1, 16, 8\), no square patch"):
        load_teacher(tmp_path / "patch.pth")
    torch.save({"teacher": teacher_part(state | {"pos_embed": torch.ones(1, 19, WIDTH)})}, tmp_path / "grid.pth")
    with pytest.raises(WeightsError, match=r"\(1, 19, 192\): no class token and a square grid"):
        load_teacher(tmp_path / "grid.pth")


def test_tensors_that_are_missing_are_named(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"teacher": teacher_part({k: v for k, v in state.items() if k != "norm.bias"})}, tmp_path / "t.pth")
    with pytest.raises(WeightsError, match=r"1 missing: norm\.bias"):
        load_teacher(tmp_path / "t.pth", input_size=64)


def test_a_width_without_a_name_is_said_with_what_was_found(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    shallow = {key: value for key, value in state.items() if not key.startswith("blocks.11.")}
    torch.save({"teacher": teacher_part(shallow)}, tmp_path / "t.pth")
    with pytest.raises(WeightsError, match="does not say which architecture.*width 192 with 11 blocks"):
        load_teacher(tmp_path / "t.pth")


def test_another_patch_size_is_refused_and_not_resampled(tmp_path: Path) -> None:
    model = timm.create_model("vit_small_patch32_224", num_classes=0).half()
    save_file(model.state_dict(), tmp_path / "t.safetensors")
    with pytest.raises(WeightsError, match="its patches are 32 x 32 pixels, not 16 x 16"):
        load_teacher(tmp_path / "t.safetensors", architecture="vit_small_patch16_224", input_size=64)


def test_a_training_of_ones_own_has_not_the_licence_of_timms_weights(checkpoint: Path) -> None:
    notice = load_teacher(checkpoint, architecture="vit_tiny_patch16_224", input_size=64).licence_notice
    assert "teacher_checkpoint.pth" in notice
    assert "apache" not in notice.lower()
