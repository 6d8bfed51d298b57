"""Click to segment: the features of a frame are computed once and kept; each prompt costs the small decoder alone."""

from __future__ import annotations

import threading
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sonodistill.annotate.clicks.prompts import check_prompts, draw_prompts
from sonodistill.annotate.errors import InvalidPromptError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Prompts
from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.precision import use_bf16
from sonodistill.transforms.geometry import to_input

_MIB = 1 << 20
_THRESHOLD = 0.5
_ODDS = 0.7 / 0.3


@dataclass(frozen=True, slots=True)
class Refined:
    """What the network answers to prompts.

    Attributes:
        mask: (H, W) bool, the probability above a half; in a propagation above the threshold that it found.
        probability: (H, W) float32.
        confidence: 0 to 1, see :func:`stability`.
        cached: whether the features of the frame were there already.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    confidence: float
    cached: bool


def stability(probability: NDArray[np.float32], threshold: float = _THRESHOLD) -> float:
    """How little the mask depends on the threshold: pixels above 0.7 as a share of those above 0.3, 0 where none is.

    It is the intersection over union of the two masks, the stability score of Segment Anything (Kirillov et al.,
    2023, section 5). Around another threshold than a half the two are as far away in logits.
    """
    odds = threshold / (1 - threshold)
    strict, lax = (odds * factor / (1 + odds * factor) for factor in (_ODDS, 1 / _ODDS))
    wide = int(np.count_nonzero(probability > lax))
    return int(np.count_nonzero(probability > strict)) / wide if wide else 0.0


class Interactive:
    """An interactive segmenter. One computation at a time; every method may be called from any thread.

    Args:
        weights: ``model.safetensors`` of the bundle's ``interactive.yaml``.
        threads: of torch, for the whole process; 0 leaves it as it is.
        cached: MiB of features that are kept, those of the frames used last; 1 MiB is about two frames at 256 pixels.
        precision: of the features: "fp32", "bf16", or "auto", bf16 where the hardware computes it. The decoder that
            reads the prompts computes in float32.

    Attributes:
        input_size: (height, width) of the network's input.

    Raises:
        WeightsError: no such file, or one that is no interactive segmenter.
        BundleConfigError: a negative size of the cache, or an unknown precision.
    """

    def __init__(self, weights: str | Path, *, threads: int = 0, cached: int = 64, precision: str = "auto") -> None:
        if cached < 0:
            raise BundleConfigError(f"a cache of {cached} MiB", remedy="give 0 or more")
        network, info = load_network(weights, kinds=("interactive",))
        if info.input_size is None:
            raise WeightsError("does not say its input size", path=weights, remedy="train it with interactive.yaml")
        if threads:
            torch.set_num_threads(threads)
        self.path = Path(weights)
        self.input_size = info.input_size
        self._network: Any = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._bf16 = use_bf16(precision, torch.device("cpu"))
        self._limit = cached * _MIB
        self._kept: OrderedDict[FrameId, tuple[tuple[tuple[int, ...], int], torch.Tensor]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        blank = np.zeros(self.input_size, np.uint8)
        self._answer(self._compute(blank), Prompts(positive=((0.0, 0.0),)), blank.shape)  # the first is the slowest

    @property
    def cached_bytes(self) -> int:
        """Of the features that are kept."""
        return self._bytes

    def embed(self, id: FrameId, image: NDArray[np.uint8]) -> bool:
        """Compute and keep the features of a frame (H, W), so that its first click is as fast as the others.

        Returns:
            Whether they were there already.

        Raises:
            InvalidPromptError: the image is not (H, W) uint8.
        """
        with self._lock:
            return self._features(id, image)[1]

    def refine(self, id: FrameId, image: NDArray[np.uint8], prompts: Prompts) -> Refined:
        """The structure that the prompts mean.

        Args:
            id: of the frame; features kept under it are used if they are of the same image.
            image: (H, W).
            prompts: all of them, those of earlier calls included: nothing is remembered but features. With the mask
                that the last call returned, a correction is a correction of it.

        Raises:
            InvalidPromptError: see ``prompts.check_prompts``; or the image is not (H, W) uint8.
            WeightsError: the network answers with NaN or infinite values.
        """
        _require_image(image)
        check_prompts(prompts, image.shape)
        with self._lock:
            features, cached = self._features(id, image)
            probability = self._answer(features, prompts, image.shape)
        return Refined(probability > _THRESHOLD, probability, stability(probability), cached)

    def _features(self, id: FrameId, image: NDArray[np.uint8]) -> tuple[torch.Tensor, bool]:
        _require_image(image)
        # The same id with other pixels is another image: a file that was replaced, say.
        marker = (image.shape, zlib.crc32(np.ascontiguousarray(image).data))
        held = self._kept.get(id)
        if held is not None and held[0] == marker:
            self._kept.move_to_end(id)
            return held[1], True
        features = self._compute(image)
        self._drop(id)
        self._kept[id] = (marker, features)
        self._bytes += features.nbytes
        while self._bytes > self._limit:
            self._drop(next(iter(self._kept)))
        return features, False

    def _drop(self, id: FrameId) -> None:
        held = self._kept.pop(id, None)
        self._bytes -= held[1].nbytes if held is not None else 0

    def _compute(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """(1, width, h, w) float16: what is computed now is what a cache gives later, to the bit."""
        x = torch.from_numpy(to_input(image, self.input_size))[None]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            features = self._network.embed(x.contiguous(memory_format=torch.channels_last))
        return features.half().contiguous(memory_format=torch.channels_last)

    def _answer(self, features: torch.Tensor, prompts: Prompts, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Probabilities on the pixels of the frame: the logits are enlarged in one step, as they are bilinear."""
        maps = torch.from_numpy(draw_prompts(prompts, shape, self.input_size))[None]
        with torch.inference_mode():
            logits = self._network.refine(features.float(), maps.contiguous(memory_format=torch.channels_last))
            if not torch.isfinite(logits).all():
                raise WeightsError("answers with NaN or infinite values", path=self.path, remedy="train it again")
            full = cv2.resize(logits[0, 0].numpy(), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
            return torch.from_numpy(full).sigmoid_().numpy()


def _require_image(image: NDArray[np.uint8]) -> None:
    if not isinstance(image, np.ndarray) or image.ndim != 2 or image.dtype != np.uint8 or not image.size:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InvalidPromptError(f"the image is {found}, not (H, W) uint8", remedy="give the image of a Frame")
