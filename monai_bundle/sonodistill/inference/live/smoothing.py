"""Temporal smoothing: an exponential moving average of probabilities, weighted by the time between frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REFERENCE_MS = 40.0
"""The interval after which the past keeps exactly the weight asked for: one frame at 25 frames a second."""
GAP_MS = 500.0
"""A longer pause starts anew: the probe may have moved anywhere."""


class Smoother:
    """p(t) = w p(t - dt) + (1 - w) x(t) with w = weight ** (dt / 40 ms).

    Frames that were dropped in between make dt longer and the past weigh less, so that the result depends on time and
    not on how many frames the machine could keep up with. It starts anew, with p = x, where the size of the frame
    changes, after a gap of more than 500 ms, and where time does not advance.

    Args:
        weight: of the past after 40 ms, in [0, 1); 0 changes nothing.
    """

    def __init__(self, weight: float) -> None:
        if not 0 <= weight < 1:
            raise ValueError(f"the weight of the past has to be at least 0 and below 1, not {weight}")
        self.weight = weight
        self._past: NDArray[np.float32] | None = None
        self._time = 0.0

    def __call__(self, probability: NDArray[np.float32], time_ms: float) -> NDArray[np.float32]:
        """Smoothed probabilities of the frame at ``time_ms``: the same shape (H, W) or (C, H, W), float32."""
        if self.weight == 0:
            return probability
        past, passed = self._past, time_ms - self._time
        if past is not None and past.shape == probability.shape and 0 < passed <= GAP_MS:
            kept = np.float32(self.weight ** (passed / REFERENCE_MS))
            probability = kept * past + (1 - kept) * probability
        self._past, self._time = probability, time_ms
        return probability
