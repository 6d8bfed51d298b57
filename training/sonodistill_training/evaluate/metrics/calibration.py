"""Do the probabilities of a segmenter mean what they say? Counts of pixels in bins, added up over images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError

BINS = 15


class CalibrationDataError(SonoDistillError):
    """Probabilities and truth that cannot be compared."""


@dataclass
class Reliability:
    """Pixels of any number of images by their foreground probability, in :data:`BINS` bins of equal width, [a, b).

    Attributes:
        pixels, probability, truth, squared: (BINS,) sums over the pixels of a bin: how many, of their probabilities,
            of the truth, and of the squared differences of the two.
    """

    pixels: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    probability: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    truth: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))
    squared: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS))

    def add(self, other: Reliability) -> None:
        """The pixels of further images."""
        for name in ("pixels", "probability", "truth", "squared"):
            getattr(self, name).__iadd__(getattr(other, name))

    @property
    def error(self) -> float:
        """Expected calibration error: mean over the bins, weighted by their pixels, of |truth - probability|.

        All pixels count, and most are background that is sure: see :attr:`worst` as well.
        """
        return float(np.abs(self.truth - self.probability).sum() / self.pixels.sum())

    @property
    def worst(self) -> float:
        """The largest |truth - probability| of a bin with a thousandth of the pixels or more."""
        used = self.pixels >= max(1.0, 1e-3 * self.pixels.sum())
        return float((np.abs(self.truth - self.probability)[used] / self.pixels[used]).max())

    @property
    def brier(self) -> float:
        """Mean squared difference of probability and truth over all pixels."""
        return float(self.squared.sum() / self.pixels.sum())

    def curve(self) -> list[dict[str, float]]:
        """Mean probability, share of foreground and pixels of each bin that has any."""
        return [
            {"probability": float(p / n), "foreground": float(t / n), "pixels": float(n)}
            for n, p, t in zip(self.pixels, self.probability, self.truth, strict=True)
            if n
        ]


def reliability(probability: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> Reliability:
    """The counts of one image.

    Args:
        probability: (H, W) in [0, 1], of foreground.
        truth: (H, W) bool.

    Raises:
        CalibrationDataError: shapes differ, or a value is no probability.
    """
    values = np.asarray(probability, np.float64).ravel()
    if probability.shape != truth.shape or not values.size or not ((values >= 0) & (values <= 1)).all():
        raise CalibrationDataError(f"probabilities of shape {probability.shape} for a truth of {truth.shape}")
    known = truth.ravel().astype(np.float64)
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)

    def sums(weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return np.bincount(bins, weights, minlength=BINS).astype(np.float64)

    return Reliability(sums(None), sums(values), sums(known), sums((values - known) ** 2))
