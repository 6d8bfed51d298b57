"""What an exported model says of itself: one JSON text that every format carries, whichever runtime reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sonodistill.errors import WeightsError
from sonodistill.weights_header import MAX_CHARACTERS, WeightsInfo, decode, encode

KEY = "sonodistill"
"""Name of the text: an ONNX metadata property, an entry of OpenVINO's rt_info, of Core ML's user-defined metadata."""
FILE = "sonodistill.json"
"""Name of the text where a format carries files: TorchScript, pt2, and beside an ExecuTorch program."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
_VERSION = 1
_MAX_TEXT = 1 << 20


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """An exported model's account of itself.

    Attributes:
        weights: header of the checkpoint it was made from: kind, architecture, labels, normalisation, licence.
        weights_sha256: of the checkpoint file, hex; empty when it was made from a network in memory.
        target: what it was exported to: "onnx", "openvino-int8" ...
        precision: of its weights and arithmetic, one of :data:`PRECISIONS`.
        input_size: (height, width) in pixels of its input (B, 1, H, W), gray, float32 in [0, 1].
        check: what was compared with the eager network after the export, by name ("max_abs_difference", "dice" ...).
        calibration: of an int8 model: number of frames and files, and a digest of the pixels.
        tools: versions of what made it.

    Raises:
        WeightsError: a field is not what it has to be.
    """

    weights: WeightsInfo
    target: str
    precision: str
    input_size: tuple[int, int]
    weights_sha256: str = ""
    check: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise WeightsError(f"precision {self.precision!r:.40} is not one of {', '.join(PRECISIONS)}")
        sides = self.input_size
        if len(sides) != 2 or not all(isinstance(side, int) and 0 < side <= 1 << 14 for side in sides):
            raise WeightsError(f"input_size {sides!r:.40} is no (height, width) in pixels")


def to_text(info: ExportInfo) -> str:
    """As JSON, ready for a format's metadata."""
    fields = {name: value for name, value in asdict(info).items() if name != "weights"}
    return json.dumps({"version": _VERSION, "weights": encode(info.weights), **fields})


def from_text(text: str) -> ExportInfo:
    """The inverse of :func:`to_text`.

    Raises:
        WeightsError: no such JSON, one of a later version, or one that is longer than a reader accepts.
    """
    if len(text) > _MAX_TEXT:
        raise WeightsError(f"its metadata are {len(text)} characters long; at most {_MAX_TEXT} are read")
    try:
        found = json.loads(text)
        if found["version"] != _VERSION:
            raise WeightsError(f"its metadata have version {found['version']!r:.20}", remedy="update sonodistill")
        return ExportInfo(
            weights=decode(_texts(found["weights"])),
            target=str(found["target"])[:64],
            precision=found["precision"],
            input_size=tuple(found["input_size"]),
            weights_sha256=str(found["weights_sha256"])[:64],
            check={str(name): float(value) for name, value in found["check"].items()},
            calibration=dict(found["calibration"]),
            tools=_texts(found["tools"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"its metadata cannot be read ({type(error).__name__}: {str(error)[:100]})") from error


def _texts(value: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): str(text)[: MAX_CHARACTERS + 1] for name, text in value.items()}
