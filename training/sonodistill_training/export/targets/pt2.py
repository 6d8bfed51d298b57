"""torch.export's own file: a graph that torch loads without the network's Python code, and compiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sonodistill.inference.exported import FILE, ExportInfo, to_text
from sonodistill_training.export.targets.capture import capture
from sonodistill_training.export.targets.cast import in_precision


def write(network: nn.Module, path: Path, info: ExportInfo, calibration: Sequence[Any] | None = None) -> None:
    """Write ``network`` in ``info.precision``, whose input and output stay float32."""
    del calibration
    program = capture(in_precision(network, info.precision), info.input_size, info.target)
    torch.export.save(program, path, extra_files={FILE: to_text(info)})


def stamp(path: Path, info: ExportInfo) -> None:
    """Let the file say ``info`` of itself."""
    torch.export.save(torch.export.load(path), path, extra_files={FILE: to_text(info)})
