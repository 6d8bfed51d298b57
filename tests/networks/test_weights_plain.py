"""A student's file in timm and in segmentation-models-pytorch, by the lines that docs/weights.md gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch

from sonodistill.errors import WeightsError
from sonodistill.networks.encoder import Encoder, load_encoder_weights, plain_state_dict
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, save_weights

DOCUMENT = Path(__file__).resolve().parents[2] / "monai_bundle" / "docs" / "weights.md"
TIMM, SMP = re.findall(r"```python\n(.+)\n```", DOCUMENT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["resnet18", "convnext_tiny", "mobilenetv4_conv_small"])
def student(request, tmp_path_factory) -> tuple[Encoder, Path]:
    """An encoder and its file."""
    return make_student(request.param, tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Encoder, Path]:
    """Of 0.2 M parameters; timm renames the stages of a ConvNeXt when it gives features."""
    return make_student("test_convnext", tmp_path_factory.mktemp("tiny"))


def make_student(name: str, folder: Path) -> tuple[Encoder, Path]:
    """An encoder that looks trained, also in its running statistics, and its file."""
    torch.manual_seed(0)
    encoder = Encoder(name, mean=0.3, std=0.2).eval()
    with torch.no_grad():
        for value in (*encoder.parameters(), *encoder.model.buffers()):
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    info = WeightsInfo("encoder", name, encoder.input.normalisation, recipe={"student": name})
    save_weights(folder / "student.safetensors", plain_state_dict(encoder), info)
    return encoder, folder / "student.safetensors"


def run(line: str, student: tuple[Encoder, Path], **names) -> dict:
    """Execute a documented line for this student; returns the names it defines."""
    encoder, path = student
    names |= {"timm": timm, "safetensors": safetensors}
    exec(line.replace("resnet18", encoder.name).replace("student.safetensors", path.as_posix()), names)
    return names


def maps_of(encoder: Encoder) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Three normalised channels by the documented formula, and what the encoder makes of the gray image."""
    image = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return ((image - 0.3) / 0.2).expand(-1, 3, -1, -1), encoder.pyramid(image)


def test_timm_loads_it_strictly_and_gives_the_same_maps(student) -> None:
    channels, expected = maps_of(student[0])
    model = run(TIMM, student)["encoder"].eval()
    with torch.no_grad():
        found = model(channels)
    assert len(found) == len(expected)
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=0)


def test_smp_loads_it_strictly_and_gives_the_same_maps(student) -> None:
    channels, expected = maps_of(student[0])
    unet = smp.Unet(f"tu-{student[0].name}", encoder_weights=None).eval()
    run(SMP, student, unet=unet)
    with torch.no_grad():
        found = unet.encoder(channels)[-len(expected) :]
    for ours, theirs in zip(expected, found, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=0)


@pytest.mark.parametrize("student", ["resnet18"], indirect=True)
def test_a_resnet_is_also_a_whole_timm_model_without_a_classifier(student) -> None:
    encoder, path = student
    channels, expected = maps_of(encoder)
    model = timm.create_model(encoder.name, num_classes=0, checkpoint_path=str(path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(channels), expected[-1])


@pytest.mark.parametrize("prefix", ["", "model."])
def test_our_encoder_reads_a_student_of_this_and_of_the_first_release(tiny, tmp_path: Path, prefix: str) -> None:
    encoder, _ = tiny
    assert_read_again(encoder, tmp_path, prefix)


def test_names_of_timms_own_that_start_with_model_are_kept(tmp_path: Path) -> None:
    encoder = Encoder("hiera_tiny_224")
    assert all(key.startswith("model.") for key in plain_state_dict(encoder))
    for prefix in ("", "encoder.model."):
        assert_read_again(encoder, tmp_path, prefix)


def assert_read_again(encoder: Encoder, folder: Path, prefix: str) -> None:
    """Write the encoder with a prefix before its names, overwrite it with zeros, and load the file into it."""
    saved = {prefix + key: value.clone() for key, value in plain_state_dict(encoder).items()}
    save_weights(folder / "s.safetensors", saved, WeightsInfo("encoder", encoder.name))
    encoder.load_state_dict({key: torch.zeros_like(value) for key, value in encoder.state_dict().items()})
    load_encoder_weights(encoder, folder / "s.safetensors")
    assert all(torch.equal(value, saved[prefix + key]) for key, value in plain_state_dict(encoder).items())


def test_a_segmenter_takes_the_encoder_of_a_plain_file(tiny) -> None:
    encoder, path = tiny
    segmenter = Segmenter(encoder.name, weights=path)
    assert segmenter.encoder.input.normalisation == ((0.3,), (0.2,))
    assert all(torch.equal(value, segmenter.encoder.state_dict()[key]) for key, value in encoder.state_dict().items())


def test_a_plain_file_without_one_tensor_is_refused_by_its_name(tiny, tmp_path: Path) -> None:
    encoder, _ = tiny
    state = plain_state_dict(encoder)
    del state["stages_1.blocks.0.conv_dw.weight"]
    save_weights(tmp_path / "s.safetensors", state, WeightsInfo("encoder", encoder.name))
    with pytest.raises(WeightsError, match=r"1 missing \(stages.1.blocks.0.conv_dw.weight"):
        Encoder(encoder.name, tmp_path / "s.safetensors")
