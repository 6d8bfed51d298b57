"""Frames in, masks out, through an exported ONNX model: needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from sonodistill.errors import WeightsError
from sonodistill.frames import Frame
from sonodistill.transforms.geometry import Size, from_output, to_input


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of a frame.

    Attributes:
        frame: the frame it was computed from.
        probability: (H, W) float32 on the frame's own pixel grid.
        mask: (H, W) bool, probability above the threshold.
    """

    frame: Frame
    probability: NDArray[np.float32]
    mask: NDArray[np.bool_]


class Predictor:
    """Run a segmenter that `python -m monai.bundle onnx_export` wrote.

    Args:
        model: an ONNX file with one input (B, 1, H, W) float32 in [0, 1] and one output of logits (B, 1, H, W).
        size: network input size, needed only where the file leaves H and W open.
        threads: 0 lets ONNX Runtime choose.

    Raises:
        WeightsError: the file is missing, no ONNX model, or does not have such an input and output.
    """

    def __init__(
        self, model: str | Path, *, size: Size | None = None, threshold: float = 0.5, threads: int = 0
    ) -> None:
        self.path = Path(model)
        self.threshold = threshold
        if not self.path.is_file():
            raise WeightsError("no such model", path=self.path, remedy="make it: `python -m monai.bundle onnx_export`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                self.path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise WeightsError(
                f"ONNX Runtime cannot load it ({type(error).__name__})", path=self.path, remedy="export it anew"
            ) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(outputs) != 1 or len(shape) != 4 or shape[1] != 1:
            raise WeightsError(
                f"its input is {shape}, not one gray image (B, 1, H, W)",
                path=self.path,
                remedy="export the bundle's network_def",
            )
        fixed = (shape[2], shape[3]) if isinstance(shape[2], int) and isinstance(shape[3], int) else None
        if fixed is None and size is None:
            raise WeightsError("leaves its input size open", path=self.path, remedy="say it: size=(256, 256)")
        self.size: Size = fixed or size  # type: ignore[assignment]
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self._name = inputs[0].name

    def __call__(self, frames: Iterable[Frame], batch_size: int = 4) -> Iterator[Prediction]:
        """Predict lazily, in order; never more than a batch of frames is held."""
        stream = iter(frames)
        while batch := list(islice(stream, self.batch or batch_size)):
            images = np.stack([to_input(frame.image, self.size) for frame in batch])
            missing = (self.batch or len(batch)) - len(batch)
            images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.float32)])
            (logits,) = self._session.run(None, {self._name: images})
            for frame, logit in zip(batch, logits, strict=False):
                probability = from_output(1 / (1 + np.exp(-np.clip(logit, -60, 60))), frame.image.shape)[0]  # type: ignore[arg-type]
                yield Prediction(frame, probability, probability > self.threshold)
