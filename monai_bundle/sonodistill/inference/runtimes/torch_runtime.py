"""PyTorch, eager or compiled: checkpoints of ours, TorchScript and torch.export programs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.inference.exported import FILE, ExportInfo
from sonodistill.inference.runtimes.base import Array, filled, require_images, unscored
from sonodistill.inference.runtimes.checks import computed, input_size, is_scored, read_info, require_one_gray_image
from sonodistill.inference.scored import Scored, load_score
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.precision import use_bf16
from sonodistill.transforms.geometry import Size

Side = int | None
_JIT_PROFILES = 2  # runs that TorchScript looks at before it optimises


class TorchRuntime:
    """See :class:`sonodistill.inference.runtimes.base.Runtime`."""

    def __init__(
        self,
        name: str,
        module: Callable[[Tensor], Any],
        info: ExportInfo | None,
        size: Size,
        batch: int | None,
        device: torch.device,
        precision: str,
        asked: int,
    ) -> None:
        self.name, self.info, self.input_size, self.batch = name, info, size, batch
        self.scored = is_scored(info)
        self._device, self._bf16 = device, use_bf16(precision, device)
        self.precision = computed(info, "bf16" if self._bf16 else info.precision if info else "fp32")
        # A compiled graph is for one number of images: fewer are filled up rather than compiled for.
        self._asked = asked if name == "torch-compile" else 0
        self._module = torch.compile(module) if name == "torch-compile" else module

    def __call__(self, images: Array) -> Array:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        return self.both(images)[0]

    def both(self, images: Array) -> tuple[Array, Array]:
        """See :class:`sonodistill.inference.runtimes.base.Runtime`."""
        require_images(images, self)
        count = len(images)
        batch = torch.from_numpy(filled(images, self._asked)).to(self._device)
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            found = self._module(batch)
        parts = tuple(found) if self.scored and isinstance(found, (tuple, list)) else (found,)
        if len(parts) != 1 + self.scored or not all(isinstance(part, Tensor) for part in parts):
            wanted = "two arrays" if self.scored else "one array"
            raise WeightsError(f"its output is a {type(found).__name__}, not {wanted}", remedy="export it anew")
        output, *scores = (part[:count].float().cpu().numpy() for part in parts)
        return output, scores[0] if scores else unscored(count)


def open_model(
    path: Path, *, name: str, precision: str, threads: int, size: Size | None, batch: int | None, device: str
) -> TorchRuntime:
    """Load a checkpoint, a TorchScript archive or a torch.export program.

    A TorchScript archive is a program that TorchScript's interpreter runs; it has no way into Python. Of a .pt2 only
    what cannot run code is read, see :mod:`sonodistill.inference.runtimes.pt2`. ``threads`` is set for the process.
    """
    where = _device(device)
    if threads:
        torch.set_num_threads(threads)
    module, info, (fixed, height, width) = _LOADERS[path.suffix.lower()](path, where, size)
    found = input_size(path, height, width, info, size)
    opened = TorchRuntime(name, module, info, found, fixed, where, precision, fixed or batch or 1)
    if path.suffix.lower() == ".ts":
        for _ in range(_JIT_PROFILES):
            opened(torch.zeros(fixed or batch or 1, 1, *found).numpy())
    return opened


Loaded = tuple[Callable[[Tensor], Any], ExportInfo | None, tuple[Side, Side, Side]]


def _checkpoint(path: Path, device: torch.device, size: Size | None) -> Loaded:
    module, header = load_network(path)
    size = size or header.input_size or input_size(path, None, None, None, None)
    info = ExportInfo(header, "torch", "fp32", size)
    score = load_score(path, module, header)
    module = module if score is None else Scored(module, score).eval()
    return module.to(device, memory_format=torch.channels_last), info, (None, *size)  # type: ignore[call-overload]


def _torchscript(path: Path, device: torch.device, _: Size | None) -> Loaded:
    files = {FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that TorchScript is deprecated, in favour of .pt2
        module = torch.jit.load(path, map_location=device, _extra_files=files).eval()
    text: str | bytes = files[FILE]
    takes = len(module.forward.schema.arguments) - 1
    require_one_gray_image(path, [("float32", [None, 1, None, None])] * takes, len(module.forward.schema.returns))
    return module, read_info(path, text.decode() if isinstance(text, bytes) else text), (None, None, None)


def _program(path: Path, device: torch.device, _: Size | None) -> Loaded:
    from sonodistill.inference.runtimes.pt2 import load_program

    program, text = load_program(path)
    signature = program.graph_signature
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [_described(values.get(str(name))) for name in signature.user_inputs]
    info = read_info(path, text)
    sides = require_one_gray_image(path, inputs, len(signature.user_outputs), 1 + is_scored(info))
    return program.module().to(device), info, sides


def _described(value: Any) -> tuple[str, Sequence[Side]]:
    if not isinstance(value, Tensor):
        return type(value).__name__, ()
    shape = [side if isinstance(side, int) else None for side in value.shape]
    return str(value.dtype).removeprefix("torch."), shape


_LOADERS: dict[str, Callable[[Path, torch.device, Size | None], Loaded]] = {
    ".safetensors": _checkpoint,
    ".ts": _torchscript,
    ".pt2": _program,
}


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BundleConfigError(f"unknown device {name}", remedy="take cpu or cuda") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise BundleConfigError(f"torch has no device {name} here", remedy="take cpu")
    return device
