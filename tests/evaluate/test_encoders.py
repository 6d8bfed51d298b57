"""Encoders are found by row or by architecture, load from their files, and have one shape."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.networks.encoder import Encoder
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.evaluate.encoders.load import default_blocks, load_encoder, parse_encoder
from sonodistill_training.evaluate.encoders.rows import NOTHING, RANDOM, REAL, rows


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    save_weights(path, Encoder("resnet18").model.state_dict(), WeightsInfo("encoder", "resnet18"))
    return path


def test_every_encoder_of_both_papers_is_a_row() -> None:
    table = rows()
    families = ("R50-Rand", "R50-ImageNet", "R50-Distill-Default", "R50-Distill-US", "R18-Rand", "R18-Distill-US")
    others = ("ConvNeXt-Tiny-Rand", "ConvNeXt-Tiny-Distill-US", "DINOv3 ViT-B/16", "DINOv2", "DINOv2 ViT-S/14", "iBOT")
    published = ("UltraDINO ViT-S/16", "UltraDINO ViT-B/16", "USFM ViT-B/16", "Temporal SAM2 Hiera-B+", "LightlyTrain")
    assert {*families, *others, *published} <= table.keys()


@pytest.mark.parametrize("name", rows())
def test_a_row_says_what_a_reader_has_to_know(name: str) -> None:
    row = rows()[name]
    assert row.paper in ("A", "B", "ours") and row.status in (REAL, RANDOM, NOTHING)
    assert row.source and row.licence
    assert row.family in ("cnn", "vit", "hierarchical") or not row.architecture
    assert not row.architecture or timm.is_model(row.architecture.split(".")[0])
    assert (row.weights == "random") == (row.status == NOTHING)


def test_a_row_has_one_name_and_one_alias_that_no_other_row_has() -> None:
    names = [name.lower() for row in rows().values() for name in {row.name, row.alias}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("text", ["DINOv3 ViT-B/16", "DINOv3", "dinov3"])
def test_a_row_is_found_by_its_name_and_its_alias(text: str) -> None:
    spec = parse_encoder(text)
    assert (spec.name, spec.architecture, spec.hub) == ("DINOv3 ViT-B/16", "vit_base_patch16_dinov3.lvd1689m", True)
    assert spec.key() == "hub:vit_base_patch16_dinov3.lvd1689m"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("R50-Distil-US", BundleConfigError, "no row 'R50-Distil-US'.*did you mean R50-Distill-US"),
        ("resnet34", BundleConfigError, "write NAME:resnet34 for random weights"),
        ("", BundleConfigError, "does not name an encoder"),
        ("X:=a.pth", BundleConfigError, "does not name an encoder"),
        ("X:resnet18=", BundleConfigError, "does not name an encoder"),
        ("X:resnet81", BundleConfigError, "no model 'resnet81'"),
        ("USFM", WeightsError, "needs a file.*USFM_latest.pth"),
        ("LightlyTrain:resnet18", WeightsError, "needs a file.*exported_last.pt"),
        ("USFM=hub", WeightsError, "needs a file"),
        ("R50-Rand=a.safetensors", BundleConfigError, "takes no file"),
        ("R18-Rand:resnet50", BundleConfigError, "is of resnet18, not of resnet50"),
        ("USFM=nowhere.pth", WeightsError, "nowhere.pth: there is no such file"),
    ],
)
def test_a_text_that_names_no_encoder_is_refused_with_what_to_write(text: str, error: type, words: str) -> None:
    with pytest.raises(error, match=f"(?s){words}"):
        parse_encoder(text)


def test_an_export_needs_its_architecture(student: Path) -> None:
    with pytest.raises(BundleConfigError, match="LightlyTrain:resnet50=FILE"):
        parse_encoder(f"LightlyTrain={student}")


def test_the_key_follows_the_content_and_not_the_place(tmp_path: Path, student: Path) -> None:
    copy = tmp_path / "other name.safetensors"
    copy.write_bytes(student.read_bytes())
    assert parse_encoder(f"R18-Distill-US={copy}").key() == parse_encoder(f"R18-Distill-US={student}").key()
    save_weights(copy, Encoder("resnet18").model.state_dict(), WeightsInfo("encoder", "resnet18"))
    assert parse_encoder(f"R18-Distill-US={copy}").key() != parse_encoder(f"R18-Distill-US={student}").key()


def test_random_encoders_of_two_architectures_have_two_keys() -> None:
    assert parse_encoder("X:resnet18").key() == "random:resnet18"
    assert parse_encoder("X:resnet18").key() != parse_encoder("X:resnet34").key()
    assert parse_encoder("R18-Rand").is_random


def test_a_random_encoder_is_the_seeds_and_takes_no_randomness_of_others() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (load_encoder("R18-Rand", input_size=64, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.conv1.weight"], other["model.conv1.weight"])


def test_a_student_of_ours_loads_with_its_weights(student: Path, x: torch.Tensor) -> None:
    reference = Encoder("resnet18", student).eval()
    for text in (f"R18-Distill-US={student}", f"Mine={student}", f"Mine:resnet18={student}"):
        encoder = load_encoder(text, input_size=64).eval()
        torch.testing.assert_close(encoder.pyramid(x), reference.pyramid(x))
    assert (encoder.input_multiple, encoder.reductions, encoder.num_features) == (32, (2, 4, 8, 16, 32), 512)


def test_an_export_of_lightly_train_loads(tmp_path: Path, x: torch.Tensor) -> None:
    # exported_last.pt: an ordered mapping of a timm or torchvision network's names, the classifier with them
    model = timm.create_model("resnet18", num_classes=1000).eval()
    torch.save(OrderedDict(model.state_dict()), tmp_path / "exported_last.pt")
    encoder = load_encoder(f"LightlyTrain:resnet18={tmp_path / 'exported_last.pt'}", input_size=64).eval()
    expected = model.forward_features(((x - 0.449) / 0.226).expand(-1, 3, -1, -1))
    torch.testing.assert_close(encoder(x), expected)


@pytest.mark.parametrize(
    "text", ["R50-ImageNet", "R50-Distill-US", "LightlyTrain:resnet50", "ConvNeXt-Tiny-Distill-US"]
)
def test_a_file_of_another_architecture_names_the_row_and_where_to_get_the_right_one(text: str, student: Path) -> None:
    with pytest.raises(WeightsError, match=rf"for {text.split(':')[0]}: .*resnet18") as caught:
        load_encoder(f"{text}={student}", input_size=64)
    row = parse_encoder(f"{text}={student}").row
    assert caught.value.path == student
    assert row is not None and row.source in caught.value.remedy


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


@pytest.mark.parametrize("text", ["USFM", "SAM2", "iBOT-B", "LightlyTrain:resnet18"])
def test_a_file_that_wants_to_run_code_or_is_damaged_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": RunsCode()}, tmp_path / "unsafe.pth")
    with pytest.raises(WeightsError, match="code from the file"):
        load_encoder(f"{text}=unsafe.pth", input_size=64)
    assert not (tmp_path / "was-run").exists()
    (tmp_path / "torn.pth").write_bytes((tmp_path / "unsafe.pth").read_bytes()[:200])
    with pytest.raises(WeightsError, match="torn.pth"):
        load_encoder(f"{text}=torn.pth", input_size=64)


def test_any_timm_vit_is_a_pyramid_at_the_stride_of_its_patches(x: torch.Tensor) -> None:
    encoder = load_encoder("Mine:vit_tiny_patch16_224", input_size=64, seed=3)
    maps = encoder.pyramid(x)
    assert [tuple(m.shape) for m in maps] == [(2, 192, 4, 4)] * 4
    assert (encoder.channels, encoder.reductions, encoder.input_multiple) == ((192,) * 4, (16,) * 4, 16)
    assert encoder.num_features == 192
    torch.testing.assert_close(encoder(x), maps[-1])
    assert [tuple(m.shape[2:]) for m in encoder.pyramid(torch.rand(1, 1, 32, 96))] == [(2, 6)] * 4
    chosen = load_encoder("Mine:vit_tiny_patch16_224", input_size=64, blocks=[5, 11], seed=3).pyramid(x)
    torch.testing.assert_close(chosen, [maps[1], maps[3]])


def test_every_parameter_of_a_vit_can_be_trained(x: torch.Tensor) -> None:
    encoder = load_encoder("Mine:vit_tiny_patch16_224", input_size=64).train()
    sum(m.square().mean() for m in encoder.pyramid(x)).backward()
    assert {name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()} == set()


def test_stochastic_depth_is_on_only_while_a_vit_is_trained(x: torch.Tensor) -> None:
    encoder = load_encoder("Mine:vit_tiny_patch16_224", input_size=64, drop_path_rate=0.5).train()
    torch.manual_seed(0)
    assert not torch.equal(encoder(x), encoder(x))
    encoder.eval()
    assert torch.equal(encoder(x), encoder(x))


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 64, 60)])
def test_an_image_that_a_vit_cannot_take_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiples of 16, not"):
        load_encoder("Mine:vit_tiny_patch16_224", input_size=64)(torch.rand(shape))


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("X:vit_tiny_patch16_224", {"blocks": [5, 12]}, "the blocks 0 to 11"),
        ("X:vit_tiny_patch16_224", {"blocks": [5, 3]}, "from the first to the last"),
        ("X:resnet18", {"blocks": [1]}, "only a ViT's blocks"),
        ("X:vit_small_patch14_dinov2", {"input_size": 100}, "take an input size of 98 or 112"),
    ],
)
def test_blocks_and_sizes_that_cannot_be_are_refused(text: str, options: dict, words: str) -> None:
    with pytest.raises(BundleConfigError, match=words):
        load_encoder(text, **{"input_size": 64, **options})


@given(depth=st.integers(1, 48))
def test_default_blocks_ascend_and_end_with_the_last(depth: int) -> None:
    blocks = default_blocks(depth)
    assert list(blocks) == sorted(set(blocks)) and blocks[0] >= 0 and blocks[-1] == depth - 1
    assert len(blocks) == 4 or depth < 6


def test_paper_bs_blocks_are_the_default() -> None:
    assert default_blocks(12) == (3, 5, 7, 11)


def test_the_real_dinov2_agrees_with_the_teacher(shared: Path) -> None:
    file = shared / "weights" / "dinov2_vits14.fp16.safetensors"
    images = torch.rand(1, 1, 56, 56, generator=torch.Generator().manual_seed(1))
    encoder = load_encoder(f"DINOv2-S={file}", input_size=56, blocks=[10, 11]).eval()
    target = load_teacher(file, blocks=2, input_size=56)(images)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(encoder.pyramid(images), 1), target)
    assert target.std() > 0.5
