"""Every format says what the network says on real frames, for any number of them, and carries its own description."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from monai.data import load_net_with_metadata
from torch import nn

from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill.files import sha256
from sonodistill.inference.exported import FILE, KEY, from_text
from sonodistill.inference.runtimes import open_runtime
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.export.check import ExportCheckError, Limits, compare, outputs, require
from sonodistill_training.export.export import Exported, ExportError, Source, export, placed, prepare
from sonodistill_training.export.frames import CalibrationError, default_frames, given_frames
from sonodistill_training.export.targets import TARGETS, UnsupportedOperatorError, companion_paths, find_target
from sonodistill_training.export.targets.capture import capture

FORMATS = ("onnx", "openvino", "torchscript", "pt2", "onnx-int8", "openvino-int8")
LOOSE = Limits(dice=0.8)  # of random features, which int8 shifts more than learnt ones


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="module")
def exported(source: Source, folder: Path, torchscript: Exported) -> dict[str, Exported]:
    """Each format, written once."""
    made = {"torchscript": torchscript}
    for name in FORMATS:
        if name in made:
            continue
        target = find_target(name)
        for path in companion_paths(folder / target.file_name(target.precisions[0]), target):
            path.write_text("old")
        made[name] = export(source, target, folder / target.file_name(target.precisions[0]), limits=LOOSE)
    return made


def said_by(item: Exported) -> str:
    """The description in a file, read with the format's own library."""
    if item.target.suffix == ".onnx":
        return {entry.key: entry.value for entry in onnx.load(item.path).metadata_props}[KEY]
    if item.target.suffix == ".xml":
        return openvino.Core().read_model(item.path).get_rt_info([KEY]).value
    if item.target.suffix == ".ts":
        files = {FILE: ""}
        torch.jit.load(item.path, _extra_files=files)
        return bytes(files[FILE]).decode() if isinstance(files[FILE], bytes) else files[FILE]
    files = {FILE: ""}
    torch.export.load(item.path, extra_files=files)
    return files[FILE]


@pytest.mark.parametrize("name", FORMATS)
def test_it_says_what_the_network_says_for_any_number_of_frames(name: str, exported: dict, source: Source) -> None:
    item = exported[name]
    runtime = open_runtime(item.path, item.target.runtime)
    assert runtime.batch is None
    for count in (1, 3, 8):
        frames, wanted = source.frames.check[:count], source.reference[:count]
        found = runtime(np.stack(frames))
        assert found.shape == wanted.shape == (count, 1, 64, 64)
        if item.info.precision == "fp32":
            assert np.abs(found - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())
        else:
            assert compare("segmenter", wanted, found)["dice"] > 0.8


@pytest.mark.parametrize("name", FORMATS)
def test_it_carries_its_description(name: str, exported: dict, source: Source, checkpoint: Path) -> None:
    item = exported[name]
    info = from_text(said_by(item))
    assert info == item.info
    assert info.weights == source.info
    assert (info.target, info.input_size, info.weights_sha256) == (name, (64, 64), sha256(checkpoint))
    assert info.check["frames"] >= 8
    assert info.check["dice"] > (0.999 if info.precision == "fp32" else 0.8)
    assert info.tools["torch"] == torch.__version__.partition("+")[0] or info.tools["torch"] == torch.__version__
    assert bool(info.calibration) == (info.precision == "int8")


def test_int8_says_what_it_was_calibrated_on(exported: dict, source: Source) -> None:
    for name in ("onnx-int8", "openvino-int8"):
        assert exported[name].info.calibration == source.frames.account()
        assert exported[name].megabytes < 0.35 * exported["onnx"].megabytes


def test_onnx_has_plain_metadata_names_and_one_file(exported: dict) -> None:
    path = exported["onnx"].path
    session = onnxruntime.InferenceSession(path)
    assert ([i.name for i in session.get_inputs()], [o.name for o in session.get_outputs()]) == (["image"], ["output"])
    assert session.get_inputs()[0].shape[1:] == [1, 64, 64]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == ['bright <tissue> & "more" é']
    assert metadata["kind"] == "segmenter"
    assert not any(b"/" in value.doc_string.encode() for value in onnx.load(path).graph.node)
    assert b"site-packages" not in path.read_bytes()  # no paths of the machine that made it
    onnx.checker.check_model(str(path), full_check=True)


def test_the_stem_inside_takes_one_channel(exported: dict) -> None:
    model = onnx.load(exported["onnx"].path)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    stem = next(node for node in model.graph.node if node.op_type == "Conv")
    assert shapes[stem.input[1]] == (64, 1, 7, 7)


def test_monai_loads_the_torchscript_with_its_metadata(exported: dict, source: Source) -> None:
    network, metadata, extra = load_net_with_metadata(str(exported["torchscript"].path), more_extra_files=(FILE,))
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["channel_def"] == {"0": "background", "1": 'bright <tissue> & "more" é'}
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [64, 64]
    assert from_text(extra[FILE].decode()).target == "torchscript"
    with torch.no_grad():
        found = network(torch.from_numpy(source.frames.check[0][None])).numpy()
    np.testing.assert_allclose(found, source.reference[:1], atol=1e-3)


def test_openvino_files_hold_no_paths_of_the_machine(exported: dict, folder: Path) -> None:
    for name in ("openvino", "openvino-int8"):
        text = exported[name].path.read_bytes()
        assert str(folder).encode() not in text
        assert b"site-packages" not in text


@pytest.mark.parametrize(("name", "precision"), [("openvino", "fp16"), ("torchscript", "bf16")])
def test_half_precision_is_half_the_size_and_close(
    name: str, precision: str, source: Source, exported: dict, tmp_path: Path
) -> None:
    target = find_target(name)
    item = export(source, target, tmp_path / target.file_name(precision), precision=precision, limits=LOOSE)
    assert item.path.name == f"model.{precision}{target.suffix}"
    assert 0.45 < item.megabytes / exported[name].megabytes < 0.55
    assert item.info.precision == from_text(said_by(item)).precision == precision
    assert item.info.check["dice"] > 0.9


def test_one_that_differs_too_much_is_refused_and_nothing_is_left(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "model.ts"
    out.write_text("the old one")
    with pytest.raises(ExportCheckError, match="in bf16 its dice with the network is 0.* less than 1") as refused:
        export(source, TARGETS["torchscript"], out, precision="bf16", limits=Limits(dice=1.0))
    assert refused.value.path == out
    assert "--min-dice 0.9" in refused.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_text() == "the old one"


def test_files_that_belong_together_are_replaced_together(tmp_path: Path) -> None:
    out, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    out.write_text("old"), weights.write_text("old")
    with pytest.raises(ZeroDivisionError), placed(out, TARGETS["openvino"]) as made:
        made.write_text("new")
        raise ZeroDivisionError
    assert (out.read_text(), weights.read_text()) == ("old", "old")
    with pytest.raises(ExportError, match="wrote no model.bin"), placed(out, TARGETS["openvino"]) as made:
        made.write_text("new")  # and no weights: what is there stays
    assert (out.read_text(), weights.read_text()) == ("old", "old")
    with placed(out, TARGETS["openvino"]) as made:
        made.write_text("new"), made.with_suffix(".bin").write_text("new")
    assert (out.read_text(), weights.read_text()) == ("new", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_what_was_there_comes_back_when_a_file_cannot_be_put_in_its_place(tmp_path: Path, monkeypatch) -> None:
    out, weights = tmp_path / "model.xml", tmp_path / "model.bin"
    out.write_text("old"), weights.write_text("old")
    rename = Path.rename

    def locked(self: Path, target: Path) -> Path:
        if self.parent != tmp_path and Path(target) == out and self.read_text() == "new":
            raise PermissionError("another process has it open")  # as Windows does
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", locked)
    with pytest.raises(PermissionError), placed(out, TARGETS["openvino"]) as made:
        made.write_text("new"), made.with_suffix(".bin").write_text("new")
    assert (out.read_text(), weights.read_text()) == ("old", "old")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_a_new_export_takes_the_place_of_all_files_of_the_old_one(exported: dict, folder: Path) -> None:
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix == ".tmp"]
    for name in ("openvino", "openvino-int8"):
        path = exported[name].path
        (weights,) = companion_paths(path, TARGETS[name])
        assert weights.stat().st_size > 1e6  # where "old" had been
        assert path.stat().st_mode & weights.stat().st_mode & 0o444 == 0o444


def test_int8_needs_frames_and_a_target_its_precision_and_suffix(source: Source, tmp_path: Path) -> None:
    bare = replace(source, frames=replace(source.frames, calibration=()))
    with pytest.raises(CalibrationError, match="calibrated on real frames"):
        export(bare, TARGETS["openvino-int8"], tmp_path / "model.xml")
    with pytest.raises(SonoDistillError, match="openvino is not written in bf16"):
        export(source, TARGETS["openvino"], tmp_path / "model.xml", precision="bf16")
    with pytest.raises(SonoDistillError, match="ends in .onnx"):
        export(source, TARGETS["onnx"], tmp_path / "model.xml")
    with pytest.raises(SonoDistillError, match="no target 'onxx'"):
        find_target("onxx")
    assert not list(tmp_path.iterdir())


def test_a_size_that_the_network_does_not_take_is_refused(checkpoint: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be exported for 100 x 64 pixels"):
        prepare(checkpoint, default_frames, size=(100, 64))


class _Eigenvalues(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eig(x)[0].real


class _Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.mean() > 0 else x


def test_an_operator_that_a_target_lacks_is_named(source: Source, tmp_path: Path) -> None:
    odd = replace(source, folded=_Eigenvalues())
    with pytest.raises(UnsupportedOperatorError, match=r"onnx does not support the operator aten.linalg_eig"):
        export(odd, TARGETS["onnx"], tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOperatorError, match="pt2 does not support"):
        capture(_Branches(), (64, 64), "pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["classifier", "encoder"])
def test_classifiers_and_encoders_go_through_too(kind: str, tmp_path: Path, cine: Path) -> None:
    torch.manual_seed(0)
    network = Encoder("resnet18") if kind == "encoder" else Classifier("resnet18", classes=3)
    labels = () if kind == "encoder" else ("a", "b", "c")
    save_weights(tmp_path / "model.safetensors", network.state_dict(), WeightsInfo(kind, "resnet18", labels=labels))
    source = prepare(tmp_path / "model.safetensors", partial(given_frames, [cine], calibrate=True), size=(64, 64))
    item = export(source, TARGETS["torchscript"], tmp_path / "model.ts")
    assert item.info.check["cosine"] > 0.9999
    assert ("agreement" in item.info.check) == (kind == "classifier")
    assert open_runtime(item.path, "torch")(np.stack(source.frames.check[:2])).shape == source.reference[:2].shape


def test_what_is_compared_has_to_say_something(source: Source) -> None:
    empty = np.full((4, 1, 8, 8), -1, np.float32)
    figures = compare("segmenter", empty, empty)
    with pytest.raises(ExportCheckError, match="finds nothing on any of 4 frames"):
        require("segmenter", "int8", empty, figures, Limits(), Path("model.xml"))
    with pytest.raises(ExportCheckError, match="not finite"):
        compare("segmenter", empty, empty * np.nan)
    with pytest.raises(ExportCheckError, match="its output is"):
        compare("segmenter", empty, empty[:, :, :4])
    one = empty.copy()
    one[0, 0, :2] = 1
    two = empty.copy()
    two[0, 0, :1] = 1
    # 2 * 8 / (16 + 8) on the one frame that has a mask
    assert compare("segmenter", one, two)["dice"] == pytest.approx(2 / 3)
    with pytest.raises(ExportCheckError, match="in fp16 its agreement .* 0.7500, less than 0.95"):
        logits = np.eye(4, 3, dtype=np.float32)
        other = logits.copy()
        other[0] = logits[1]
        require("classifier", "fp16", logits, compare("classifier", logits, other), Limits(), Path("model.onnx"))
    assert outputs(source.network, source.frames.check[:5]).shape == (5, 1, 64, 64)


def test_no_toolchain_tells_its_makers(tmp_path: Path) -> None:
    """In a process of its own: OpenVINO sends what it sends when it is imported."""
    code = """
import socket, sys, time
def refuse(*address, **options):
    print("asked for", address[0])
    raise OSError("no network")
socket.getaddrinfo = refuse
import sonodistill_training.export.targets.openvino as target
with target._silent_nncf() as nncf:
    import openvino.tools.ovc
    time.sleep(0.5)
    print(type(openvino.tools.ovc.telemetry).__module__, type(nncf.telemetry.wrapper.telemetry).__module__)
    print("openvino_telemetry" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True).stdout
    assert said.split() == ["openvino.tools.ovc.telemetry_stub", "unittest.mock", "False"]
