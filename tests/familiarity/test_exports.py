"""The second output of exported models: what the network says, or not written; files without it are as before."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import pytest
from pydicom import examples

from sonodistill.errors import WeightsError
from sonodistill.inference.exported import KEY, ExportInfo, from_text
from sonodistill.inference.predictor import Predictor
from sonodistill.inference.runtimes import open_runtime
from sonodistill_training.export.check import ExportCheckError, Limits, require_scores
from sonodistill_training.export.export import export, prepare
from sonodistill_training.export.frames import given_frames
from sonodistill_training.export.targets import find_target, onnx_int8
from sonodistill_training.export.targets.onnx import of_score_alone

NAMES = ("plain", "scored")


@pytest.fixture(scope="module")
def sources(checkpoints):
    cine = partial(given_frames, [examples.get_path("ybr_color")], calibrate=True)
    return [prepare(path, cine) for path in checkpoints]


@pytest.fixture(scope="module")
def pair(sources, tmp_path_factory):
    """In ONNX: the segmenter without and with the score."""
    folder = tmp_path_factory.mktemp("onnx")
    target = find_target("onnx")
    return [export(source, target, folder / f"{name}.onnx") for source, name in zip(sources, NAMES, strict=True)]


@pytest.fixture(scope="module")
def exact(checkpoints, images, strange):
    """Scores of familiar frames and of noise by the checkpoint itself."""
    return open_runtime(checkpoints[1], "torch").both(np.concatenate([images[:3], strange[:3]]))[1]


@pytest.mark.parametrize(
    ("target", "precision", "runtimes", "within"),
    [
        ("onnx", "fp32", ("onnxruntime", "openvino"), 1e-3),
        ("openvino", "fp32", ("openvino",), 1e-3),
        pytest.param("onnx", "fp16", ("onnxruntime",), 0.1, marks=pytest.mark.slow),
        pytest.param("pt2", "fp32", ("torch",), 1e-3, marks=pytest.mark.slow),
    ],
)
def test_every_runtime_says_the_networks_score(
    sources, pair, exact, images, strange, tmp_path, target, precision, runtimes, within
):
    found = find_target(target)
    if (target, precision) == ("onnx", "fp32"):
        made = pair[1]
    else:
        made = export(sources[1], found, tmp_path / f"model{found.suffix}", precision=precision)
    assert made.info.check["score_difference"] <= within
    for name in runtimes:
        runtime = open_runtime(made.path, name, threads=1)
        scores = runtime.both(np.concatenate([images[:3], strange[:3]]))[1]
        np.testing.assert_allclose(scores, exact, rtol=within)


@pytest.mark.parametrize("target", ["onnx-int8", pytest.param("openvino-int8", marks=pytest.mark.slow)])
def test_in_int8_the_score_says_what_the_networks_does_or_the_file_is_refused(
    sources, images, strange, tmp_path, target
):
    found = find_target(target)
    try:  # of a network of random weights either may be
        made = export(sources[1], found, tmp_path / f"model{found.suffix}", limits=Limits(dice=0.5))
    except ExportCheckError as refused:
        assert "warning score differs" in refused.message
        assert not list(tmp_path.iterdir())
        return
    runtime = open_runtime(made.path, threads=1)
    assert made.info.check["score_difference"] <= 0.25
    assert (runtime.both(strange[:3])[1] > 1).all()


def test_what_is_behind_the_map_is_not_quantised(sources, tmp_path):
    info = ExportInfo(sources[1].info, "onnx-int8", "int8", sources[1].size)
    onnx_int8.write(sources[1].scored, tmp_path / "model.onnx", info, sources[1].frames.calibration[:2])
    model = onnx.load(tmp_path / "model.onnx")
    alone = set(of_score_alone(model))
    kinds = {node.op_type for node in model.graph.node if node.name in alone}
    assert {"Mul", "Sqrt"} <= kinds
    assert "QuantizeLinear" not in kinds
    assert "QuantizeLinear" in {node.op_type for node in model.graph.node}


def test_a_file_without_a_score_is_the_same_whether_the_code_knows_scores_or_not(pair):
    plain = pair[0]
    assert [output.name for output in onnx.load(plain.path).graph.output] == ["output"]
    runtime = open_runtime(plain.path, "onnxruntime")
    assert not runtime.scored
    assert np.isnan(runtime.both(np.zeros((2, 1, 64, 64), np.float32))[1]).all()


def test_the_masks_of_an_export_do_not_change_by_the_score(pair, frames):
    predictors = [Predictor(made.path, runtime="onnxruntime", threads=1) for made in pair]
    for frame in frames[:3]:
        one, other = (predictor.predict_one(frame) for predictor in predictors)
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
        assert np.isnan(one.unfamiliarity)
        assert other.unfamiliarity > 0


def test_torchscript_keeps_one_output_and_its_header_promises_no_score(sources, tmp_path, caplog):
    made = export(sources[1], find_target("torchscript"), tmp_path / "model.ts")
    assert not made.info.weights.familiarity
    assert "does not warn of unfamiliar frames" in caplog.text
    assert not open_runtime(made.path, "torch").scored


def test_a_header_that_promises_a_score_the_graph_lacks_is_refused(pair, tmp_path):
    model, other = (onnx.load(made.path) for made in pair)
    text = next(entry.value for entry in other.metadata_props if entry.key == KEY)
    assert from_text(text).weights.familiarity
    onnx.helper.set_model_props(model, {KEY: text})
    onnx.save(model, tmp_path / "untrue.onnx")
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(WeightsError, match="1 outputs, not 1 and 2"):
            open_runtime(tmp_path / "untrue.onnx", runtime)


def test_an_int8_score_that_moved_too_far_is_refused_by_name(tmp_path):
    with pytest.raises(ExportCheckError, match=r"warning score differs.*30\.0%") as refused:
        require_scores("int8", {"score_difference": 0.3}, tmp_path / "model.onnx")
    assert "--no-familiarity" in refused.value.remedy
