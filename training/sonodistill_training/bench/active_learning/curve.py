"""One run: a strategy chooses, an oracle labels, a head learns, until the last round."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.acquire.pool import Pool, prepare
from sonodistill.annotate.acquire.strategies import select
from sonodistill.annotate.acquire.uncertainty import Ensemble
from sonodistill.errors import DatasetError
from sonodistill_training.bench.active_learning.frames import Frames
from sonodistill_training.bench.active_learning.head import dice, fit
from sonodistill_training.corpus.splits import split_groups

_TEST = 0.3


def divide(frames: Frames, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(pool, test): 70 and 30 % of the frames by whole groups, stratified by class, another division for each seed."""
    groups = frames.groups.tolist()
    labels = [frames.data.labels[row] for row in frames.rows.tolist()]
    split = split_groups(groups, labels, (1 - _TEST, 0.0, _TEST), seed)
    is_test = np.array([split[group] == "test" for group in groups])
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def run_curve(frames: Frames, strategy: str, seed: int, rounds: tuple[int, ...]) -> dict[str, Any]:
    """Dice on the test frames after each round.

    Every strategy sees what the server would: embeddings of the pool, and the uncertainty of an ensemble fitted to
    what is labelled so far, none before the first round.

    Returns: labelled (the rounds), dice (mean over test frames with a structure), dice_all (over all of them, 1 where
        both masks are empty), chosen (files, in the order they were labelled), test (their number), pool.

    Raises:
        DatasetError: fewer frames than the last round needs, or none with a structure to test on.
    """
    pool, test = divide(frames, seed)
    if len(pool) < rounds[-1] or not frames.structured[test].any():
        raise DatasetError(
            f"{frames.data.name} has {len(pool)} frames to label and {len(test)} to test on",
            remedy="ask for fewer --rounds, or give a larger set",
        )
    embeddings = prepare(frames.vectors[pool])
    alone = np.arange(len(pool))  # stills: each is a file of its own
    labelled = np.zeros(0, np.int64)
    unsure = None
    found: dict[str, list[float]] = {"dice": [], "dice_all": []}
    for count in rounds:
        now = Pool(embeddings, alone, np.zeros(len(pool), np.int64), unsure)
        left = np.setdiff1d(alone, labelled)
        picks = select(strategy, now, labelled, left, count - len(labelled), seed=(seed, count))
        labelled = np.concatenate([labelled, [pick.row for pick in picks]]).astype(np.int64)
        rows = pool[labelled]
        ensemble = Ensemble.fit(frames.cells[rows], frames.shares[rows], frames.groups[rows].tolist(), seed=seed)
        unsure = ensemble.score(frames.cells[pool])
        scores = dice(frames, fit(frames, rows), test)
        found["dice"].append(float(scores[frames.structured[test]].mean()))
        found["dice_all"].append(float(scores.mean()))
    chosen = [frames.data.files[row] for row in frames.rows[pool[labelled]].tolist()]
    return {**found, "labelled": list(rounds), "chosen": chosen, "test": len(test), "pool": len(pool)}
