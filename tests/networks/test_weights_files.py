"""Weights files: a round trip is exact, and every file that is not ours or not whole is refused with its reason."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sonodistill.errors import WeightsError
from sonodistill.weights import WeightsInfo, load_torch_checkpoint, load_weights, read_info, save_weights

INFO = WeightsInfo(
    kind="segmenter",
    architecture="resnet18",
    normalisation=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    input_size=(224, 256),
    labels=("cyst", "nodule, solid"),
    teacher="dinov2_vits14",
    corpus_hash="ab12",
    licence_notice="Distilled from DINOv2, Apache-2.0, “as is”",
    origin="",
    version="0.1.0",
)


def state() -> dict[str, torch.Tensor]:
    shared = torch.arange(6.0).view(2, 3)
    return {"a": shared, "b": shared.t(), "half": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(3)}


def test_round_trip_keeps_tensors_dtypes_and_header(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", state(), INFO)
    loaded, info = load_weights(tmp_path / "w.safetensors")
    assert info == INFO == read_info(tmp_path / "w.safetensors")
    assert loaded.keys() == state().keys()
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in state().items())
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_one_flipped_bit_in_the_tensors_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, state(), INFO)
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(WeightsError, match="digest"):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "0 bytes"), (b"not weights at all", "damaged"), (pickle.dumps({"a": 1}), "damaged")],
)
@pytest.mark.parametrize("read", [load_weights, load_torch_checkpoint])
def test_files_that_are_no_weights_are_refused(tmp_path: Path, content: bytes, reason: str, read) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        read(tmp_path / "w.safetensors")
    assert caught.value.remedy


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(state(), path) if suffix == ".pth" else save_weights(path, state(), INFO)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WeightsError, match="damaged"):
        load_torch_checkpoint(path)


def test_missing_file_folder_foreign_header_and_wrong_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        load_weights(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="folder"):
        load_weights(tmp_path)
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="no SonoDistill header"):
        load_weights(tmp_path / "foreign.safetensors")
    save_weights(tmp_path / "w.safetensors", state(), INFO)
    with pytest.raises(WeightsError, match="a segmenter, not a classifier"):
        load_weights(tmp_path / "w.safetensors", kinds=("classifier",))


def test_an_unreadable_header_is_said(tmp_path: Path) -> None:
    for header in ({"kind": "encoder"}, {"kind": "encoder", "normalisation": "[1]"}, {"normalisation": "no json"}):
        save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata={"sonodistill": "1", **header})
        with pytest.raises(WeightsError, match="header cannot be read"):
            read_info(tmp_path / "w.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata={"sonodistill": "9"})
    with pytest.raises(WeightsError, match="header version 9"):
        read_info(tmp_path / "w.safetensors")


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("ran.txt"),))


def test_a_pickle_with_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="code"):
        load_torch_checkpoint(tmp_path / "evil.pth")
    assert not (tmp_path / "ran.txt").exists()


def test_nestings_and_common_prefixes_are_taken_off(tmp_path: Path) -> None:
    plain = {"conv.weight": torch.ones(2), "conv.bias": torch.zeros(2)}
    wrapped = {"epoch": 3, "state_dict": {"model": {f"module.backbone.{k}": v for k, v in plain.items()}}}
    torch.save(wrapped, tmp_path / "w.pt")
    loaded = load_torch_checkpoint(tmp_path / "w.pt")
    assert loaded.keys() == plain.keys()
    torch.save({**{f"backbone.{k}": v for k, v in plain.items()}, "head.weight": torch.ones(1)}, tmp_path / "w.pt")
    assert "backbone.conv.weight" in load_torch_checkpoint(tmp_path / "w.pt")
    torch.save({"optimizer": {}, "epoch": 1}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no state dict"):
        load_torch_checkpoint(tmp_path / "w.pt")
