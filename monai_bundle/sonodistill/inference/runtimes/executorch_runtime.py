"""ExecuTorch on the CPU: the program that a tablet runs, with the same XNNPACK kernels."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Program
from executorch.runtime import Runtime as Library

from sonodistill.errors import WeightsError
from sonodistill.inference.exported import FILE, KEY, ExportInfo
from sonodistill.inference.runtimes.base import Array, require_images, unscored
from sonodistill.inference.runtimes.checks import computed, input_size, read_info, require_cpu, require_one_gray_image
from sonodistill.transforms.geometry import Size

_FLOAT = 6  # of executorch's ScalarType
_MAX_BYTES = 1 << 22


class ExecuTorch:
    """See :class:`sonodistill.inference.runtimes.base.Runtime`.

    A program has a largest batch; more images than that are computed in several runs.
    """

    name = "executorch"
    scored = False

    def __init__(self, path: Path, threads: int, size: Size | None) -> None:
        if threads:  # one pool for the whole process, at first of as many threads as the machine has cores
            portable_lib._unsafe_reset_threadpool(threads)
        program = Library.get().load_program(path)
        self.info = _read_info(path, program)
        self._method = program.load_method("forward")
        meta = self._method.metadata
        tensors = [meta.input_tensor_meta(index) for index in range(meta.num_inputs())]
        inputs = [("float32" if one.dtype() == _FLOAT else f"type {one.dtype()}", one.sizes()) for one in tensors]
        most, height, width = require_one_gray_image(path, inputs, meta.num_outputs())
        self._most = most or 1
        # Of a program of somebody else the size may be the only one or the largest.
        self.batch = None if self.info is not None else self._most
        self.input_size = input_size(path, height, width, self.info, size)
        self.precision = computed(self.info, "fp32")
        self._lock = threading.Lock()

    def __call__(self, images: Array) -> Array:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        require_images(images, self)
        tensor = torch.from_numpy(np.ascontiguousarray(images))
        with self._lock:
            parts = [self._method.execute([part])[0].numpy() for part in tensor.split(self._most)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def both(self, images: Array) -> tuple[Array, Array]:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        return self(images), unscored(len(images))


def open_model(
    path: Path, *, name: str, precision: str, threads: int, size: Size | None, batch: int | None, device: str
) -> ExecuTorch:
    """Load a .pte file. It computes in the precision that it was exported in."""
    del precision, batch
    require_cpu(name, device)
    return ExecuTorch(path, threads, size)


def _read_info(path: Path, program: Program) -> ExportInfo | None:
    """The text beside the program, which tells of its check, else the one inside."""
    inside = None
    if KEY in program.method_names:
        inside = read_info(path, program.load_method(KEY).execute([])[0])
    beside = path.with_name(f"{path.name}.{FILE}")
    if not beside.is_file():
        return inside
    with beside.open("rb") as file:
        info = read_info(beside, file.read(_MAX_BYTES).decode("utf-8", "replace"))
    if inside is not None and info is not None and replace(info, check={}) != replace(inside, check={}):
        raise WeightsError("belongs to another model", path=beside, remedy=f"remove it, or copy that of {path.name}")
    return info
