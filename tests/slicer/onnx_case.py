"""Tiny exported models, written without the package ``onnx``: a 1 x 1 convolution of the gray value for each label."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from sonodistill.inference.exported import KEY, ExportInfo, to_text
from sonodistill.inference.familiarity import OUTPUT, VERSION
from sonodistill.weights_header import WeightsInfo

SIZE = (64, 80)
_FLOAT = 1


def write_model(
    path: Path,
    labels: Sequence[str] = ("bright",),
    above: Sequence[float] = (140.0,),
    familiar: float | None = None,
) -> Path:
    """A segmenter that labels gray values above a number; a negative number means those below its absolute value.

    With ``familiar`` it says how unfamiliar a frame is: above 1 where the mean gray value is above that number.
    """
    weights = [40.0 if one >= 0 else -40.0 for one in above]
    bias = [-weight * abs(one) / 255 for weight, one in zip(weights, above, strict=True)]
    count = len(labels)
    score = _score(familiar) if familiar is not None else b""
    graph = b"".join(
        (
            _field(
                1, _text(1, "image") + _text(1, "weight") + _text(1, "bias") + _text(2, "logits") + _text(4, "Conv")
            ),
            score,
            _text(2, "tiny"),
            _field(5, _tensor("weight", (count, 1, 1, 1), weights)),
            _field(5, _tensor("bias", (count,), bias)),
            _field(11, _value("image", (1, 1, *SIZE))),
            _field(12, _value("logits", (1, count, *SIZE))),
            _field(12, _value(OUTPUT, (1,))) if score else b"",
        )
    )
    about = {"version": VERSION} if score else {}
    header = WeightsInfo("segmenter", "tiny", input_size=SIZE, labels=tuple(labels), familiarity=about)
    info = ExportInfo(header, "onnx", "fp32", SIZE)
    entry = _text(1, KEY) + _text(2, to_text(info))
    path.write_bytes(_number(1, 8) + _field(7, graph) + _field(8, _number(2, 17)) + _field(14, entry))
    return path


def _score(familiar: float) -> bytes:
    """Nodes that divide the mean of the image, (1,), by the familiar one."""
    axes = b"".join(_number(8, axis) for axis in (1, 2, 3))
    keep = _text(1, "keepdims") + _number(3, 0) + _number(20, 2)
    mean = _text(1, "image") + _text(2, "mean") + _text(4, "ReduceMean")
    mean += _field(5, _text(1, "axes") + axes + _number(20, 7)) + _field(5, keep)
    divided = _text(1, "mean") + _text(1, "familiar") + _text(2, OUTPUT) + _text(4, "Div")
    return _field(1, mean) + _field(1, divided) + _field(5, _tensor("familiar", (1,), [familiar / 255]))


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _field(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _field(field, text.encode())


def _tensor(name: str, shape: Sequence[int], values: Sequence[float]) -> bytes:
    dims = b"".join(_number(1, side) for side in shape)
    return dims + _number(2, _FLOAT) + _text(8, name) + _field(9, struct.pack(f"<{len(values)}f", *values))


def _value(name: str, shape: Sequence[int]) -> bytes:
    dims = b"".join(_field(1, _number(1, side)) for side in shape)
    return _text(1, name) + _field(2, _field(1, _number(1, _FLOAT) + _field(2, dims)))
