"""The probe of a training, on all images of a labelled folder, with intervals and beside that of another encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sonodistill_training.evaluate.metrics import classification
from sonodistill_training.evaluate.metrics.statistics import Interval, bootstrap, bootstrap_difference, mcnemar
from sonodistill_training.monitor.probe import Probe


@dataclass(frozen=True, slots=True)
class Probed:
    """One encoder's figures, and what they are less those of the first one: None of the first itself.

    Attributes:
        accuracy, macro_f1: over all images, each predicted by the fold that was not fitted to it.
        accuracy_gain, macro_f1_gain: on the same images.
        p_value: McNemar's exact test of the two accuracies.
    """

    accuracy: Interval
    macro_f1: Interval
    accuracy_gain: Interval | None = None
    macro_f1_gain: Interval | None = None
    p_value: float | None = None


def probe_encoders(
    encoders: Mapping[str, Callable[[], nn.Module]],
    folder: str | Path,
    *,
    kind: str = "knn",
    input_size: int = 224,
    folds: int = 5,
    seed: int = 0,
    device: torch.device,
    precision: str = "auto",
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Probed]:
    """Probe each encoder in the same folds. Intervals are over groups; they take the folds as given.

    Args:
        encoders: name to what makes it: (B, 1, H, W) in [0, 1] to maps.
        folder: with an ``index.csv`` of labels.
        kind, input_size, folds, seed, precision: see :class:`Probe`.
        tick: called after each encoder.

    Raises:
        DatasetError, UnreadableFileError, BundleConfigError, NotFiniteError: see :class:`Probe`.
    """
    probe = Probe(folder, input_size, kind, folds=folds, limit=2**31, seed=seed, precision=precision)
    score = {name: partial(getattr(classification, name), probe.labels) for name in ("accuracy", "macro_f1")}
    first: NDArray[Any] | None = None
    found: dict[str, Probed] = {}
    for name, make in encoders.items():
        chosen = np.eye(len(probe.classes))[probe.predicted(make().eval().to(device), device)]
        own = {key: bootstrap(statistic, chosen[None], probe.groups) for key, statistic in score.items()}
        if first is None:
            first, found[name] = chosen, Probed(**own)
        else:
            gains = {
                f"{key}_gain": bootstrap_difference(statistic, chosen[None], first[None], probe.groups)
                for key, statistic in score.items()
            }
            right = [one.argmax(1) == probe.labels for one in (chosen, first)]
            found[name] = Probed(**own, **gains, p_value=mcnemar(*right).p_value)
        tick()
    return found
