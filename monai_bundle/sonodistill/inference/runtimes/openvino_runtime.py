"""OpenVINO on the CPU, without its telemetry."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from sonodistill.errors import WeightsError
from sonodistill.inference.exported import KEY
from sonodistill.inference.runtimes.base import Array, filled, require_images, unscored
from sonodistill.inference.runtimes.checks import (
    computed,
    input_size,
    is_scored,
    read_info,
    require_cpu,
    require_one_gray_image,
)
from sonodistill.inference.runtimes.openvino_core import core, openvino
from sonodistill.transforms.geometry import Size

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}
_MAX_COMPILED = 4


class OpenVino:
    """See :class:`sonodistill.inference.runtimes.base.Runtime`.

    A graph of one fixed shape is much faster than one of open batch, so each number of images has a compiled graph of
    its own. Fewer images than the batch that it was opened for are filled up rather than compiled for.
    """

    name = "openvino"

    def __init__(self, path: Path, precision: str, threads: int, size: Size | None, batch: int | None) -> None:
        self._model = core().read_model(path)
        self.info = read_info(path, _text(self._model))
        inputs = [
            ("float32" if one.get_element_type() == openvino.Type.f32 else str(one.get_element_type()), _sides(one))
            for one in self._model.inputs
        ]
        self.scored = is_scored(self.info)
        self.batch, height, width = require_one_gray_image(path, inputs, len(self._model.outputs), 1 + self.scored)
        self.input_size = input_size(path, height, width, self.info, size)
        # Not pinned to cores: several processes would be pinned to the same ones.
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        if precision in _HINTS:
            self._options["INFERENCE_PRECISION_HINT"] = _HINTS[precision]
        self._asked = self.batch or batch or 1
        self._compiled: OrderedDict[int, openvino.InferRequest] = OrderedDict()
        self._lock = threading.Lock()
        used = self._request(self._asked).get_compiled_model().get_property("INFERENCE_PRECISION_HINT")
        self.precision = computed(self.info, _NAMES.get(used.get_type_name(), precision))

    def __call__(self, images: Array) -> Array:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        return self.both(images)[0]

    def both(self, images: Array) -> tuple[Array, Array]:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        require_images(images, self)
        count = len(images)
        images = filled(images, self._asked)
        with self._lock:
            request = self._request(len(images))
            found = request.infer({0: images}, share_inputs=True)
        return found[0][:count], found[1][:count] if self.scored else unscored(count)

    def _request(self, batch: int) -> openvino.InferRequest:
        if batch not in self._compiled:
            model = self._model.clone()
            model.reshape([batch, 1, *self.input_size])
            request = core().compile_model(model, "CPU", self._options).create_infer_request()
            while len(self._compiled) >= _MAX_COMPILED:
                self._compiled.popitem(last=False)
            self._compiled[batch] = request
        self._compiled.move_to_end(batch)
        return self._compiled[batch]


def open_model(
    path: Path, *, name: str, precision: str, threads: int, size: Size | None, batch: int | None, device: str
) -> OpenVino:
    """Load a .xml file with the .bin beside it, or a .onnx file."""
    require_cpu(name, device)
    if path.suffix.lower() == ".xml" and not path.with_suffix(".bin").is_file():
        raise WeightsError(
            f"its weights are not beside it: {path.with_suffix('.bin').name}", path=path, remedy="copy both files"
        )
    return OpenVino(path, precision, threads, size, batch)


def _text(model: openvino.Model) -> str | None:
    # An ONNX file's metadata properties come out as entries of "framework".
    for keys in ([KEY], ["framework", KEY]):
        if model.has_rt_info(keys):
            return str(model.get_rt_info(keys).astype(str))
    return None


def _sides(one: Any) -> list[int | None]:
    shape = one.get_partial_shape()
    return [] if shape.rank.is_dynamic else [side.get_length() if side.is_static else None for side in shape]
