"""What computes the frozen teacher (torch, or on a CPU OpenVINO), and what the student."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError
from sonodistill.networks.encoder import Encoder
from sonodistill_training.distill.teacher import Teacher

logger = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "compile", "openvino")
STUDENT_ENGINES = ("auto", "torch", "compile", "fast")

_CHUNK = 8  # images at a time: what OpenVINO's activations need then stays in a core's cache


class Engine(Protocol):
    """The teacher as a function."""

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 1, H, W) float32 in [0, 1] to the teacher's (B, D, h, w) tokens, bfloat16 where the training is."""

    def start(self, images: Tensor) -> Callable[[], Tensor]:
        """Begin, where that can be done beside other work; the result's call waits for the tokens and gives them."""


def make_engine(
    teacher: Teacher,
    device: torch.device,
    bf16: bool,
    input_size: int,
    kind: str = "auto",
    threads: int | None = None,
) -> Engine:
    """The teacher as a function.

    Args:
        kind: "torch"; "compile" (torch.compile); "openvino" (CPU only); or "auto": OpenVINO on a CPU where it is
            installed, else torch.
        threads: of OpenVINO; by default as many as torch has.

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
            return OpenVinoEngine(teacher, bf16, input_size, threads)
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


def prepare_student(student: Encoder, device: torch.device, bf16: bool, kind: str = "auto", levels: int = 1) -> None:
    """Change how a student is computed, in place.

    Args:
        kind: "torch"; "compile" (torch.compile, minutes at the start); "fast" (the layers of
            :mod:`sonodistill_training.kernels`, for bfloat16 on a CPU); or "auto": fast where it can be, else torch.
        levels: how many of the student's last maps are used.

    Raises:
        BundleConfigError: no such engine, or fast where it is not possible.
    """
    if kind not in STUDENT_ENGINES:
        raise BundleConfigError(f"unknown student engine {kind}", remedy=f"choose one of {', '.join(STUDENT_ENGINES)}")
    if kind == "compile":
        student.model.compile()
    elif kind == "fast" or (kind == "auto" and bf16 and device.type == "cpu"):
        try:
            _make_fast(student, device, bf16, levels)
        except BundleConfigError as error:
            if kind == "fast":
                raise
            logger.warning("%s; torch computes the student", error.message)


def _make_fast(student: Encoder, device: torch.device, bf16: bool, levels: int) -> None:
    if not bf16 or device.type != "cpu":
        raise BundleConfigError(
            "the fast layers are for bfloat16 on a CPU", remedy="choose student_engine torch or compile"
        )
    try:
        from sonodistill_training.kernels.accelerate import accelerate
    except (ImportError, RuntimeError) as error:  # Numba: not there, not for this NumPy, or no folder for its cache
        raise BundleConfigError(f"Numba cannot be used: {_first_line(error)}", remedy="pip install numba") from error
    accelerate(student, first_map=levels == len(student.channels))


class TorchEngine:
    """The teacher in torch, under autocast."""

    def __init__(self, teacher: Teacher, bf16: bool, compiled: bool = False) -> None:
        self._forward: Callable[[Tensor], Tensor] = torch.compile(teacher) if compiled else teacher  # type: ignore[assignment]
        self._bf16 = bf16

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=self._bf16):
            tokens = self._forward(images)
        return tokens.bfloat16() if self._bf16 else tokens

    def start(self, images: Tensor) -> Callable[[], Tensor]:
        """Nothing is begun: the call computes it."""
        return lambda: self(images)


class OpenVinoEngine:
    """The teacher in OpenVINO, one stream a thread, a few images at a time."""

    def __init__(self, teacher: Teacher, bf16: bool, input_size: int, threads: int | None = None) -> None:
        from sonodistill.inference.runtimes.openvino_core import core, openvino

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about sizes that are constants here
            model = openvino.convert_model(
                _Whole(teacher),
                example_input=torch.rand(2, 1, input_size, input_size),
                input=[openvino.PartialShape([-1, 1, input_size, input_size])],
            )
        threads = threads or torch.get_num_threads()
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": threads,
            "INFERENCE_NUM_THREADS": threads,
        }
        compiled = core().compile_model(model, "CPU", options)
        self._queue = openvino.AsyncInferQueue(compiled, 2 * threads)
        self._queue.set_callback(_store)
        self._feeder = ThreadPoolExecutor(1, "sonodistill-teacher")
        self._dtype = torch.bfloat16 if bf16 else torch.float32
        side = input_size // teacher.patch_size
        self._shape = (teacher.dim, side, side)

    def __call__(self, images: Tensor) -> Tensor:
        return self.start(images)()

    def start(self, images: Tensor) -> Callable[[], Tensor]:
        """Begin as soon as what was started before is done; until the call the images must stay as they are.

        In float32 there are never more tokens than those of a few images for each thread.
        """
        return self._feeder.submit(self._compute, images.detach().float().contiguous()).result

    def _compute(self, images: Tensor) -> Tensor:
        tokens = torch.empty((len(images), *self._shape), dtype=self._dtype)
        for piece, place in zip(images.split(_CHUNK), tokens.split(_CHUNK), strict=True):
            self._queue.start_async({0: piece.numpy()}, userdata=place, share_inputs=True)
        self._queue.wait_all()
        return tokens


class _Whole(nn.Module):
    """The teacher as a module that torch.jit traces: its forward is under no_grad, which the tracer leaves out."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        # Layers are exchanged in a copy; the weights, which are only read, are the teacher's own.
        self.teacher = copy.deepcopy(teacher, {id(weight): weight for weight in teacher.parameters()})
        for module in list(self.teacher.modules()):
            for name, child in module.named_children():
                plain = type(child) is Attention and isinstance(child.q_norm, nn.Identity)
                if plain and getattr(child, "gate", None) is None:
                    setattr(module, name, _SplitAttention(child))

    def forward(self, images: Tensor) -> Tensor:
        return self.teacher(images)


class _SplitAttention(nn.Module):
    """timm's attention with a layer each for queries, keys and values, which OpenVINO makes fewer copies for."""

    def __init__(self, joint: Attention) -> None:
        super().__init__()
        self.heads = joint.num_heads
        weights = joint.qkv.weight.chunk(3)
        biases = (None,) * 3 if joint.qkv.bias is None else joint.qkv.bias.chunk(3)
        self.inputs = nn.ModuleList(_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True))
        self.norm, self.proj = joint.norm, joint.proj

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        """(B, tokens, D)."""
        query, key, value = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in self.inputs)
        mixed: Tensor = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(self.norm(mixed.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def _store(request: Any, place: Tensor) -> None:
    """Copy a finished request's tokens where they belong; the next request overwrites them."""
    place.copy_(torch.from_numpy(request.get_output_tensor().data))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
