"""What the runs amount to: curves and areas under them, with intervals over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Runs = Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]
"""Set -> strategy -> run of each seed."""

RANDOM = "random"
_RESAMPLES = 10_000
_ENDS = (0.025, 0.975)


def summarise(runs: Runs, seed: int = 0) -> dict[str, Any]:
    """Curves, areas and differences to random; plain JSON.

    The area under a curve is its mean Dice over the logarithm of the labelled frames: each doubling counts the same.
    Intervals are percentiles of 10,000 resamples of the seeds, the same for both sides of a difference. "both" is the
    mean over the sets, seed by seed.

    Returns: curves (set -> strategy -> labelled, dice, low, high), area (set -> strategy -> mean, low, high and, to
        random, difference, difference_low, difference_high, wins of the seeds), both (strategy -> the same), best.
    """
    curves: dict[str, Any] = {}
    areas: dict[str, dict[str, Floats]] = {}
    for name, strategies in runs.items():
        curves[name], areas[name] = {}, {}
        for strategy, found in strategies.items():
            dice, labelled = np.array([run["dice"] for run in found]), found[0]["labelled"]
            low, high = _ends(dice, seed)
            curves[name][strategy] = {
                "labelled": list(labelled),
                "dice": _rounded(dice.mean(axis=0)),
                "low": _rounded(low),
                "high": _rounded(high),
                "dice_all": _rounded(np.mean([run["dice_all"] for run in found], axis=0)),
            }
            areas[name][strategy] = area(dice, labelled)
    common = set.intersection(*(set(of) for of in areas.values()))
    both = {
        strategy: np.mean([of[strategy] for of in areas.values()], axis=0)
        for strategy in next(iter(areas.values()))
        if strategy in common
    }
    return {
        "curves": curves,
        "area": {name: _compared(of, seed) for name, of in areas.items()},
        "both": _compared(both, seed),
        "best": max(both, key=lambda strategy: float(both[strategy].mean())) if both else "",
    }


def area(dice: Floats, labelled: Sequence[int]) -> Floats:
    """(seeds, rounds) to (seeds,): mean height of the curve over log(labelled), by trapezoids."""
    if len(labelled) < 2:
        return dice[:, 0]
    steps = np.diff(np.log(labelled))
    return ((dice[:, 1:] + dice[:, :-1]) / 2 * steps).sum(axis=1) / steps.sum()


def _compared(areas: Mapping[str, Floats], seed: int) -> dict[str, dict[str, float]]:
    made = {}
    for strategy, found in areas.items():
        low, high = _ends(found[:, None], seed)
        made[strategy] = {"mean": _number(found.mean()), "low": _number(low[0]), "high": _number(high[0])}
        if RANDOM in areas and strategy != RANDOM:
            apart = found - areas[RANDOM]
            low, high = _ends(apart[:, None], seed)
            made[strategy] |= {
                "difference": _number(apart.mean()),
                "difference_low": _number(low[0]),
                "difference_high": _number(high[0]),
                "wins": int((apart > 0).sum()),
            }
    return made


def _ends(values: Floats, seed: int) -> tuple[Floats, Floats]:
    """(columns,) ends of the 95 % interval of the mean of (seeds, columns).

    Resamples have one seed less than there are, since means of n drawn from n vary too little (McCarthy and Snowden
    1985). Without several seeds there is no interval: both ends are the mean.
    """
    count = len(values)
    if count < 2:
        return values[0], values[0]
    drawn = np.random.default_rng(seed).integers(count, size=(_RESAMPLES, count - 1))
    low, high = np.quantile(values[drawn].mean(axis=1), _ENDS, axis=0)
    return low, high


def _rounded(values: Floats) -> list[float]:
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    return round(float(value), 4)
