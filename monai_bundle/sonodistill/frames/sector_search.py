"""Moves a shape's parameters, one at a time and from several beginnings, to where it gathers most evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.frames.sector_shapes import fill

Values = NDArray[np.float64]
PolygonOf = Callable[[Values, float], NDArray[np.float64] | None]  # parameters and scale to (n, 2) or None

_COARSE = 3  # reduced pixels to a pixel of the first search
_FIRST_STEP, _LAST_COARSE_STEP, _LAST_STEP = 6.0, 1.5, 0.5  # reduced pixels
_LEAST_GAIN = 2e-4  # of all the tissue: a step that gains less is not worth another round


class Search:
    """Evidence inside a shape at two scales, and the climb to its summit.

    Args:
        weight: (h, w) float32 evidence.
        polygon_of: the polygon, in pixels, of parameters that are in pixels; None for an impossible shape.
    """

    def __init__(self, weight: NDArray[np.float32], polygon_of: PolygonOf) -> None:
        size = (max(weight.shape[1] // _COARSE, 1), max(weight.shape[0] // _COARSE, 1))
        coarse = cv2.resize(weight, size, interpolation=cv2.INTER_AREA) * np.float32(_COARSE**2)
        self._coarse = _Score(coarse, 1 / _COARSE, polygon_of)
        self._fine = _Score(weight, 1.0, polygon_of)

    def coarse(self, begins: Iterable[Values], keep: int, enough: float) -> tuple[Values, float]:
        """Climb at coarse scale from the ``keep`` best beginnings, or until ``enough`` is gathered.

        Returns:
            The best parameters, and what they gather.
        """
        begins = list(begins)
        ranked = sorted(((self._coarse(begin), number) for number, begin in enumerate(begins)), reverse=True)[:keep]
        best: tuple[Values, float] | None = None
        for _, number in ranked:
            climbed = _climb(begins[number], self._coarse, _FIRST_STEP, _LAST_COARSE_STEP)
            if best is None or climbed[1] > best[1]:
                best = climbed
            if best[1] >= enough:
                break
        if best is None:
            raise ValueError("no beginnings")
        return best

    def fine(self, values: Values) -> tuple[Values, float]:
        """Climb on at full scale."""
        return _climb(values, self._fine, 1.0, _LAST_STEP)


class _Score:
    """Evidence inside a shape, at one scale."""

    def __init__(self, weight: NDArray[np.float32], scale: float, polygon_of: PolygonOf) -> None:
        self._weight, self._scale, self._polygon_of = weight.ravel(), scale, polygon_of
        self._canvas = np.zeros(weight.shape, np.float32)
        self.least_gain = _LEAST_GAIN * float(np.maximum(weight, 0).sum())

    def __call__(self, values: Values) -> float:
        polygon = self._polygon_of(values * self._scale, self._scale)
        if polygon is None:
            return -np.inf
        self._canvas.fill(0)
        return float(self._weight @ fill(polygon, self._canvas).ravel())


def _climb(values: Values, score: _Score, step: float, least: float) -> tuple[Values, float]:
    """Pattern search: a step that helps is repeated, and all are halved when none helps."""
    values, best = values.copy(), score(values)
    signs = np.ones(values.size)
    while step >= least:
        improved = False
        for index in range(values.size):
            for _ in range(2):
                trial = values.copy()
                trial[index] += signs[index] * step
                gathered = score(trial)
                if gathered > best + score.least_gain:
                    values, best, improved = trial, gathered, True
                    break
                signs[index] = -signs[index]
        if not improved:
            step /= 2
    return values, best
