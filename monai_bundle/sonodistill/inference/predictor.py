"""Frames in; masks, classes or embeddings out, through whichever runtime: an exported model needs no torch."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonodistill import models
from sonodistill.errors import BundleConfigError
from sonodistill.frames import Frame
from sonodistill.inference.familiarity import LIMIT
from sonodistill.inference.pipeline import overlapped
from sonodistill.inference.runtimes import AUTO, open_runtime
from sonodistill.inference.runtimes.base import Array, filled
from sonodistill.inference.runtimes.checks import kind_of, require_answers
from sonodistill.transforms.geometry import Size, from_output, to_input

_KEPT_TIMES = 1 << 16


def _sigmoid(logits: Array) -> Array:
    return np.reciprocal(1 + np.exp(-np.clip(logits, -60, 60)), dtype=np.float32)


def _nothing() -> Array:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of a frame; what its kind of model does not say is empty.

    Attributes:
        frame: the frame it was computed from.
        labels: of the channels or classes; empty for an encoder.
        probabilities: segmenter: (C, H, W) float32 on the frame's own pixel grid, each channel by itself; classifier:
            (C,) float32, which add up to 1.
        masks: segmenter: (C, H, W) bool, the probabilities above the threshold.
        embedding: encoder: (D,) float32, the mean of its last map over the image.
        unfamiliarity: how far the frame lies from those that the model was made on, above 1 for one that it was not
            made for; NaN for a model that does not say it, see :mod:`sonodistill.inference.familiarity`.
    """

    frame: Frame
    labels: tuple[str, ...] = ()
    probabilities: Array = field(default_factory=_nothing)
    masks: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    embedding: Array = field(default_factory=_nothing)
    unfamiliarity: float = math.nan

    @property
    def is_unfamiliar(self) -> bool:
        """Whether the model warns of this frame."""
        return self.unfamiliarity > LIMIT

    @property
    def probability(self) -> Array:
        """(H, W) float32: that of the first label of a segmenter."""
        return self.probabilities[0]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool: that of the first label of a segmenter."""
        return self.masks[0]

    @property
    def label(self) -> str:
        """The most probable class of a classifier."""
        return self.labels[int(self.probabilities.argmax())]


class Predictor:
    """A model and how to use it on frames.

    Args:
        model: an exported model (.onnx, .xml, .ts, .pt2, .pte), or a checkpoint of ours (.safetensors), for torch; or
            the name of a shipped one.
        runtime: "torch", "torch-compile", "onnxruntime", "openvino", "executorch", or "auto": the fastest that reads
            the file here.
        precision: "fp32", "bf16", or "auto", bf16 where the hardware computes it.
        threads: of the inference; 0 lets the runtime choose.
        size: (height, width) of the network's input, needed only where the file leaves it open.
        batch_size: frames inferred together; a model exported for a fixed number takes that.
        threshold: a pixel is foreground above this probability.
        device: "cpu", or "cuda" with torch.

    Attributes:
        runtime: the loaded model.
        input_size: (height, width) of its input.
        kind: "segmenter", "classifier" or "encoder".
        labels: of the channels or classes; empty for an encoder.
        inference_ms: wall time of the latest calls of the runtime, each for one batch.

    Raises:
        SonoDistillError: see :func:`sonodistill.inference.runtimes.open_runtime`.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        runtime: str = AUTO,
        precision: str = "fp32",
        threads: int = 0,
        size: Size | None = None,
        batch_size: int = 1,
        threshold: float = 0.5,
        device: str = "cpu",
    ) -> None:
        if not 0 <= threshold <= 1:
            raise BundleConfigError(f"a threshold of {threshold}", remedy="give a probability, 0 to 1")
        self.path, self.threshold = models.path_of(model), threshold
        self.runtime = open_runtime(
            self.path, runtime, precision=precision, threads=threads, size=size, batch=batch_size, device=device
        )
        self.input_size = self.runtime.input_size
        self.batch_size = self.runtime.batch or batch_size
        self.inference_ms: deque[float] = deque(maxlen=_KEPT_TIMES)
        shape = self._infer(np.zeros((self.batch_size, 1, *self.input_size), np.float32))[0].shape
        self.inference_ms.clear()
        self.kind = kind_of(self.runtime, shape, self.path)
        named = self.runtime.info.weights.labels if self.runtime.info else ()
        self.labels = () if self.kind == "encoder" else named or tuple(f"class_{i}" for i in range(shape[1]))

    def __call__(self, frames: Iterable[Frame], batch_size: int | None = None) -> Iterator[Prediction]:
        """Predict lazily, in order; never more than a few batches of frames are held.

        While one batch is inferred, the next is decoded and prepared in another thread, which is the one that takes
        from ``frames``. An error of ``frames`` is raised after the predictions of the frames before it. Closing the
        iterator (or dropping it) ends the threads.

        Args:
            frames: of any sizes.
            batch_size: by default that of the constructor, which the runtime was warmed up with.
        """
        size = self.runtime.batch or batch_size or self.batch_size
        return overlapped(frames, size, self._prepare, self._answers, self._finish)

    def predict_one(self, frame: Frame) -> Prediction:
        """The prediction of one frame, in the caller's thread."""
        return self._finish(frame, self._answers(self._prepare([frame]))[0])

    def _prepare(self, frames: list[Frame]) -> Array:
        """(B, 1, *input_size) float32 in [0, 1]."""
        images = np.stack([to_input(frame.image, self.input_size) for frame in frames])
        return filled(images, self.runtime.batch or 0)

    def _infer(self, images: Array) -> tuple[Array, Array]:
        """The output, and (B,) how unfamiliar each image is."""
        start = time.perf_counter()
        output, scores = self.runtime.both(images)
        self.inference_ms.append(1000 * (time.perf_counter() - start))
        require_answers(self.path, images, output)
        return output, scores

    def _answers(self, images: Array) -> list[tuple[Array, float]]:
        output, scores = self._infer(images)
        return list(zip(output, scores.tolist(), strict=False))

    def _finish(self, frame: Frame, answer: tuple[Array, float]) -> Prediction:
        output, score = answer
        if self.kind == "encoder":
            return Prediction(frame, embedding=output.mean(axis=(1, 2)), unfamiliarity=score)
        if self.kind == "classifier":
            exponents = np.exp(output - output.max())
            return Prediction(frame, self.labels, exponents / exponents.sum(), unfamiliarity=score)
        height, width = frame.image.shape
        probabilities = from_output(_sigmoid(output), (height, width))
        return Prediction(frame, self.labels, probabilities, probabilities > self.threshold, unfamiliarity=score)
