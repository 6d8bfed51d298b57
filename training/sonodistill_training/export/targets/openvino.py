"""OpenVINO: .xml and .bin, in fp32, with fp16 weights, or in int8 by NNCF's post-training quantisation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from sonodistill.inference.exported import KEY, ExportInfo, to_text
from sonodistill.telemetry import no_telemetry
from sonodistill_training.export.targets import ToolchainMissingError
from sonodistill_training.export.targets import onnx as onnx_target
from sonodistill_training.export.targets.capture import unsupported
from sonodistill_training.export.targets.quiet import quiet

try:
    from sonodistill.inference.runtimes.openvino_core import core, openvino
except ModuleNotFoundError as missing:
    raise ToolchainMissingError("openvino", "openvino") from missing

_SIGNED = {"Gelu", "Swish", "HSwish", "Mish", "Elu", "SoftPlus", "Sigmoid", "Erf", "Tanh", "PRelu"}
"""Operators that an activation below zero comes out of."""


def write(
    network: nn.Module, path: Path, info: ExportInfo, calibration: Sequence[NDArray[np.float32]] | None = None
) -> None:
    """Write ``network`` by way of ONNX, whose graph runs faster in OpenVINO than the one it makes of torch's.

    In "fp16" the weights are, and OpenVINO widens them where it computes in float32. An "int8" model keeps float32
    where it is not quantised; which precision that computes in is the runtime's choice.
    """
    made = onnx_target.make(network, replace(info, precision="fp32"))
    model = _convert(made.SerializeToString(), info)
    if info.precision == "int8":
        model = _quantise(model, calibration or [], onnx_target.of_score_alone(made))
    model.set_rt_info(to_text(info), [KEY])
    openvino.save_model(model, path, compress_to_fp16=info.precision == "fp16")


def stamp(path: Path, info: ExportInfo) -> None:
    """Let the file say ``info`` of itself."""
    weights = path.with_suffix(".bin")
    model = core().read_model(path.read_bytes(), weights.read_bytes())  # not mapped: both are written anew
    model.set_rt_info(to_text(info), [KEY])
    openvino.save_model(model, path, compress_to_fp16=False)


def _convert(model: bytes, info: ExportInfo) -> openvino.Model:
    try:
        return core().read_model(model)
    except RuntimeError as error:
        raise unsupported(info.target, error) from error


def _quantise(
    model: openvino.Model, calibration: Sequence[NDArray[np.float32]], exact: Sequence[str]
) -> openvino.Model:
    """Quantised but for the nodes ``exact``."""
    # Where ReLU is the only activation symmetric ranges lose nothing: Dice with the network 0.979 against 0.975.
    signed = bool(_SIGNED & {operation.get_type_name() for operation in model.get_ops()})
    with quiet("torch.utils.cpp_extension"), _silent_nncf() as nncf:
        return nncf.quantize(
            model,
            nncf.Dataset([frame[None] for frame in calibration]),
            preset=nncf.QuantizationPreset.MIXED if signed else nncf.QuantizationPreset.PERFORMANCE,
            subset_size=len(calibration),
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=_held(model, exact), validate=False),
        )


def _held(model: openvino.Model, names: Sequence[str]) -> list[str]:
    """Those of the names, of nodes in ONNX, that OpenVINO kept; a node that became several has its name before "/"."""
    wanted = set(names)
    return [
        name
        for operation in model.get_ops()
        if (name := operation.get_friendly_name()) in wanted or name.split("/")[0] in wanted
    ]


@contextmanager
def _silent_nncf() -> Iterator[Any]:
    """NNCF, which writes nothing to the terminal."""
    try:
        with no_telemetry():
            import nncf
    except ModuleNotFoundError as missing:
        raise ToolchainMissingError("openvino-int8", "nncf") from missing
    level = nncf.common.logging.nncf_logger.level
    nncf.set_log_level(logging.ERROR)
    try:
        yield nncf
    finally:
        nncf.set_log_level(level)
