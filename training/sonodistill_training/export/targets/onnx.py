"""ONNX: one file with its weights inside, for ONNX Runtime, OpenVINO and every other reader of the format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sonodistill.inference.exported import KEY, ExportInfo, to_text
from sonodistill.inference.familiarity import OUTPUT as SCORE
from sonodistill_training.export.targets import INPUT, OUTPUT, ToolchainMissingError
from sonodistill_training.export.targets.capture import capture, unsupported
from sonodistill_training.export.targets.cast import in_precision
from sonodistill_training.export.targets.quiet import quiet

try:
    import onnx
    import onnxscript  # noqa: F401 (torch.onnx needs it, and says so only when it is half done)
    import torch.onnx
    from onnx import ModelProto
except ModuleNotFoundError as missing:
    raise ToolchainMissingError("onnx", missing.name or "onnx", "pip install 'sonodistill[export]'") from missing

OPSET = 20
"""The newest that every release of ONNX Runtime and OpenVINO accepted here reads: Gelu is an operator of it."""


def write(network: nn.Module, path: Path, info: ExportInfo, calibration: Sequence[Any] | None = None) -> None:
    """Write ``network`` in ``info.precision``; in "fp16" weights and arithmetic are, input and output stay float32."""
    del calibration
    onnx.save(make(network, info), path)


def stamp(path: Path, info: ExportInfo) -> None:
    """Let the file say ``info`` of itself."""
    model = onnx.load(path)
    set_metadata(model, info)
    onnx.save(model, path)


def make(network: nn.Module, info: ExportInfo) -> ModelProto:
    """The model in memory, with its metadata.

    Raises:
        UnsupportedOperatorError: ONNX has no such operator.
    """
    program = capture(in_precision(network, info.precision), info.input_size, info.target)
    with quiet("torch.onnx", "onnxscript", "onnx_ir"):
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT, SCORE] if info.weights.familiarity else [OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise unsupported(info.target, error) from error
    assert made is not None  # noqa: S101 (only without dynamo)
    model = made.model_proto
    del model.functions[:], model.metadata_props[:]
    for node in (*model.graph.node, *model.graph.value_info):
        del node.metadata_props[:]  # the lines of Python that each node comes from
        node.doc_string = ""
    set_metadata(model, info)
    return model


def of_score_alone(model: ModelProto) -> list[str]:
    """Names of the nodes that make the warning score and nothing else."""
    makers = {name: node for node in model.graph.node for name in node.output}

    def behind(name: str) -> set[str]:
        found: set[str] = set()
        waiting = [name]
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node.name not in found:
                found.add(node.name)
                waiting.extend(node.input)
        return found

    if SCORE not in makers:
        return []
    return sorted(behind(SCORE) - behind(OUTPUT))


def set_metadata(model: ModelProto, info: ExportInfo) -> None:
    """What the model says of itself: all of it under one key, and for other readers some of it in plain words."""
    onnx.helper.set_model_props(model, {KEY: to_text(info), **plain_metadata(info)})
    model.producer_name, model.producer_version = "sonodistill", info.tools.get("sonodistill", "")
    model.doc_string = info.weights.licence_notice


def plain_metadata(info: ExportInfo) -> dict[str, str]:
    """Fields that a person looks for in a model viewer."""
    height, width = info.input_size
    return {
        "kind": info.weights.kind,
        "architecture": info.weights.architecture,
        "labels": json.dumps(info.weights.labels),
        "input": f"gray ultrasound (B, 1, {height}, {width}), float32 in [0, 1]; normalisation is inside",
        "licence_notice": info.weights.licence_notice,
    }
