"""Encoders: the published sizes, the pyramid's shapes, and which weights files go in and which do not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from sonodistill.errors import BundleConfigError, HubUnreachableError, WeightsError
from sonodistill.networks import hub
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder, GrayInput
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, save_weights


@pytest.mark.parametrize(
    ("name", "millions", "features", "reductions"),
    [
        ("resnet50", 23.508, 2048, (2, 4, 8, 16, 32)),
        ("resnet18", 11.177, 512, (2, 4, 8, 16, 32)),
        ("convnext_tiny", 27.819, 768, (4, 8, 16, 32)),
        ("mobilenetv4_conv_small", 1.262, 960, (2, 4, 8, 16, 32)),
        ("swin_tiny_patch4_window7_224", 27.519, 768, (4, 8, 16, 32)),
    ],
)
def test_size_and_pyramid(name: str, millions: float, features: int, reductions: tuple[int, ...]) -> None:
    encoder = Encoder(name).eval()
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(millions, abs=2e-3)
    assert (encoder.num_features, encoder.reductions, encoder.name) == (features, reductions, name)
    x = torch.rand(1, 1, 224, 224)
    with torch.no_grad():
        maps = encoder.pyramid(x)
        last = encoder(x)
    assert [m.shape[1] for m in maps] == list(encoder.channels)
    assert [224 // m.shape[2] for m in maps] == list(reductions)
    torch.testing.assert_close(last, maps[-1])


def test_gray_input_equals_normalising_replicated_channels() -> None:
    x = torch.rand(2, 1, 4, 4)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (x.repeat(1, 3, 1, 1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(GrayInput(mean, std)(x), expected)
    assert GrayInput(mean, std).normalisation == (mean, std)
    assert GrayInput(0.2, 0.1)(x).shape == (2, 3, 4, 4)
    assert not GrayInput().state_dict()
    with pytest.raises(BundleConfigError, match="2 values"):
        GrayInput((0.1, 0.2))


@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_a_timm_file_with_its_classifier_goes_in_and_gives_timms_features(tmp_path: Path, name: str) -> None:
    model = timm.create_model(name).eval()
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    encoder = Encoder(name, weights=tmp_path / "timm.pth").eval()
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        expected = model.forward_intermediates(encoder.input(x), indices=1, intermediates_only=True)[0]
        torch.testing.assert_close(encoder(x), expected)


def test_a_torchvision_file_goes_in(tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    save_file(torchvision.models.resnet18().state_dict(), tmp_path / "tv.safetensors")
    encoder = Encoder("resnet18", weights=str(tmp_path / "tv.safetensors"))
    assert encoder.input.normalisation == ((0.449,), (0.226,))


@pytest.mark.parametrize("kind", ["encoder", "segmenter", "classifier"])
def test_the_encoder_is_taken_out_of_any_of_our_files_with_its_normalisation(tmp_path: Path, kind: str) -> None:
    network = {"encoder": Encoder, "segmenter": Segmenter, "classifier": Classifier}[kind]("resnet18")
    path = tmp_path / "ours.safetensors"
    save_weights(path, network.state_dict(), WeightsInfo(kind, "resnet18", ((0.2,), (0.3,))))
    source = network if kind == "encoder" else network.encoder
    encoder = Encoder("resnet18.a1_in1k", weights=path)
    assert encoder.input.normalisation == ((0.2,), (0.3,))
    assert all(torch.equal(v, source.state_dict()[k]) for k, v in encoder.state_dict().items())
    assert Encoder("resnet18", path, mean=0.5, std=0.25).input.normalisation == ((0.5,), (0.25,))


def test_another_architecture_is_refused_by_name_or_by_its_keys(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    save_weights(path, Encoder("resnet18").state_dict(), WeightsInfo("encoder", "resnet18"))
    with pytest.raises(WeightsError, match=r"resnet18.*resnet50"):
        Encoder("resnet50", path)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "r18.pth")
    with pytest.raises(WeightsError, match=r"asked for is resnet50.*missing \(layer1.0.bn3"):
        Encoder("resnet50", tmp_path / "r18.pth")


def test_the_first_blocks_of_a_deeper_network_are_refused(tmp_path: Path) -> None:
    # Every key of ResNet-18 is in ResNet-34 with the same shape: only the blocks beyond tell them apart.
    torch.save(timm.create_model("resnet34").state_dict(), tmp_path / "r34.pth")
    with pytest.raises(WeightsError, match="too many"):
        Encoder("resnet18", tmp_path / "r34.pth")


def test_a_teacher_file_is_no_encoder(tmp_path: Path) -> None:
    save_weights(tmp_path / "t.safetensors", {"a": torch.ones(1)}, WeightsInfo("teacher", "resnet18"))
    with pytest.raises(WeightsError, match="holds a teacher"):
        Encoder("resnet18", tmp_path / "t.safetensors")


def test_unknown_names_and_models_without_a_pyramid_are_refused() -> None:
    with pytest.raises(BundleConfigError, match="did you mean"):
        Encoder("resnet5o")
    with pytest.raises(BundleConfigError, match="strides"):
        Encoder("vit_tiny_patch16_224")


def test_imagenet_weights_without_a_hub_fail_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(HubUnreachableError, match=r"resnet18.*127\.0\.0\.1.*no copy is cached") as caught:
        Encoder("resnet18", "imagenet")
    assert time.monotonic() - start < 10
    assert "path of a file" in caught.value.remedy
