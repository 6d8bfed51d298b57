"""Every runtime computes what the eager network does, and refuses what it cannot run with the file and what to do."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import load_file
from torch import nn

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.inference.exported import FILE, KEY, ExportInfo, to_text
from sonodistill.inference.runtimes import RUNTIMES, open_runtime
from sonodistill.inference.runtimes.base import InputError, RuntimeMissingError
from sonodistill.telemetry import no_telemetry
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo

with no_telemetry():
    import openvino

SIZE = (64, 64)
PAIRS = [
    ("model.safetensors", "torch"),
    ("model.ts", "torch"),
    ("model.pt2", "torch"),
    ("model.onnx", "onnxruntime"),
    ("model.onnx", "openvino"),
    ("model.xml", "openvino"),
]


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize(("file", "runtime"), PAIRS)
def test_a_runtime_says_what_the_eager_network_says(models, images, logits, file, runtime):
    opened = open_runtime(models / file, runtime, threads=1)
    assert (opened.name, opened.precision, opened.input_size, opened.batch) == (runtime, "fp32", SIZE, None)
    assert opened.info.weights.labels == ("lesion",) and opened.info.weights.kind == "segmenter"
    for batch in (1, 6, 2):
        output = opened(images[:batch])
        assert output.dtype == np.float32 and output.shape == (batch, 1, 64, 64)
        np.testing.assert_allclose(output, logits[:batch], atol=2e-4)


@pytest.mark.parametrize(("file", "runtime"), [("model.safetensors", "torch"), ("model.xml", "openvino")])
def test_bfloat16_costs_few_pixels(models, images, logits, file, runtime):
    opened = open_runtime(models / file, runtime, precision="bf16", threads=1)
    output = opened(images)
    assert opened.precision == "bf16" and dice(output > 0, logits > 0) > 0.98
    assert not np.array_equal(output, logits)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["model.safetensors", "model.pt2"])
def test_a_compiled_network_says_it_too_and_does_not_compile_again_for_the_last_batch(models, images, logits, file):
    opened = open_runtime(models / file, "torch-compile", threads=1, batch=4)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch in (4, 2):
            np.testing.assert_allclose(opened(images[:batch]), logits[:batch], atol=2e-4)


def test_openvino_fills_up_a_last_batch_and_takes_a_larger_one(models, images, logits):
    opened = open_runtime(models / "model.xml", "openvino", threads=1, batch=4)
    for batch in (4, 3, 1, 6, 5, 4):
        np.testing.assert_allclose(opened(images[:batch]), logits[:batch], atol=2e-4)


def test_a_file_without_our_metadata_is_taken_by_its_shapes(models, images, logits):
    for runtime in ("onnxruntime", "openvino"):
        opened = open_runtime(models / "plain.onnx", runtime)
        assert opened.info is None
        np.testing.assert_allclose(opened(images), logits, atol=2e-4)


@pytest.mark.parametrize(("file", "runtime"), PAIRS)
@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 1, 32, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float32),
        np.zeros((1, 64, 64), np.float32),
        np.zeros((0, 1, 64, 64), np.float32),
        np.zeros((1, 1, 64, 64), np.uint8),
    ],
    ids=["size", "colour", "no channel", "nothing", "dtype"],
)
def test_an_array_of_another_shape_or_dtype_is_refused(opened_once, file, runtime, wrong):
    with pytest.raises(InputError, match=r"\(B, 1, 64, 64\).*\n.*to_input"):
        opened_once(file, runtime)(wrong)


@pytest.fixture(scope="module")
def opened_once(models):
    known = {}

    def get(file, runtime):
        if (file, runtime) not in known:
            known[file, runtime] = open_runtime(models / file, runtime, threads=1)
        return known[file, runtime]

    return get


@pytest.mark.parametrize("suffix", [".safetensors", ".ts", ".pt2", ".onnx", ".xml"])
@pytest.mark.parametrize("content", [None, b"", b"no model at all"], ids=["missing", "empty", "damaged"])
def test_a_file_that_is_no_model_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"model{suffix}"
    if content is not None:
        path.write_bytes(content)
        path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="What to do") as caught:
        open_runtime(path)
    assert caught.value.path == path


@pytest.mark.parametrize("file", ["model.onnx", "model.xml", "model.ts", "model.pt2"])
def test_a_file_that_was_cut_off_is_refused(models, tmp_path, file):
    path = tmp_path / file
    content = (models / file).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(WeightsError, match=file):
        open_runtime(path)


def test_an_openvino_model_without_its_weights_names_them(models, tmp_path):
    (tmp_path / "model.xml").write_bytes((models / "model.xml").read_bytes())
    with pytest.raises(WeightsError, match=r"model\.bin"):
        open_runtime(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes((models / "model.bin").read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"model\.xml"):
        open_runtime(tmp_path / "model.xml")


def test_a_runtime_that_does_not_read_the_file_names_those_that_do(models, tmp_path):
    with pytest.raises(WeightsError, match="onnxruntime or openvino"):
        open_runtime(models / "model.onnx", "torch")
    with pytest.raises(WeightsError, match="torch or torch-compile"):
        open_runtime(models / "model.pt2", "onnxruntime")
    (tmp_path / "model.h5").write_bytes(b"1")
    with pytest.raises(WeightsError, match=r"\.onnx"):
        open_runtime(tmp_path / "model.h5")


def test_settings_that_cannot_work_are_refused(models):
    for settings in (
        {"runtime": "tensorrt"},
        {"precision": "fp8"},
        {"threads": -1},
        {"batch": 0},
        {"runtime": "onnxruntime", "precision": "bf16"},
        {"runtime": "openvino", "device": "cuda"},
    ):
        with pytest.raises(BundleConfigError, match="What to do"):
            open_runtime(models / "model.onnx", **settings)
    with pytest.raises(BundleConfigError, match="abacus"):
        open_runtime(models / "model.ts", device="abacus")


def test_a_runtime_that_is_not_installed_is_named_with_its_pip_line(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RuntimeMissingError, match="pip install openvino"):
        open_runtime(models / "model.xml", "openvino")
    with pytest.raises(RuntimeMissingError, match="pip install openvino"):
        open_runtime(models / "model.xml")


def test_every_runtime_says_what_installs_it():
    assert all(entry.pip and entry.package and entry.suffixes for entry in RUNTIMES.values())


def graph(path, inputs, outputs=1, shape=None):
    """An ONNX file that adds up its inputs."""
    taken = [onnx.helper.make_tensor_value_info(f"i{n}", TensorProto.FLOAT, one) for n, one in enumerate(inputs)]
    given = [onnx.helper.make_tensor_value_info(f"o{n}", TensorProto.FLOAT, shape or inputs[0]) for n in range(outputs)]
    nodes = [onnx.helper.make_node("Sum", [one.name for one in taken], [one.name]) for one in given]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", taken, given), opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [([["B", 1, 64, 64]] * 2, 1), ([["B", 1, 64, 64]], 2), ([["B", 3, 64, 64]], 1), ([["B", 64, 64]], 1)],
    ids=["two inputs", "two outputs", "colour", "no channel"],
)
def test_a_graph_that_does_not_take_one_gray_image_is_refused(tmp_path, runtime, inputs, outputs):
    with pytest.raises(WeightsError, match=r"inputs|\(B, 1, H, W\)"):
        open_runtime(graph(tmp_path / "g.onnx", inputs, outputs), runtime)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_open_size_has_to_be_said_and_a_fixed_batch_is_kept(tmp_path, runtime):
    path = graph(tmp_path / "open.onnx", [["B", 1, "H", "W"]])
    with pytest.raises(WeightsError, match="input size open"):
        open_runtime(path, runtime)
    assert open_runtime(path, runtime, size=(32, 48)).input_size == (32, 48)
    fixed = open_runtime(graph(tmp_path / "fixed.onnx", [[3, 1, 32, 32]]), runtime)
    assert fixed.batch == 3
    with pytest.raises(InputError, match=r"\(3, 1, 32, 32\)"):
        fixed(np.zeros((2, 1, 32, 32), np.float32))


def test_torchscript_of_others_needs_its_size_said(models, images, logits, tmp_path):
    with pytest.raises(WeightsError, match="input size open"):
        open_runtime(models / "plain.ts")
    np.testing.assert_allclose(open_runtime(models / "plain.ts", size=SIZE)(images), logits, atol=2e-4)


class TwoOutputs(nn.Module):
    def forward(self, x):
        return x, x + 1


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


@pytest.mark.parametrize(("module", "count"), [(TwoOutputs(), 1), (TwoInputs(), 2)])
@pytest.mark.parametrize("suffix", [".ts", ".pt2"])
def test_a_torch_program_that_does_not_take_one_gray_image_is_refused(tmp_path, module, count, suffix):
    path, example = tmp_path / f"model{suffix}", (torch.rand(2, 1, 64, 64),) * count
    if suffix == ".ts":
        torch.jit.save(torch.jit.trace(module, example), path)
    else:
        torch.export.save(torch.export.export(module, tuple(one.clone() for one in example)), path)
    with pytest.raises(WeightsError, match=r"inputs|not one array"):
        open_runtime(path, size=SIZE)


def write_as(file, models, path, text):
    """A copy of a model whose metadata are this text."""
    if file == "model.onnx":
        model = onnx.load(models / file)
        onnx.helper.set_model_props(model, {KEY: text})
        onnx.save(model, path)
    elif file == "model.xml":
        model = openvino.Core().read_model(models / file)
        model.set_rt_info(text, KEY)
        openvino.save_model(model, path, compress_to_fp16=False)
    elif file == "model.ts":
        torch.jit.save(torch.jit.load(models / file), path, _extra_files={FILE: text})
    else:
        torch.export.save(torch.export.load(models / file), path, extra_files={FILE: text})


@pytest.mark.parametrize("file", ["model.onnx", "model.xml", "model.ts", "model.pt2"])
@pytest.mark.parametrize(
    ("kind", "labels", "size"),
    [("segmenter", ("a", "b"), SIZE), ("classifier", ("a",), SIZE), ("segmenter", ("a",), (96, 96))],
    ids=["labels", "kind", "size"],
)
def test_metadata_that_are_not_true_of_the_graph_are_refused(models, tmp_path, file, kind, labels, size):
    if file == "model.ts" and size != SIZE:
        pytest.skip("a traced network takes any size: there is nothing to contradict")
    path = tmp_path / file
    untrue = ExportInfo(WeightsInfo(kind, "resnet18", labels=labels), "onnx", "fp32", size)
    write_as(file, models, path, to_text(untrue))
    with pytest.raises(WeightsError, match="metadata say") as caught:
        open_runtime(path)
    assert caught.value.path == path


@pytest.mark.parametrize("file", ["model.onnx", "model.xml", "model.ts", "model.pt2"])
def test_metadata_that_cannot_be_read_are_refused(models, tmp_path, file):
    write_as(file, models, tmp_path / file, '{"version": 99}')
    with pytest.raises(WeightsError, match="update sonodistill"):
        open_runtime(tmp_path / file)


def test_a_checkpoint_with_more_labels_than_channels_is_refused(models, tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, load_file(models / "model.safetensors"), WeightsInfo("segmenter", "resnet18", labels=("a", "b")))
    with pytest.raises(WeightsError, match="labels a, b, but its tensors make 1"):
        open_runtime(path, size=SIZE)


def test_a_checkpoint_without_a_size_takes_the_one_that_is_said(models, tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(path, load_file(models / "model.safetensors"), WeightsInfo("segmenter", "resnet18"))
    with pytest.raises(WeightsError, match="input size open"):
        open_runtime(path)
    assert open_runtime(path, size=(96, 64)).input_size == (96, 64)
    with pytest.raises(WeightsError, match="multiples of 32"):
        open_runtime(path, size=(50, 50))


def test_a_signal_does_no_harm_when_openvino_models_have_come_and_gone(models):
    """OpenVINO moves the signal stack on processors with AMX; Python's handlers run on it once faulthandler is on."""
    program = f"""
import faulthandler, os, signal
from sonodistill.inference.runtimes import open_runtime
faulthandler.enable()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
for _ in range(2):
    one, other = (open_runtime({str(models / "model.xml")!r}, "openvino") for _ in range(2))
    del one
    os.kill(os.getpid(), signal.SIGUSR1)
    del other
    os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["handled"] * 4), done.stderr
