"""Core ML: an .mlpackage for iPads and Macs, written anywhere, run by macOS alone."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sonodistill.inference.exported import KEY, ExportInfo, from_text, to_text
from sonodistill_training.export.targets import INPUT, OUTPUT, ToolchainMissingError
from sonodistill_training.export.targets.capture import unsupported
from sonodistill_training.export.targets.quiet import quiet

try:
    with quiet("coremltools"):  # it warns of every version of torch that it was not tested with
        import coremltools
except ImportError as missing:
    raise ToolchainMissingError("coreml", "coremltools", "pip install 'coremltools>=9'") from missing

MAX_BATCH = 16


def can_run() -> bool:
    """Whether this machine computes Core ML models, so that an export can be checked."""
    return sys.platform == "darwin"


def write(network: nn.Module, path: Path, info: ExportInfo, calibration: Sequence[Any] | None = None) -> None:
    """Write ``network`` to the folder ``path``, for iOS 16 and macOS 13 or later; input and output are float32."""
    del calibration
    example = torch.rand((2, 1, *info.input_size), generator=torch.Generator().manual_seed(0))
    batch = coremltools.RangeDim(1, MAX_BATCH, default=1)
    precision = coremltools.precision.FLOAT16 if info.precision == "fp16" else coremltools.precision.FLOAT32
    with _silent(), torch.no_grad():
        try:
            traced = torch.jit.trace(network, example, check_trace=False)
            model = coremltools.convert(
                traced,
                convert_to="mlprogram",
                inputs=[coremltools.TensorType(INPUT, (batch, 1, *info.input_size), np.float32)],
                outputs=[coremltools.TensorType(OUTPUT, dtype=np.float32)],
                compute_precision=precision,
                minimum_deployment_target=coremltools.target.iOS16,
                skip_model_load=True,
            )
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise unsupported(info.target, error) from error
        _save(model, path, info)


def stamp(path: Path, info: ExportInfo) -> None:
    """Let the package say ``info`` of itself."""
    with _silent():
        _save(coremltools.models.MLModel(str(path), skip_model_load=True), path, info)


class CoreMl:
    """The package on macOS, as far as :class:`sonodistill.inference.runtimes.base.Runtime` is needed for a check."""

    batch = None

    def __init__(self, path: Path) -> None:
        self._model = coremltools.models.MLModel(str(path))
        self.info = from_text(self._model.user_defined_metadata[KEY])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(B, 1, H, W) float32, at most :data:`MAX_BATCH`, to the network's output."""
        return np.asarray(self._model.predict({INPUT: images})[OUTPUT], np.float32)


def open_model(path: Path) -> CoreMl:
    """The package, ready to run."""
    return CoreMl(path)


def _save(model: Any, path: Path, info: ExportInfo) -> None:
    model.user_defined_metadata[KEY] = to_text(info)
    model.short_description = f"{info.weights.architecture} {info.weights.kind} of ultrasound frames"
    model.license = info.weights.licence_notice
    # Not in its own place: a package that is read keeps its weights there until it is written.
    made = path.with_name(f".{path.name}")
    model.save(str(made))
    if path.exists():
        shutil.rmtree(path)
    made.rename(path)


@contextmanager
def _silent() -> Iterator[None]:
    """Without warnings and progress bars."""
    with quiet("coremltools"), contextlib.redirect_stderr(io.StringIO()):
        yield
