"""What computes the frozen teacher: torch, or on a CPU OpenVINO."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError
from sonodistill_training.distill.teacher import Teacher

logger = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "compile", "openvino")
Engine = Callable[[Tensor], Tensor]
"""(B, 1, H, W) float32 in [0, 1] to the teacher's (B, D, h, w) tokens, bfloat16 where the training is."""

_CHUNK = 8  # images at a time: what OpenVINO's activations need then stays in a core's cache


def make_engine(teacher: Teacher, device: torch.device, bf16: bool, input_size: int, kind: str = "auto") -> Engine:
    """The teacher as a function.

    Args:
        kind: "torch"; "compile" (torch.compile); "openvino" (CPU only); or "auto": OpenVINO on a CPU where it is
            installed, else torch.

    Raises:
        BundleConfigError: no such engine, or one that is not installed or not for this device.
    """
    if kind not in ENGINES:
        raise BundleConfigError(f"unknown teacher engine {kind}", remedy=f"choose one of {', '.join(ENGINES)}")
    installed = importlib.util.find_spec("openvino") is not None
    if kind == "openvino" and not (installed and device.type == "cpu"):
        raise BundleConfigError(
            "OpenVINO is not installed" if device.type == "cpu" else f"OpenVINO does not compute on {device.type} here",
            remedy="pip install openvino" if device.type == "cpu" else "choose teacher_engine torch or compile",
        )
    if kind == "openvino" or (kind == "auto" and installed and device.type == "cpu"):
        try:
            return OpenVinoEngine(teacher, bf16, input_size)
        except Exception as error:
            # OpenVINO's converter has no error class of its own, and not every model can be traced.
            if kind == "openvino":
                raise BundleConfigError(
                    f"OpenVINO cannot convert {teacher.name}: {_first_line(error)}", remedy="set teacher_engine: torch"
                ) from error
            logger.warning("OpenVINO cannot convert %s (%s): torch computes it", teacher.name, _first_line(error))
    if bf16:
        teacher.precast(torch.bfloat16)
    return TorchEngine(teacher, bf16, compiled=kind == "compile")


class TorchEngine:
    """The teacher in torch, under autocast."""

    def __init__(self, teacher: Teacher, bf16: bool, compiled: bool = False) -> None:
        self._forward: Callable[[Tensor], Tensor] = torch.compile(teacher) if compiled else teacher  # type: ignore[assignment]
        self._bf16 = bf16

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16):
            tokens = self._forward(images)
        return tokens.bfloat16() if self._bf16 else tokens


class OpenVinoEngine:
    """The teacher in OpenVINO, one stream a core, a few images at a time."""

    def __init__(self, teacher: Teacher, bf16: bool, input_size: int) -> None:
        import openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about sizes that are constants here
            model = openvino.convert_model(
                _Whole(teacher),
                example_input=torch.rand(2, 1, input_size, input_size),
                input=[openvino.PartialShape([-1, 1, input_size, input_size])],
            )
        threads = torch.get_num_threads()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
        }
        compiled = openvino.Core().compile_model(model, "CPU", options)
        self._queue = openvino.AsyncInferQueue(compiled, 2 * threads)
        self._queue.set_callback(_store)
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        side = input_size // teacher.patch_size
        self._shape = (teacher.dim, side, side)

    def __call__(self, images: Tensor) -> Tensor:
        tokens = torch.empty((len(images), *self._shape), dtype=self._dtype)
        images = images.detach().float().contiguous()  # shared with OpenVINO: it has to outlive the requests
        for piece, place in zip(images.split(_CHUNK), tokens.split(_CHUNK), strict=True):
            self._queue.start_async({0: piece.numpy()}, userdata=place, share_inputs=True)
        self._queue.wait_all()
        return tokens


class _Whole(nn.Module):
    """The teacher as a module that torch.jit traces: its forward is under no_grad, which the tracer leaves out."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> Tensor:
        return self.teacher(images)


def _store(request: Any, place: Tensor) -> None:
    """Copy a finished request's tokens where they belong; the next request overwrites them."""
    place.copy_(torch.from_numpy(request.get_output_tensor().data))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
