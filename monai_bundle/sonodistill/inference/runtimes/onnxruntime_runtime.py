"""ONNX Runtime on the CPU, in the precision that the model was exported with."""

from __future__ import annotations

from pathlib import Path

import onnxruntime

from sonodistill.errors import BundleConfigError
from sonodistill.inference.exported import KEY
from sonodistill.inference.runtimes.base import Array, require_images, unscored
from sonodistill.inference.runtimes.checks import (
    computed,
    input_size,
    is_scored,
    read_info,
    require_cpu,
    require_one_gray_image,
)
from sonodistill.transforms.geometry import Size

_ERRORS_ONLY = 3


class OnnxRuntime:
    """See :class:`sonodistill.inference.runtimes.base.Runtime`."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int, size: Size | None) -> None:
        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        # From bytes: tensors that a file says are in other files are not looked for.
        self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self.info = read_info(path, self._session.get_modelmeta().custom_metadata_map.get(KEY))
        inputs = [
            (
                {"tensor(float)": "float32"}.get(one.type, one.type),
                [side if isinstance(side, int) else None for side in one.shape],
            )
            for one in self._session.get_inputs()
        ]
        outputs = len(self._session.get_outputs())
        self.scored = is_scored(self.info)
        self.batch, height, width = require_one_gray_image(path, inputs, outputs, 1 + self.scored)
        self.input_size = input_size(path, height, width, self.info, size)
        self.precision = computed(self.info, self.info.precision if self.info else "unknown")
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Array) -> Array:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        return self.both(images)[0]

    def both(self, images: Array) -> tuple[Array, Array]:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        require_images(images, self)
        found = self._session.run(None, {self._input: images})
        return found[0], found[1] if self.scored else unscored(len(images))


def open_model(
    path: Path, *, name: str, precision: str, threads: int, size: Size | None, batch: int | None, device: str
) -> OnnxRuntime:
    """Load a .onnx file; any number of images can be given to a graph that leaves it open."""
    del batch
    require_cpu(name, device)
    if precision == "bf16":
        raise BundleConfigError(
            "ONNX Runtime computes in the precision of the file, not in bf16 at wish",
            remedy="take --runtime openvino, which does",
        )
    return OnnxRuntime(path, threads, size)
