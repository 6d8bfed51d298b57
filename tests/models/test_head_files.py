"""Head files: a network whose encoder is a file of its own beside it is the same network, or it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import nn

from sonodistill.annotate.training.versions import Versions
from sonodistill.errors import WeightsError
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.click import ClickSegmenter
from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill.networks.unet import Segmenter
from sonodistill.networks.whole import load_into
from sonodistill.weights import (
    StateDict,
    WeightsInfo,
    load_torch_checkpoint,
    load_weights,
    read_info,
    read_metadata,
    save_head,
    save_weights,
)

NAME = "resnet10t"


def info_of(network: nn.Module) -> WeightsInfo:
    labels = {"segmenter": ("lesion",), "classifier": ("a", "b"), "interactive": ("lesion",)}
    kind = str(network.kind)
    return WeightsInfo(kind, NAME, input_size=(64, 64), labels=labels[kind], metrics={"dice": 0.5})


def networks() -> list[nn.Module]:
    torch.manual_seed(1)
    return [Segmenter(NAME), Classifier(NAME, classes=2), ClickSegmenter(NAME, 16)]


def encoder_of(network: nn.Module) -> StateDict:
    return plain_state_dict(network.encoder)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "shared.safetensors"
    save_weights(path, plain_state_dict(Encoder(NAME)), WeightsInfo("encoder", NAME))
    return path


@pytest.fixture
def head(encoder: Path) -> Path:
    """A segmenter on the shared encoder."""
    torch.manual_seed(2)
    network = Segmenter(NAME, weights=encoder)
    path = encoder.with_name("lesion.safetensors")
    save_head(path, network.state_dict(), info_of(network), encoder)
    return path


@pytest.mark.parametrize("which", range(3), ids=["segmenter", "classifier", "interactive"])
def test_every_kind_of_network_comes_back_whole_and_its_file_is_the_head_alone(encoder: Path, which: int) -> None:
    network = networks()[which]
    network.encoder.model.load_state_dict(load_weights(encoder)[0])
    path, info = encoder.with_name("head.safetensors"), info_of(network)
    save_head(path, network.state_dict(), info, encoder, more={"of_a_later_release": "kept"})
    state, found = load_weights(path)
    assert found == info, "the header of the whole names no other file"
    assert state.keys() == network.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert read_info(path).encoder_file == "shared.safetensors"
    assert read_metadata(path)["of_a_later_release"] == "kept"
    whole = encoder.with_name("whole.safetensors")
    save_weights(whole, network.state_dict(), info)
    assert whole.stat().st_size - path.stat().st_size > 0.95 * encoder.stat().st_size

    loaded, _ = load_network(path, kinds=(info.kind,))
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network.eval()(image))


def test_every_other_way_to_read_it_finds_the_whole(head: Path, encoder: Path, tmp_path: Path) -> None:
    whole, _ = load_weights(head)
    assert load_torch_checkpoint(head).keys() == whole.keys()
    network = Segmenter(NAME)
    load_into(network, head)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in whole.items())
    taken_out = plain_state_dict(Encoder(NAME, weights=head))
    assert all(torch.equal(taken_out[key], value) for key, value in load_weights(encoder)[0].items())


def test_a_version_of_the_annotation_server_is_the_whole_and_is_begun_with_once(head: Path, tmp_path: Path) -> None:
    versions = Versions(tmp_path / "work" / "segmentation")
    first = versions.begin_with(head)
    assert versions.begin_with(head).number == first.number == 1
    copied, info = load_weights(first.path)
    assert copied.keys() == load_weights(head)[0].keys()
    assert read_info(first.path).encoder_file == info.encoder_file == ""
    embedding = Versions(tmp_path / "work" / "embedding").begin_with(head)
    assert read_info(embedding.path).encoder_file == ""
    load_network(embedding.path)


def test_what_describes_the_encoders_file_alone_is_no_part_of_a_network(encoder: Path, tmp_path: Path) -> None:
    state, info = load_weights(encoder)
    save_weights(encoder, {**state, "familiarity.mean": torch.ones(3)}, info)
    network = Segmenter(NAME, weights=None)
    network.encoder.model.load_state_dict(state)
    path = tmp_path / "head.safetensors"
    save_head(path, network.state_dict(), info_of(network), encoder)
    assert load_weights(path)[0].keys() == network.state_dict().keys()


def test_an_encoder_that_was_trained_on_is_not_shared(encoder: Path, tmp_path: Path) -> None:
    network = Segmenter(NAME, weights=encoder)
    with torch.no_grad():
        next(network.encoder.model.parameters()).view(-1)[0] += 1e-6
    with pytest.raises(WeightsError, match=r"1 of \d+ tensors of the network's encoder are not those of shared"):
        save_head(tmp_path / "head.safetensors", network.state_dict(), info_of(network), encoder)
    assert not (tmp_path / "head.safetensors").exists()


def test_of_another_precision_is_another_encoder(encoder: Path, tmp_path: Path) -> None:
    network = Segmenter(NAME, weights=encoder).half()
    with pytest.raises(WeightsError, match="are not those of"):
        save_head(tmp_path / "head.safetensors", network.state_dict(), info_of(network), encoder)


def test_timm_and_smp_read_it_by_the_lines_of_the_model_card(head: Path, encoder: Path) -> None:
    held = timm.create_model(NAME, features_only=True, checkpoint_path=str(encoder)).state_dict()
    assert all(torch.equal(held[key], value) for key, value in load_file(encoder).items())
    unet = smp.Unet(f"tu-{NAME}", encoder_weights=None, in_channels=3, classes=1)
    state = load_file(head)
    state |= {f"encoder.model.{key}": value for key, value in load_file(encoder).items()}
    unet.load_state_dict({key: value for key, value in state.items() if not key.startswith("familiarity.")})


def test_it_is_written_only_beside_its_encoder(encoder: Path, tmp_path: Path) -> None:
    network = Segmenter(NAME, weights=encoder)
    with pytest.raises(WeightsError, match="beside"):
        save_head(tmp_path / "other" / "head.safetensors", network.state_dict(), info_of(network), encoder)


def test_without_its_encoder_or_with_another_it_is_refused_with_the_files_name(head: Path, encoder: Path) -> None:
    state, info = load_weights(encoder)
    encoder.rename(encoder.with_name("away.safetensors"))
    with pytest.raises(WeightsError, match=r"shared\.safetensors, which is not beside it") as missing:
        load_weights(head)
    assert missing.value.remedy
    assert missing.value.path == head

    first = next(iter(state))
    save_weights(encoder, {**state, first: state[first] + 1}, info)
    with pytest.raises(WeightsError, match="another encoder than the one it was made with"):
        load_weights(head)
    save_weights(encoder, state, replace(info, architecture="resnet18"))
    with pytest.raises(WeightsError, match="shared.safetensors beside it is encoder of resnet18"):
        load_weights(head)
    encoder.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="damaged"):
        load_weights(head)


def test_a_damaged_encoder_is_noticed(head: Path, encoder: Path) -> None:
    content = bytearray(encoder.read_bytes())
    content[-1] ^= 1
    encoder.write_bytes(content)
    with pytest.raises(WeightsError, match="digest"):
        load_weights(head)


def test_a_head_does_not_stand_for_an_encoder_of_another_head(head: Path, encoder: Path) -> None:
    state, info = load_weights(encoder)
    chained = replace(info, encoder_file="lesion.safetensors", encoder_sha256="0" * 64)
    save_weights(encoder, state, chained)
    with pytest.raises(WeightsError, match="beside it is encoder"):
        load_weights(head)


@pytest.mark.parametrize(
    "name", ["../shared.safetensors", "/etc/shared.safetensors", r"..\shared.safetensors", "C:x.safetensors", "a.pt",
             ".hidden.safetensors", "a\0.safetensors", "x" * 200 + ".safetensors"]
)  # fmt: skip
def test_a_name_that_is_a_path_is_refused_before_anything_is_opened(name: str) -> None:
    with pytest.raises(WeightsError, match="encoder_file: .* is no plain file name"):
        WeightsInfo("segmenter", NAME, encoder_file=name)


def test_a_link_out_of_the_folder_is_not_followed(head: Path, encoder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    encoder.rename(outside / encoder.name)
    encoder.symlink_to(outside / encoder.name)
    with pytest.raises(WeightsError, match="link out of the folder"):
        load_weights(head)


def test_a_link_to_the_head_finds_the_encoder_where_the_head_is(head: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "model.safetensors"
    link.symlink_to(head)
    assert load_weights(link)[0].keys() == load_weights(head)[0].keys()


def test_a_tensor_that_both_files_hold_is_refused(head: Path, encoder: Path) -> None:
    state, _ = load_weights(head)
    info = read_info(head)
    doubled = {key: value for key, value in state.items() if not key.startswith("encoder.")}
    save_weights(head, {**doubled, "encoder.model.conv1.0.weight": torch.ones(1)}, info)
    with pytest.raises(WeightsError, match="1 tensors are here and in shared"):
        load_weights(head)
