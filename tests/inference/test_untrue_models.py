"""A model whose graph loads and whose answers are none: not one for each image, not numbers, one class."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.inference.exported import KEY, ExportInfo, to_text
from sonodistill.inference.network import RuntimeNetwork
from sonodistill.inference.predictor import Predictor
from sonodistill.inference.runtimes import open_runtime
from sonodistill.inference.runtimes.base import PredictionError
from sonodistill.weights_header import WeightsInfo

RUNTIMES = ("onnxruntime", "openvino")


def graph(path, nodes, shape, kind="segmenter", labels=("lesion",)):
    """An ONNX file of these nodes, from "image" (B, 1, 64, 64) and the number "c" to "output"."""
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["B", 1, 64, 64])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)
    constant = helper.make_tensor("c", TensorProto.FLOAT, [], [0.3])
    made = helper.make_graph(
        [helper.make_node(*node[:3], **node[3]) for node in nodes], "g", [image], [output], [constant]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    weights = WeightsInfo(kind, "resnet18", labels=labels)
    helper.set_model_props(model, {KEY: to_text(ExportInfo(weights, "onnx", "fp32", (64, 64)))})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_output_for_a_batch_loses_no_frame_in_silence(tmp_path, frames, runtime):
    nodes = [
        ("ReduceMean", ["image"], ["a"], {"axes": [0], "keepdims": 1}),
        ("Sub", ["a", "c"], ["output"], {}),
    ]
    path = graph(tmp_path / "model.onnx", nodes, ["N", 1, 64, 64])
    assert len(list(Predictor(path, runtime=runtime)(frames[:4]))) == 4  # one by one it is right
    with pytest.raises(PredictionError, match=r"model.onnx: gives 1 outputs for 4 images"):
        Predictor(path, runtime=runtime, batch_size=4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_is_not_a_number_is_no_background(tmp_path, frames, runtime):
    # The root of minus the image: of the zeros that a model is tried with on loading it is a number.
    nodes = [("Neg", ["image"], ["a"], {}), ("Sqrt", ["a"], ["output"], {})]
    predictor = Predictor(graph(tmp_path / "model.onnx", nodes, ["B", 1, 64, 64]), runtime=runtime)
    with pytest.raises(PredictionError, match="NaN or infinite"):
        predictor.predict_one(frames[0])


def test_a_classifier_of_one_class_is_refused(tmp_path):
    nodes = [
        ("ReduceMean", ["image"], ["a"], {"axes": [2, 3], "keepdims": 0}),
        ("Sub", ["a", "c"], ["output"], {}),
    ]
    path = graph(tmp_path / "model.onnx", nodes, ["B", 1], "classifier", ("malignant",))
    with pytest.raises(WeightsError, match="one class"):
        open_runtime(path, "onnxruntime")


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("encoder.safetensors", "kind encoder"),
        ("classifier.safetensors", "kind classifier"),
        ("two.safetensors", "2 labels"),
    ],
)
def test_the_bundles_config_takes_nothing_but_a_segmenter_of_one_label(models, file, said):
    with pytest.raises(BundleConfigError, match=said):
        RuntimeNetwork(models / file, "torch", size=(64, 64))
