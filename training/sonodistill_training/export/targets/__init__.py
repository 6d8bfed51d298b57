"""The formats that a network is exported to: a table of modules, each imported when it is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sonodistill.errors import SonoDistillError

if TYPE_CHECKING:  # the command line lists the targets in its help, which need not wait for torch
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from sonodistill.inference.exported import ExportInfo

INPUT, OUTPUT = "image", "output"
"""Names of the input and the output of every exported graph that names them."""


class ToolchainMissingError(SonoDistillError):
    """A target needs a package that is not installed, or does not work on this machine.

    Args:
        target: that was asked for.
        package: that is missing.
        install: what to type.
        reason: why it does not work, where it is installed.
    """

    def __init__(self, target: str, package: str, install: str = "", reason: str = "which is not installed") -> None:
        super().__init__(f"{target} needs {package}, {reason}", remedy=install or f"pip install {package}")


class UnsupportedOperatorError(SonoDistillError):
    """The network computes something that the target's format has no operator for."""


@dataclass(frozen=True, slots=True)
class Target:
    """A format.

    Attributes:
        name: as a user asks for it: "openvino-int8".
        suffix: of the file that is opened: ".xml". The file is ``model<suffix>`` unless it is named.
        precisions: it can be written in; the first is the default.
        module: of this package, which has
            ``write(network: nn.Module, path: Path, info: ExportInfo, calibration: Sequence[NDArray] | None) -> None``,
            and may have ``stamp(path: Path, info: ExportInfo) -> None``, which replaces what the file says of itself.
        runtime: that runs the file here, a name of ``sonodistill.inference.runtimes.RUNTIMES``; empty when none does,
            so that the file cannot be checked.
        packages: whose versions the file records.
        companions: suffixes of other files that belong to it and are replaced with it.
        scored: whether the file can have a second output, the warning score. TorchScript's readers (MONAI Deploy,
            MONAI Label) expect one output, and what ExecuTorch and Core ML say of two cannot be checked on Linux.
    """

    name: str
    suffix: str
    precisions: tuple[str, ...]
    module: str
    runtime: str = ""
    packages: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    scored: bool = False

    def file_name(self, precision: str) -> str:
        """The default name of its file: "model.onnx", or "model.int8.onnx" beside it."""
        return f"model{'' if precision == 'fp32' else '.' + precision}{self.suffix}"

    def write(
        self,
        network: nn.Module,
        path: Path,
        info: ExportInfo,
        calibration: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        """Write ``network`` to ``path``, in a folder where nothing else lies.

        Args:
            network: in eval mode, (B, 1, H, W) gray in [0, 1] to one tensor; of a ``scored`` target and where the
                header of ``info`` has a familiarity, to the output and (B,) scores.
            path: of the file; companions go beside it.
            info: says the input's size and the precision; it is stored in the file.
            calibration: frames (1, H, W) float32, for an int8 target.

        Raises:
            ToolchainMissingError: a package of the target is not installed.
            UnsupportedOperatorError: the format has no such operator.
        """
        self._import().write(network, path, info, calibration)

    def stamp(self, network: nn.Module, path: Path, info: ExportInfo) -> None:
        """Let the file say ``info`` of itself; it is written again where its format has no way to do only that."""
        module = self._import()
        if hasattr(module, "stamp"):
            module.stamp(path, info)
        else:
            module.write(network, path, info)

    @property
    def can_run(self) -> bool:
        """Whether a file can be run on this kind of machine, and so be checked.

        Raises:
            ToolchainMissingError: a package of the target is not installed.
        """
        return bool(self.runtime) or self._import().can_run()

    def open(self, path: Path) -> Any:
        """A file of this target in a runtime that reads it."""
        if not self.runtime:
            return self._import().open_model(path)
        from sonodistill.inference.runtimes import open_runtime

        return open_runtime(path, self.runtime)

    def _import(self) -> Any:
        return import_module(f"{__name__}.{self.module}")


_ONNX = ("onnx", "onnxscript")

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("onnx", ".onnx", ("fp32", "fp16"), "onnx", "onnxruntime", _ONNX, scored=True),
        Target("onnx-int8", ".onnx", ("int8",), "onnx_int8", "onnxruntime", (*_ONNX, "onnxruntime"), scored=True),
        Target("openvino", ".xml", ("fp32", "fp16"), "openvino", "openvino", (*_ONNX, "openvino"), (".bin",), True),
        Target(
            "openvino-int8", ".xml", ("int8",), "openvino", "openvino", (*_ONNX, "openvino", "nncf"), (".bin",), True
        ),
        Target("torchscript", ".ts", ("fp32", "fp16", "bf16"), "torchscript", "torch", ("monai",)),
        Target("pt2", ".pt2", ("fp32", "fp16", "bf16"), "pt2", "torch", scored=True),
        Target(
            "executorch",
            ".pte",
            ("fp32", "int8"),
            "executorch",
            "executorch",
            ("executorch",),
            (".pte.sonodistill.json",),
        ),
        Target("coreml", ".mlpackage", ("fp32", "fp16"), "coreml", "", ("coremltools",)),
    )
}


def find_target(name: str) -> Target:
    """The target of this name.

    Raises:
        SonoDistillError: there is none.
    """
    if name not in TARGETS:
        raise SonoDistillError(f"there is no target {name!r:.40}", remedy=f"take one of {', '.join(TARGETS)}")
    return TARGETS[name]


def companion_paths(path: str | Path, target: Target) -> list[Path]:
    """The other files of an export: "model.bin" beside "model.xml", "model.pte.sonodistill.json" beside "model.pte"."""
    stem = os.fspath(path).removesuffix(target.suffix)
    return [Path(stem + suffix) for suffix in target.companions]
