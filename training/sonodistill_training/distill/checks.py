"""What a distillation is watched by while it runs, and what must not be in its corpus."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sonodistill_training.corpus.labelled import read_labelled
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.distill.guard import require_no_leak
from sonodistill_training.loop import Monitor
from sonodistill_training.monitor.dense import DenseProbe
from sonodistill_training.monitor.health import Health
from sonodistill_training.monitor.probe import Probe


def guard(
    corpus: Corpus, evaluation: Sequence[str | Path], probe: str | Path | None, cache: str | Path | None = None
) -> None:
    """Refuse a corpus that holds frames of the sets that the student is judged by. Of several processes one looks.

    Raises:
        EvaluationLeakError: it does.
    """
    folders = [*evaluation, *([probe] if probe else [])]
    if folders and os.environ.get("RANK", "0") == "0":
        require_no_leak(corpus, folders, cache)


def make_monitors(
    corpus: Corpus, probe: str | Path | None, input_size: int, precision: str = "auto", seed: int = 0
) -> list[Monitor]:
    """The health of the features on frames of the corpus and, with a labelled folder, probes on that.

    A folder with labels gives the accuracy and macro F1 of nearest neighbours, one with masks the Dice of a linear
    layer on the maps. Only the first of several processes looks, and loads the images.
    """
    if os.environ.get("RANK", "0") != "0":
        return []
    found: list[Monitor] = [Health(corpus, input_size=input_size, seed=seed)]
    if probe is not None:
        frames = read_labelled(Path(probe))
        if any(frame.label for frame in frames):
            found.append(Probe(probe, input_size=input_size, seed=seed, precision=precision))
        if any(frame.mask for frame in frames):
            found.append(DenseProbe(probe, input_size=input_size, seed=seed, precision=precision))
    return found
