"""How well a warning score tells a model's own frames from others: areas under the curve, and what is flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.inference.familiarity import LIMIT
from sonodistill_training.evaluate.metrics.classification import auroc
from sonodistill_training.evaluate.metrics.statistics import Interval, bootstrap, mean

Scores = NDArray[np.float64]
_RESAMPLES = 1000


def separation(
    inside: Scores, outside: Scores, inside_groups: Sequence[str], outside_groups: Sequence[str]
) -> Interval:
    """AUROC of telling outside from inside by the score, with its interval over whole groups of both."""
    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    scores = np.r_[inside, outside]
    groups = [f"in {group}" for group in inside_groups] + [f"out {group}" for group in outside_groups]

    def area(run: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return auroc(run[:, 0].astype(np.int64), np.stack([-run[:, 1], run[:, 1]], 1), weights)

    return bootstrap(area, np.stack([truth, scores], 1)[None], groups, resamples=_RESAMPLES)


def flagged(scores: Scores, groups: Sequence[str]) -> Interval:
    """Share of frames above the limit, with its interval over whole groups."""
    return bootstrap(mean, (scores > LIMIT).astype(float), list(groups), resamples=_RESAMPLES)


def row(inside: Scores, inside_groups: Sequence[str], scores: Scores, groups: Sequence[str]) -> dict[str, Any]:
    """What is said of one outside set, as plain JSON values."""
    return {
        "frames": len(scores),
        "auroc": asdict(separation(inside, scores, inside_groups, groups)),
        "flagged": asdict(flagged(scores, groups)),
        "median": float(np.median(scores)),
    }
