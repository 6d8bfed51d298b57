"""How far a frame lies from those that a model was made on: the distance of its features, divided by a threshold.

The features of a frame are the means and standard deviations of the channels of the encoder's map of stride 8. Of the
training frames they make a Gaussian whose largest principal axes are kept and whose rest has one variance
(probabilistic PCA, Tipping and Bishop 1999, eq. 7); the distance is Mahalanobis'. No frame and no feature of one is
stored. What else was tried is in docs/familiarity.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError

PREFIX = "familiarity."
"""Of the names of the tensors in a weights file."""
VERSION = 1
STRIDE = 8
LIMIT = 1.0
"""A frame with a larger score is unfamiliar."""
QUANTILE = 0.99
COMPONENTS = 64
LEAST_FIT, LEAST_CALIBRATION = 32, 10
OUTPUT = "unfamiliarity"
"""Name of the second output of an exported graph."""

_LEAST_SCALE = 1e-2  # of the mean: a channel that training frames never move is not to speak for rounding errors
_NAMES = ("mean", "scale", "components", "variances", "threshold")

Floats = NDArray[np.floating[Any]]


class FamiliarityError(SonoDistillError):
    """The familiarity of frames cannot be fitted, or what a file holds of it cannot be used."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """What is stored: D features of a frame.

    Attributes:
        mean, scale: (D,) by which features are standardised.
        components: (K, D) principal axes of the standardised features, of length 1.
        variances: (K + 1,) along each axis, and along every other direction.
        threshold: the distance that is a score of 1.
    """

    mean: Floats
    scale: Floats
    components: Floats
    variances: Floats
    threshold: float = 1.0

    def distance(self, features: Floats) -> NDArray[np.float64]:
        """(N,) Mahalanobis distances of (N, D) features."""
        standard = (np.asarray(features, np.float64) - self.mean) / self.scale
        along = standard @ np.asarray(self.components, np.float64).T
        rest = np.maximum((standard**2).sum(1) - (along**2).sum(1), 0)
        return np.sqrt((along**2 / self.variances[:-1]).sum(1) + rest / self.variances[-1])

    def score(self, features: Floats) -> NDArray[np.float64]:
        """(N,) distances over the threshold: above :data:`LIMIT` for an unfamiliar frame."""
        return self.distance(features) / self.threshold


def fit(
    features: Floats, calibration: Floats, *, quantile: float = QUANTILE, components: int = COMPONENTS
) -> Familiarity:
    """Fit to frames of the training, and set the threshold by others.

    The threshold is the smallest distance among those of the calibration such that at least ``quantile`` of them, and
    of further frames like them in expectation, are no farther (split conformal prediction: the ceil((n + 1) quantile)th
    of n). Of fewer than 99 frames the 99 % are the largest.

    Args:
        features: (N, D) of the training frames.
        calibration: (M, D) of frames of other patients.
        quantile: share of frames of its own kind that are to be familiar.
        components: axes kept, at most a quarter of the frames.

    Raises:
        FamiliarityError: too few frames, features that are no numbers, or all the same.
    """
    known, held = np.asarray(features, np.float64), np.asarray(calibration, np.float64)
    require_enough(len(known), len(held))
    if not 0 < quantile < 1:
        raise FamiliarityError(
            f"a share of {quantile} familiar frames", remedy="give one between 0 and 1, such as 0.99"
        )
    if not (np.isfinite(known).all() and np.isfinite(held).all()):
        raise FamiliarityError("the encoder's features are not all finite", remedy="the weights are damaged")
    mean, deviation = known.mean(0), known.std(0)
    if not deviation.any():
        raise FamiliarityError("all training frames have the same features", remedy="give frames that differ")
    scale = np.maximum(deviation, _LEAST_SCALE * deviation.mean())
    _, singular, axes = np.linalg.svd((known - mean) / scale, full_matrices=False)
    spectrum, width = singular**2 / (len(known) - 1), known.shape[1]
    kept = max(1, min(components, len(known) // 4, width - 1))
    # Directions in which nothing moved count as well: there are more features than frames of a small set.
    rest = max(spectrum[kept:].sum() / (width - kept), 1e-6 * spectrum[0])
    variances = np.append(np.maximum(spectrum[:kept], rest), rest)
    parts = [part.astype(np.float32) for part in (mean, scale, axes[:kept], variances)]
    fitted = Familiarity(parts[0], parts[1], parts[2], parts[3])
    place = min(len(held), math.ceil((len(held) + 1) * quantile)) - 1
    threshold = float(np.float32(np.sort(fitted.distance(held))[place]))
    return replace(fitted, threshold=threshold)


def require_enough(known: int, held: int) -> None:
    """Raise FamiliarityError where there are too few frames to fit to, or to calibrate by."""
    if known < LEAST_FIT or held < LEAST_CALIBRATION:
        raise FamiliarityError(
            f"{known} frames to fit and {held} to calibrate; {LEAST_FIT} and {LEAST_CALIBRATION} are needed",
            remedy="give more frames, whole patients in the training and the validation split",
        )


def to_tensors(found: Familiarity) -> dict[str, NDArray[np.float32]]:
    """As float32 arrays under the names that a weights file has."""
    return {PREFIX + name: np.asarray(getattr(found, name), np.float32) for name in _NAMES}


def from_tensors(tensors: Mapping[str, Any]) -> Familiarity:
    """The inverse of :func:`to_tensors`, of arrays or tensors on the CPU; other names are ignored.

    Raises:
        FamiliarityError: one is missing, too many, of another shape or not finite.
    """
    given = {name for name in tensors if name.startswith(PREFIX)}
    wanted = {PREFIX + name for name in _NAMES}
    if given != wanted:
        raise FamiliarityError(f"its tensors are {', '.join(sorted(given)) or 'missing'}, not {', '.join(_NAMES)}")
    mean, scale, components, variances, threshold = (np.asarray(tensors[PREFIX + name]) for name in _NAMES)
    kept, width = components.shape if components.ndim == 2 else (0, 0)
    shapes = [(width,), (width,), (kept, width), (kept + 1,), ()]
    parts = [mean, scale, components, variances, threshold]
    if not kept or [part.shape for part in parts] != shapes:
        raise FamiliarityError(f"its tensors have the shapes {', '.join(str(part.shape) for part in parts)}")
    positive = min(scale.min(), variances.min(), threshold) > 0
    if not positive or not all(np.isfinite(part).all() for part in parts):
        raise FamiliarityError("its tensors hold values that are not finite, or not positive where they have to be")
    return Familiarity(mean, scale, components, variances, float(threshold))
