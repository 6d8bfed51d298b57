"""The ways of running a network that are compared: runtime, precision, and the file that it is loaded from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sonodistill.errors import BundleConfigError


@dataclass(frozen=True, slots=True)
class Variant:
    """A runtime at a precision.

    Attributes:
        name: on the command line and in the table.
        runtime: "torch", "onnxruntime" ...
        precision: of the arithmetic, as the table names it.
        target: format that it is exported to, a key of ``TARGETS``; empty for a module of torch as it is.
    """

    name: str
    runtime: str
    precision: str
    target: str = ""

    @property
    def is_eager(self) -> bool:
        """Whether the network itself is loaded, by its name or its weights file."""
        return not self.target

    @property
    def asked_precision(self) -> str:
        """What ``open_runtime`` is asked for; of int8, the layers that are not quantised take what is fastest."""
        return "auto" if self.precision == "int8" else self.precision


EAGER = "eager"
INT8 = "openvino-int8"
COMPILED = "torch-compile"
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(EAGER, "torch", "fp32"),
        Variant("eager-channels-last", "torch", "fp32"),
        Variant("eager-bf16", "torch", "bf16"),
        Variant(COMPILED, "torch-compile", "fp32"),
        Variant("torchscript", "torch", "fp32", "torchscript"),
        Variant("onnxruntime", "onnxruntime", "fp32", "onnx"),
        Variant("onnxruntime-int8", "onnxruntime", "int8", "onnx-int8"),
        # OpenVINO's own format is made by way of ONNX: the same graph, without exporting it once more.
        Variant("openvino", "openvino", "fp32", "onnx"),
        Variant("openvino-bf16", "openvino", "bf16", "onnx"),
        Variant(INT8, "openvino", "int8", "openvino-int8"),
        Variant("executorch", "executorch", "fp32", "executorch"),
    )
}


def choose(names: Sequence[str]) -> tuple[Variant, ...]:
    """The variants of these names, each once, in the order of the table.

    Raises:
        BundleConfigError: no such variant.
    """
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise BundleConfigError(f"unknown runtime {unknown[0]}", remedy=f"choose among {', '.join(VARIANTS)}")
    return tuple(variant for name, variant in VARIANTS.items() if name in names)
