"""A backend for tests of the panel: finds dark structures in a frame, in the worker, with an adjustable pause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from UltrasoundSegmentLib.backends.model import Cancel, Model, Prompts, Result


def dark(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W) uint8, 1 in the largest dark region that is away from the border of the fan."""
    smooth = cv2.blur(image, (11, 11))
    fan = cv2.erode((smooth > 4).astype(np.uint8), np.ones((9, 9), np.uint8))
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(((smooth < 34) & (fan > 0)).astype(np.uint8))
    if len(stats) < 2:
        return np.zeros(image.shape, np.uint8)
    return (numbers == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)


class Threshold:
    """The Protocol of a backend, computed by ``dark``; counts what it was asked.

    Attributes:
        pause_s: how long each frame takes.
        asked: names of the calls.
    """

    name = "Threshold"

    def __init__(
        self,
        pause_s: float = 0.0,
        confidences: Sequence[float] = (0.9,),
        unfamiliarities: Sequence[float | None] = (None,),
    ) -> None:
        self.pause_s, self.confidences, self.unfamiliarities = pause_s, confidences, unfamiliarities
        self.asked: list[str] = []
        self.prompts: list[Prompts] = []
        self.closed = False

    def models(self, cancel: Cancel) -> list[Model]:
        self.asked.append("models")
        return [Model("segmentation", "segmentation", ("cavity",)), Model("interactive", "interactive")]

    def _wait(self, cancel: Cancel) -> None:
        if cancel.wait(self.pause_s):
            cancel.check()

    def segment(self, frame: Any, model: str, cancel: Cancel) -> Result:
        self.asked.append("segment")
        self._wait(cancel)
        confidence = self.confidences[frame.index % len(self.confidences)]
        unfamiliarity = self.unfamiliarities[frame.index % len(self.unfamiliarities)]
        return Result(dark(frame.image), confidence, model, unfamiliarity=unfamiliarity)

    def refine(
        self, frame: Any, prompts: Prompts, previous: NDArray[np.uint8] | None, model: str, cancel: Cancel
    ) -> Result:
        self.asked.append("refine")
        self.prompts.append(prompts)
        self._wait(cancel)
        mask = np.zeros(frame.image.shape, np.uint8) if previous is None else previous.copy()
        mask[mask == prompts.label] = 0
        mask[dark(frame.image) > 0] = prompts.label
        return Result(mask, 0.8, model)

    def propagate(
        self,
        frames: Sequence[Any],
        mask: NDArray[np.uint8],
        model: str,
        cancel: Cancel,
        on_result: Callable[[int, Result], None],
    ) -> str:
        self.asked.append("propagate")
        for number in range(1, len(frames)):
            self._wait(cancel)
            frame = frames[number]
            on_result(frame.index, Result(dark(frame.image), 0.7, model))
        return ""

    def close(self) -> None:
        self.closed = True
