"""Dice of several structures of one image, told apart: from the pixels of each, as columns of a result."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BACKGROUND = "background"
OF_STRUCTURES = ("both", "predicted", "truth")
METRICS = ("dice_structures", "dice_classes", "dice_structures_images")
"""Of the pixels of all images, as mmseg and paper B's code count them: the mean over structures, and that with the
background among them; and of each image, the mean over its structures."""
_OF_ONE = "dice:"


def structures_of(columns: Sequence[str]) -> tuple[str, ...]:
    """The background and the structures that a result's columns speak of, in their order; none for one foreground."""
    return tuple(name.removeprefix("both:") for name in columns if name.startswith("both:"))


def counts(columns: Mapping[str, Sequence[Any] | NDArray[Any]], names: Sequence[str]) -> Floats:
    """(images, 3, K): pixels in both masks, predicted and true of the background and each structure."""
    planes = [[np.asarray(columns[f"{which}:{name}"], float) for name in names] for which in OF_STRUCTURES]
    return np.moveaxis(np.array(planes), -1, 0)


def pooled_dice(run: Floats, weights: Floats) -> Floats:
    """(resamples, K) Dice of the pixels of all images; NaN of what neither the truth nor a prediction has.

    Args:
        run: (images, 3, K) as :func:`counts` gives them.
        weights: (resamples, images) how often each image is drawn.
    """
    both, total = run[:, 0], run[:, 1] + run[:, 2]
    found, among = weights @ both, weights @ total
    return 2 * found / np.where(among > 0, among, np.nan)


def dice_structures(run: Floats, weights: Floats) -> Floats:
    """(resamples,): the mean over structures without the background."""
    return _mean(pooled_dice(run, weights)[:, 1:])


def dice_classes(run: Floats, weights: Floats) -> Floats:
    """(resamples,): the mean over structures and background."""
    return _mean(pooled_dice(run, weights))


def dice_of(place: int) -> Any:
    """The statistic of one structure (from 1)."""
    return lambda run, weights: pooled_dice(run, weights)[:, place]


def image_dice(run: Floats) -> Floats:
    """(images,): the mean over the structures that an image has in its truth or its prediction; 1 where it has none."""
    both, total = run[:, 0, 1:], (run[:, 1] + run[:, 2])[:, 1:]
    there = total > 0
    dice = np.where(there, 2 * both / np.where(there, total, 1), 0).sum(axis=1)
    return np.where(there.any(axis=1), dice / np.maximum(there.sum(axis=1), 1), 1.0)


def summarise_structures(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> dict[str, float | None]:
    """:data:`METRICS`, and ``dice:<name>`` of each structure; nothing for a result of one foreground."""
    names = structures_of(list(columns))
    if not names:
        return {}
    run = counts(columns, names)
    once = np.ones((1, len(run)))
    means = (dice_structures(run, once)[0], dice_classes(run, once)[0], image_dice(run).mean())
    each = pooled_dice(run, once)[0]
    found = dict(zip(METRICS, means, strict=True))
    found |= {f"{_OF_ONE}{name}": value for name, value in zip(names[1:], each[1:], strict=True)}
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()}


def metrics_of_structures(columns: Sequence[str]) -> list[str]:
    """The metrics that a table of such results shows."""
    names = structures_of(columns)
    return [*METRICS, *(f"{_OF_ONE}{name}" for name in names[1:])] if names else []


def is_of_structures(metric: str) -> bool:
    """Whether the metric is one of these."""
    return metric in METRICS or metric.startswith(_OF_ONE)


def statistic(metric: str, names: Sequence[str]) -> Any:
    """What :func:`~sonodistill_training.evaluate.metrics.statistics.bootstrap` takes for a metric of pooled pixels."""
    if metric.startswith(_OF_ONE):
        return dice_of(list(names).index(metric.removeprefix(_OF_ONE)))
    return {"dice_structures": dice_structures, "dice_classes": dice_classes}[metric]


def title(metric: str) -> str:
    """A heading: "Dice, fetal head"."""
    return re.sub(f"^{_OF_ONE}", "Dice, ", metric)


def _mean(values: Floats) -> Floats:
    there = ~np.isnan(values)
    return np.where(there, values, 0).sum(axis=1) / np.where(there.any(axis=1), there.sum(axis=1), np.nan)
