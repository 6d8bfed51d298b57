"""Tells from its log, while it runs, that a training goes wrong: flat, diverging, clipped, collapsed, short of data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

FLAT, DIVERGING, CLIPPED, COLLAPSED, WAITING = "flat", "diverging", "clipped", "collapsed", "waiting"
INDIFFERENT = "indifferent"  # prototypes of a self-distillation

NEAR_CONSTANT = 0.9  # of the target's variance: above it the student is hardly better than a constant
SURENESS = 3.0  # standard errors that the fall of a loss is given the benefit of; a noisy loss is called flat later
PATIENCE = 0.05  # of the training after the warm-up, before which no loss is called flat ...
MIN_PIECES = 40  # ... nor with fewer values than this
PIECES = 2000  # a training is remembered in at most so many, each the mean of its rows
MEDIAN_ROWS = 31  # of the running median that no single bad batch moves
RISE = 1.5  # of the running median over its best
CLIP_ROWS = 50  # in a row that are clipped
CLIP_FACTOR = 10.0  # gradient norm over the clip; less is what AdamW does not notice
RANK = 2.0  # RankMe of features that lie along one line; untrained networks have 7 to 50
SPREAD = 1e-3  # of the largest feature_std seen so far
GROUP_ROWS, GROUPS = 20, 1.01  # the median number of groups of images that prototypes tell apart; 1 is none
WAIT_ROWS, WAIT = 20, 0.3  # the median share of the time spent waiting for data

_TINY = 1e-12
_MAD_TO_STD, _MEDIAN_ERROR = 1.4826, 1.2533  # of a normal distribution: sd / MAD, and se of the median / se of the mean


class LossWatch:
    """``watch.update(row)`` says what goes wrong and why, likely, or None; each cause once in a training.

    It depends on the rows alone, which have to come in order: feeding it a log anew says the same. Values that are
    missing or not finite are passed over (a loss that is not finite is the loop's to report).

    A row's ``loss``, or its ``token`` term where there are others, is measured in units of its ``target_variance``: a
    student that always answers the mean token is at 1. Without ``target_variance`` a flat loss is not told.

    Args:
        total_steps: of the training.
        warmup_steps: in which the learning rate still rises; a flat, clipped or collapsed start is not told.
        clip: the largest gradient norm; None where it is not clipped.
    """

    def __init__(self, total_steps: int, warmup_steps: int = 0, clip: float | None = None) -> None:
        self.total_steps, self.warmup_steps, self.clip = total_steps, warmup_steps, clip
        self.told: list[str] = []
        self._stride = max(1, total_steps // PIECES)
        self._levels: list[float] = []  # loss / target variance, a mean for each stride since the warm-up
        self._piece: list[float] = []  # of the stride in hand
        self._piece_number = 0.0
        self._norms: list[float] = []  # the last, over the clip
        self._losses: list[float] = []  # the last
        self._waits: list[float] = []  # the last
        self._groups: list[float] = []  # the last
        self._best = math.inf  # running median
        self._widest = 0.0  # feature_std

    def update(self, row: Mapping[str, Any]) -> str | None:
        """Count a row of the log in.

        Args:
            row: ``step``, ``loss`` and whatever else is there of ``token``, ``target_variance``, ``learning_rate``,
                ``gradient_norm``, ``data_wait``, ``rankme``, ``feature_std`` and ``prototype_groups``.
        """
        values = {
            name: float(value)
            for name, value in row.items()
            if isinstance(value, (int, float)) and math.isfinite(value)
        }
        warm = values.get("step", 0) > self.warmup_steps
        checks = {
            DIVERGING: self._diverging(values),
            CLIPPED: self._clipped(values) if warm else None,
            FLAT: self._flat(values) if warm else None,
            COLLAPSED: self._collapsed(values, warm),
            INDIFFERENT: self._indifferent(values) if warm else None,
            WAITING: self._waiting(values),
        }
        new = {cause: text for cause, text in checks.items() if text is not None and cause not in self.told}
        self.told += new
        return "\n".join(new.values()) or None

    def _flat(self, values: Mapping[str, float]) -> str | None:
        share = share_of_variance(values)
        if share is None:
            return None
        step = values["step"]
        self._piece.append(share)
        if step // self._stride == self._piece_number:
            return None
        self._piece_number = step // self._stride
        self._levels.append(float(np.mean(self._piece)))
        self._piece.clear()
        seen = step - self.warmup_steps
        # A loss that has diverged may stay where it is; that it is flat there is no second cause.
        if DIVERGING in self.told or len(self._levels) < MIN_PIECES or seen < PATIENCE * self.total_steps:
            return None
        level, gain, error = relative_fall(*np.array_split(np.array(self._levels), 2))
        # Were it to go on falling as fast as it may have fallen from the first half of what was seen to the second:
        falls = 1 + max(0, self.total_steps - step) / (seen / 2)
        if level * (1 - (gain + SURENESS * error) * falls) < NEAR_CONSTANT:
            return None
        return (
            f"The loss is flat: {level:.2f} of the teacher's variance in the last {seen / 2:.0f} steps up to step "
            f"{step:.0f}, where a constant student is at 1, and no better in sight. "
            f"Likely causes: {self._reasons(values)}."
        )

    def _reasons(self, values: Mapping[str, float]) -> str:
        """Why a loss may be flat; what the rows give evidence of comes first."""
        rate = f" ({values['learning_rate']:.2g} now)" if "learning_rate" in values else ""
        reasons = [
            f"a learning rate that is too low or too high{rate}",
            "a teacher whose tokens have a few huge channels, which outweigh all others (standardise the target)",
            "images normalised otherwise than the teacher or the student expects",
        ]
        if self.clip and len(self._norms) == CLIP_ROWS and min(self._norms) > 1:
            typical = float(np.median(self._norms))
            return "; ".join(
                [f"the gradient is clipped at every step, typically at {typical:.1f} times the limit", *reasons]
            )
        return "; ".join([*reasons, "gradient clipping that binds at every step"])

    def _diverging(self, values: Mapping[str, float]) -> str | None:
        if "loss" not in values:
            return None
        variance = values.get("target_variance", 0.0)
        median = _running_median(self._losses, values["loss"] / (variance if variance > 0 else 1.0), MEDIAN_ROWS)
        if median is None:
            return None
        self._best = min(self._best, median)
        if median <= RISE * self._best:
            return None
        rate = f" ({values['learning_rate']:.2g} now)" if "learning_rate" in values else ""
        return (
            f"The loss is diverging: its running median at step {values.get('step', 0):.0f} is "
            f"{median / max(self._best, _TINY):.2f} times its best. Likely causes: a learning rate that is too "
            f"high{rate} or a warm-up that is too short; then frames unlike those seen before."
        )

    def _clipped(self, values: Mapping[str, float]) -> str | None:
        if not self.clip or "gradient_norm" not in values:
            return None
        median = _running_median(self._norms, values["gradient_norm"] / self.clip, CLIP_ROWS)
        if median is None or min(self._norms) <= CLIP_FACTOR:
            return None
        return (
            f"The gradient was clipped in each of the last {CLIP_ROWS} rows, typically from {median:.0f} times the "
            f"limit of {self.clip:g}: its length no longer counts. Likely causes: a clip made for another loss (a sum "
            "over channels instead of a mean), or a teacher whose tokens have a few huge channels."
        )

    def _collapsed(self, values: Mapping[str, float], warm: bool) -> str | None:
        rank, spread = values.get("rankme", math.inf), values.get("feature_std", math.inf)
        widest = self._widest
        if math.isfinite(spread):
            self._widest = max(widest, spread)
        if not warm or (rank >= RANK and spread > SPREAD * widest):
            return None
        found = f"RankMe is {rank:.2f}" if rank < RANK else f"feature_std fell from {widest:.3g} to {spread:.3g}"
        return (
            f"The features have collapsed: {found}; all images look alike to the encoder. Likely causes: a learning "
            "rate that is too high, too much weight decay, or a target that does not depend on the image."
        )

    def _indifferent(self, values: Mapping[str, float]) -> str | None:
        """Of a self-distillation: prototypes that say the same of every image."""
        if "prototype_groups" not in values:
            return None
        median = _running_median(self._groups, values["prototype_groups"], GROUP_ROWS)
        if median is None or median >= GROUPS:
            return None
        entropy = values.get("prototype_entropy", math.nan)
        reason = (
            "all fall on the same few: targets that are not balanced, or a teacher's temperature that is too low"
            if entropy < 0.5
            else "no image prefers any: a temperature or a learning rate that is too high, or too small batches"
        )
        return (
            f"The prototypes have collapsed: in the last {GROUP_ROWS} rows they tell {median:.3f} groups of images "
            f"apart, where 1 is none. Their entropy is {entropy:.0%} of the largest. Likely cause: {reason}."
        )

    def _waiting(self, values: Mapping[str, float]) -> str | None:
        if "data_wait" not in values:
            return None
        median = _running_median(self._waits, values["data_wait"], WAIT_ROWS)
        if median is None or median <= WAIT:
            return None
        return (
            f"The training waits for data {median:.0%} of the time. Likely causes: too few workers, or a corpus on a "
            "slow or distant disk."
        )


def share_of_variance(row: Mapping[str, Any]) -> float | None:
    """A row's ``loss``, or its ``token`` term where there are others, in units of its ``target_variance``.

    Returns:
        1 is a student that always answers the mean token; None where either is missing or the variance is 0.
    """
    loss, variance = row.get("token", row.get("loss")), row.get("target_variance")
    return None if loss is None or variance is None or variance <= 0 else float(loss / variance)


def relative_fall(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median of the second half, how much lower it is as a share of the first's, and that share's standard error.

    From median absolute deviations, which outliers do not move.
    """
    before, after = max(float(np.median(first)), _TINY), float(np.median(second))
    errors = [
        _MEDIAN_ERROR * _MAD_TO_STD * float(np.median(np.abs(half - median))) / math.sqrt(len(half))
        for half, median in ((first, before), (second, after))
    ]
    return after, (before - after) / before, math.hypot(*errors) / before


def _running_median(last: list[float], value: float, rows: int) -> float | None:
    """Remember the value among the last ``rows``; their median, None while there are fewer."""
    last.append(value)
    del last[:-rows]
    return float(np.median(last)) if len(last) == rows else None
