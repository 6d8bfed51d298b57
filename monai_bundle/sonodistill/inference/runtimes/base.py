"""What every runtime offers: gray images in, the network's output out, whatever computes it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError
from sonodistill.inference.exported import ExportInfo

Array = NDArray[np.float32]


class InputError(SonoDistillError):
    """An array given to a model has not the shape or dtype that the model takes."""


class PredictionError(SonoDistillError):
    """What a model computed is no answer: not one for each image, or not numbers."""


class Runtime(Protocol):
    """A model, loaded and ready.

    Attributes:
        name: of the runtime, as a user asks for it ("openvino").
        precision: of the arithmetic: "fp32", "bf16", "fp16" or "int8".
        info: what the model says of itself; None for a file that SonoDistill did not export.
        input_size: (height, width) in pixels it takes.
        batch: images it takes at once; None for any number.
        scored: whether the model says how unfamiliar a frame is, see :meth:`both`.
    """

    name: str
    precision: str
    info: ExportInfo | None
    input_size: tuple[int, int]
    batch: int | None
    scored: bool

    def __call__(self, images: Array) -> Array:
        """(B, 1, H, W) float32 in [0, 1] to the network's output, float32: logits (B, classes, H, W) or (B, classes),
        or an encoder's last map (B, channels, h, w).

        Raises:
            InputError: another shape or dtype.
        """
        ...

    def both(self, images: Array) -> tuple[Array, Array]:
        """The same with (B,) float32: how unfamiliar each frame is, above 1 for one that the model was not made for;
        NaN of a model that does not say it.

        Raises:
            InputError: another shape or dtype.
        """
        ...


def require_images(images: Array, runtime: Runtime) -> None:
    """Raise InputError unless ``images`` is what the runtime takes."""
    height, width = runtime.input_size
    batch = "B" if runtime.batch is None else runtime.batch
    wanted = f"a float32 array ({batch}, 1, {height}, {width})"
    remedy = "make it with sonodistill.transforms.geometry.to_input(frame.image, input_size)"
    if not isinstance(images, np.ndarray) or images.dtype != np.float32:
        found = getattr(images, "dtype", type(images).__name__)
        raise InputError(f"the model takes {wanted}, not {found}", remedy=remedy)
    shape = images.shape
    if len(shape) != 4 or shape[1:] != (1, height, width) or not shape[0] or shape[0] != (runtime.batch or shape[0]):
        raise InputError(f"the model takes {wanted}, not {shape}", remedy=remedy)


class RuntimeMissingError(SonoDistillError):
    """The runtime asked for is not installed."""


def unscored(count: int) -> Array:
    """(count,) NaN: of a model that does not say how unfamiliar a frame is."""
    return np.full(count, np.nan, np.float32)


def filled(images: Array, batch: int) -> Array:
    """``images`` with zeros behind them, up to ``batch``: for what is compiled for one number of images."""
    missing = batch - len(images)
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)]) if missing > 0 else images
