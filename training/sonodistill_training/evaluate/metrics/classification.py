"""Accuracy, macro F1, AUROC, calibration error and Brier score of class probabilities.

Each metric also takes weights of the images, for many weightings at once: how often each image was drawn in every
resample of a bootstrap (``statistics.bootstrap(partial(macro_f1, truth), probabilities, groups)``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sonodistill.errors import DatasetError, EmptyInputError, SonoDistillError
from sonodistill_training.evaluate.metrics.segmentation import require_finite_predictions

BINS = 15  # of the calibration error, as in Guo et al. 2017
TOLERANCE = 1e-4  # of a row's sum: a softmax in float32 over many classes, stored with few digits

Floats = NDArray[np.float64]
Labels = NDArray[np.integer[Any]]


class ProbabilityError(SonoDistillError):
    """Rows that are no probabilities of the classes."""


class UnknownLabelError(DatasetError):
    """A label that the class list does not have."""


def accuracy(truth: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Share of images whose most probable class (the first of equals) is the true one.

    Args:
        truth: (N,) class numbers. probabilities: (N, K).
        weights: (..., N) of the images, at least 0; None counts each once.

    Returns:
        (...), a scalar without weights. This holds for every metric of this module.
    """
    given = _weights(truth, weights)
    return given @ (probabilities.argmax(axis=1) == truth).astype(float) / given.sum(axis=-1)


def macro_f1(truth: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean over all K classes of 2 TP / (2 TP + FP + FN); 0 for a class that is neither true nor predicted.

    As scikit-learn's ``f1_score(labels=range(K), average="macro", zero_division=0)``; torchmetrics leaves such a
    class out of the mean. A resample that drew no image of a rare class counts it as 0 too, and widens the interval.
    """
    given = _weights(truth, weights)
    true = _one_hot(truth, probabilities.shape[1])
    predicted = _one_hot(probabilities.argmax(axis=1), probabilities.shape[1])
    total = given @ true + given @ predicted  # (..., K)
    return (2 * (given @ (true * predicted)) / np.where(total > 0, total, 1)).mean(axis=-1)


def auroc(truth: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean over the K classes of the area under the one-versus-rest curve; NaN where a class has no image."""
    given = _weights(truth, weights)
    areas = [_area(truth == number, scores, given) for number, scores in enumerate(probabilities.T)]
    return np.mean(areas, axis=0)


def calibration_error(truth: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Expected calibration error: mean |accuracy - confidence| over 15 equal-width bins (a, b] of the top probability,
    weighted by the images of each (Guo et al. 2017, eq. 3).

    torchmetrics' bins are [a, b), with a bin of its own for a confidence of exactly 1.
    """
    given = _weights(truth, weights)
    top = probabilities.max(axis=1)
    bins = np.digitize(top, np.linspace(0, 1, BINS + 1)[1:-1], right=True)
    gap = (probabilities.argmax(axis=1) == truth) - top
    return np.abs(given @ (_one_hot(bins, BINS) * gap[:, None])).sum(axis=-1) / given.sum(axis=-1)


def brier(truth: Labels, probabilities: Floats, weights: Floats | None = None) -> Floats:
    """Mean squared distance of the probabilities to the true class, summed over the classes (Brier 1950): 0 to 2."""
    given = _weights(truth, weights)
    squared = ((probabilities - _one_hot(truth, probabilities.shape[1])) ** 2).sum(axis=1)
    return given @ squared / given.sum(axis=-1)


METRICS = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "auroc": auroc,
    "calibration_error": calibration_error,
    "brier": brier,
}


def summarise_classification(
    truth: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]
) -> dict[str, float | int | str | None]:
    """Every metric over a test set.

    Args:
        truth: (N,) class numbers. probabilities: (N, K). classes: the K names.

    Returns:
        ``images`` and each of :data:`METRICS`; ``auroc`` is None where a class has no image, and ``auroc_undefined``
        says which (None otherwise).

    Raises:
        EmptyInputError, UnknownLabelError, ProbabilityError, NotFiniteError: as :func:`checked` raises them.
    """
    labels, rows = checked(truth, probabilities, classes)
    absent = [name for number, name in enumerate(classes) if not (labels == number).any()]
    values = {name: float(metric(labels, rows)) for name, metric in METRICS.items()}
    return {
        "images": len(labels),
        **{name: value if np.isfinite(value) else None for name, value in values.items()},
        "auroc_undefined": f"no image of {', '.join(absent)}" if absent else None,
    }


def checked(truth: ArrayLike, probabilities: ArrayLike, classes: Sequence[str]) -> tuple[Labels, Floats]:
    """(N,) class numbers and (N, K) float64, if they are what they should be.

    Raises:
        EmptyInputError: no image.
        UnknownLabelError: a label is no number of a class.
        NotFiniteError: a probability is infinite or not a number.
        ProbabilityError: not a row of K probabilities an image, or a row that does not sum to 1 within 1e-4.
    """
    labels, rows = np.asarray(truth), np.asarray(probabilities, float)
    if not labels.size:
        raise EmptyInputError("the test set holds no image", remedy="give a split with test images")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UnknownLabelError(f"labels of shape {labels.shape} and type {labels.dtype}", remedy="give class numbers")
    outside = labels[(labels < 0) | (labels >= len(classes))]
    if outside.size:
        raise UnknownLabelError(
            f"the label {outside[0]} is not a number of the {len(classes)} classes ({', '.join(classes)})",
            remedy="number the labels by their place in the class list",
        )
    if rows.shape != (len(labels), len(classes)):
        raise ProbabilityError(
            f"probabilities of shape {rows.shape} for {len(labels)} images and {len(classes)} classes",
            remedy="give a row for each image with a column for each class",
        )
    require_finite_predictions(rows)
    _require_probabilities(rows)
    return labels, rows


def class_numbers(labels: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """(N,) place of each label in the class list.

    Raises:
        UnknownLabelError: a label is not there.
    """
    places = {name: number for number, name in enumerate(classes)}
    unknown = sorted(set(labels) - set(places))
    if unknown:
        raise UnknownLabelError(
            f"the label {unknown[0]!r} is none of the classes {', '.join(classes)}",
            remedy="name every label in the class list, or drop its images",
        )
    return np.array([places[label] for label in labels], np.int64)


def _require_probabilities(rows: Floats) -> None:
    wrong = np.abs(rows.sum(axis=1) - 1) > TOLERANCE
    wrong |= (rows < -TOLERANCE).any(axis=1)
    if wrong.any():
        image = int(np.flatnonzero(wrong)[0])
        raise ProbabilityError(
            f"the probabilities of image {image} are {np.round(rows[image], 4).tolist()} (sum {rows[image].sum():.6g})",
            remedy="give the softmax of the logits: each at least 0, together 1",
        )


def _area(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """(...) probability that a positive scores above a negative, a tie counting half; NaN without one of both."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])  # of each run of equal scores
    ordered, is_positive = weights[..., order], positive[order]
    positives = np.add.reduceat(ordered * is_positive, starts, axis=-1)
    negatives = np.add.reduceat(ordered * ~is_positive, starts, axis=-1)
    below = np.cumsum(negatives, axis=-1) - negatives
    pairs = positives.sum(axis=-1) * negatives.sum(axis=-1)
    return (positives * (below + negatives / 2)).sum(axis=-1) / np.where(pairs > 0, pairs, np.nan)


def _one_hot(numbers: Labels, count: int) -> Floats:
    return (numbers[:, None] == np.arange(count)).astype(float)


def _weights(truth: Labels, weights: Floats | None) -> Floats:
    return np.ones(len(truth)) if weights is None else weights
