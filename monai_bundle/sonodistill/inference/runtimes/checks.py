"""What is true of a model whichever runtime opens it: one gray image in, and what its metadata say out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.inference.exported import ExportInfo, from_text
from sonodistill.inference.runtimes.base import Array, PredictionError, Runtime
from sonodistill.transforms.geometry import Size

_EXPORT = "export it anew: `sonodistill export`"
Side = int | None
"""Of a shape; None where the file leaves it open."""


def require_file(path: Path) -> None:
    """Raise WeightsError unless there is a file with something in it."""
    if not path.is_file():
        found = "this is a folder" if path.is_dir() else "no such model"
        remedy = "make one: `sonodistill export CHECKPOINT`, or `python -m monai.bundle onnx_export`"
        raise WeightsError(found, path=path, remedy=remedy)
    if path.stat().st_size == 0:
        raise WeightsError("the file is empty (0 bytes)", path=path, remedy="copy or export it again")


def read_info(path: Path, text: str | None) -> ExportInfo | None:
    """The metadata of a file; None where there are none.

    Raises:
        WeightsError: they cannot be read.
    """
    if not text:
        return None
    try:
        return from_text(text)
    except WeightsError as error:
        raise WeightsError(error.message, path=path, remedy=error.remedy or _EXPORT) from error


def is_scored(info: ExportInfo | None) -> bool:
    """Whether a model has a second output, which says how unfamiliar a frame is."""
    return info is not None and bool(info.weights.familiarity)


def require_one_gray_image(
    path: Path, inputs: Sequence[tuple[str, Sequence[Side]]], outputs: int, wanted: int = 1
) -> tuple[Side, Side, Side]:
    """(batch, height, width) of the one input of a graph, None where they are open.

    Args:
        inputs: type ("float32") and shape of each.
        outputs: how many there are.
        wanted: how many there have to be.

    Raises:
        WeightsError: several inputs, another number of outputs, or an input that is not (B, 1, H, W) float32.
    """
    if len(inputs) != 1 or outputs != wanted:
        asked = "one of each" if wanted == 1 else f"1 and {wanted}"
        raise WeightsError(f"it has {len(inputs)} inputs and {outputs} outputs, not {asked}", path=path, remedy=_EXPORT)
    dtype, shape = inputs[0]
    if dtype != "float32" or len(shape) != 4 or shape[1] not in (1, None):
        said = tuple("?" if side is None else side for side in shape)
        raise WeightsError(f"its input is {dtype} {said}, not one gray image (B, 1, H, W)", path=path, remedy=_EXPORT)
    return shape[0], shape[2], shape[3]


def input_size(path: Path, height: Side, width: Side, info: ExportInfo | None, size: Size | None) -> Size:
    """(height, width) that a model takes: the graph's, else the metadata's, else ``size``.

    Raises:
        WeightsError: graph and metadata contradict each other, or nothing says it.
    """
    if height is not None and width is not None:
        if info is not None and info.input_size != (height, width):
            said = f"its metadata say {_by(info.input_size)} pixels, but its graph takes {_by((height, width))}"
            raise WeightsError(said, path=path, remedy=_EXPORT)
        return height, width
    found = size if info is None else info.input_size
    if found is None:
        raise WeightsError(
            "leaves its input size open", path=path, remedy="say it: size=(256, 256), or --size 256 of `predict`"
        )
    return found


def check_output(path: Path, runtime: Runtime, shape: tuple[int, ...]) -> None:
    """Raise WeightsError where a model's output is not what its metadata say, or nothing that is known."""
    info = runtime.info
    if info is None:
        kind_of(runtime, shape, path)
        return
    kind, labels = info.weights.kind, info.weights.labels
    fits = len(shape) == (2 if kind == "classifier" else 4)
    if kind == "classifier" and fits and shape[1] == 1:
        raise _of_one_class(path)
    if kind == "segmenter":
        fits = fits and shape[2:] == tuple(runtime.input_size)
    if not fits or (labels and kind != "encoder" and shape[1] != len(labels)):
        named = f" with {len(labels)} labels ({', '.join(labels)[:80]})" if labels else ""
        raise WeightsError(
            f"its metadata say {kind}{named}, but its output is {('B', *shape[1:])}", path=path, remedy=_EXPORT
        )


def kind_of(runtime: Runtime, shape: tuple[int, ...], path: Path) -> str:
    """ "segmenter", "classifier" or "encoder": as the metadata say, else as the shape of the output does.

    Raises:
        WeightsError: neither says it.
    """
    if runtime.info is not None:
        return runtime.info.weights.kind
    if len(shape) == 4 and shape[2:] == tuple(runtime.input_size):
        return "segmenter"
    if len(shape) == 2 and shape[1] == 1:
        raise _of_one_class(path)
    if len(shape) == 2:
        return "classifier"
    raise WeightsError(
        f"its output is {('B', *shape[1:])}: neither logits of a mask (B, classes, H, W) nor of classes (B, classes), "
        "and it has no metadata",
        path=path,
        remedy=_EXPORT,
    )


def require_answers(path: Path, images: Array, output: Array) -> None:
    """Raise PredictionError unless there is an output for each image, of numbers."""
    if len(output) != len(images):
        raise PredictionError(f"gives {len(output)} outputs for {len(images)} images", path=path, remedy=_EXPORT)
    finite = np.isfinite(output).reshape(len(output), -1).all(axis=1)
    if not finite.all():
        raise PredictionError(
            f"its output for {int((~finite).sum())} of {len(images)} frames has NaN or infinite values",
            path=path,
            remedy="take --precision fp32; where that does not help, the weights are damaged",
        )


def _of_one_class(path: Path) -> WeightsError:
    return WeightsError(
        "a classifier with one class says the same of every frame",
        path=path,
        remedy="train it with two or more",
    )


def require_cpu(name: str, device: str) -> None:
    """Raise BundleConfigError for a device that only torch has."""
    if device != "cpu":
        raise BundleConfigError(f"{name} computes on the CPU, not on {device}", remedy="take --runtime torch there")


def computed(info: ExportInfo | None, precision: str) -> str:
    """What to call the arithmetic: that of the integer layers of an int8 model, else ``precision``.

    A file that does not say what it is may have integer layers as well.
    """
    return "int8" if info is not None and info.precision == "int8" else precision


def _by(size: Size) -> str:
    return f"{size[0]} x {size[1]}"
