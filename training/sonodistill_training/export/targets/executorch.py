"""ExecuTorch: a program for tablets and phones, computed by XNNPACK, in fp32 or int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim, ExportedProgram

from sonodistill.inference.exported import FILE, KEY, ExportInfo, to_text
from sonodistill_training.export.targets import ToolchainMissingError
from sonodistill_training.export.targets.capture import unsupported
from sonodistill_training.export.targets.quiet import quiet

try:
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.exir import to_edge_transform_and_lower
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
except ImportError as missing:
    absent = isinstance(missing, ModuleNotFoundError) and (missing.name or "").partition(".")[0] == "executorch"
    raise ToolchainMissingError(
        "executorch",
        "executorch",
        "pip install 'executorch>=1.5' (1.5.1 works with torch 2.15 and torchao 0.18); it needs NumPy 2, so where "
        "the extra `label` is installed, which needs NumPy 1.26, take an environment of its own",
        "which is not installed" if absent else f"which cannot be imported ({str(missing)[:120]})",
    ) from missing

MAX_BATCH = 4
"""Images that a program takes at once; its memory is planned for them, whether they come or not."""


def write(
    network: nn.Module, path: Path, info: ExportInfo, calibration: Sequence[NDArray[np.float32]] | None = None
) -> None:
    """Write ``network`` to ``path``, and what it says of itself into it and beside it.

    Inside, the text is what the method "sonodistill" returns: an app on a tablet reads the labels from the one file.
    """
    with quiet():
        program = _capture(network, info)
        try:
            if info.precision == "int8":
                program = _capture(_quantise(program, calibration or []), info)
            lowered = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods={KEY: to_text(info)}
            )
            made = lowered.to_executorch()
        except (RuntimeError, ValueError, KeyError, NotImplementedError) as error:
            raise unsupported(info.target, error) from error
    with path.open("wb") as file:
        made.write_to_file(file)
    stamp(path, info)


def stamp(path: Path, info: ExportInfo) -> None:
    """Let the file beside the program say ``info``; the text in the program stays as it was written."""
    path.with_name(f"{path.name}.{FILE}").write_text(to_text(info), encoding="utf-8")


def _capture(network: nn.Module, info: ExportInfo) -> ExportedProgram:
    example = torch.rand((2, 1, *info.input_size), generator=torch.Generator().manual_seed(0))
    batch = Dim("batch", min=1, max=MAX_BATCH)
    try:
        return torch.export.export(network, (example,), dynamic_shapes=({0: batch},), strict=False)
    except Exception as error:
        raise unsupported(info.target, error) from error


def _quantise(program: ExportedProgram, calibration: Sequence[NDArray[np.float32]]) -> nn.Module:
    """Weights by channel, activations by tensor, with the ranges seen on the calibration frames."""
    quantizer: Any = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantizer)
    with torch.inference_mode():
        for frame in calibration:
            prepared(torch.from_numpy(frame)[None])
    return convert_pt2e(prepared)
