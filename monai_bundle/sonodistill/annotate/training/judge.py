"""How good a version of a model is on held-out frames; candidate and current version are judged by the same code."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Prompts
from sonodistill.annotate.training.held_out import VALIDATION
from sonodistill.annotate.training.labelled import INDEX
from sonodistill.frames import Frame, read

Mask = NDArray[np.bool_]
METRICS = {"segmentation": "dice", "classification": "accuracy", "interactive": "dice_3_clicks"}
CLICKS = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was measured.

    Attributes:
        metric: its name in ``METRICS``.
        value: mean over the rows of the index that are held out.
        count: of these.
        channels: labels or classes that the model tells apart.
    """

    metric: str
    value: float
    count: int
    channels: int


def judge(model: str, weights: Path, folder: Path, names: Sequence[str], *, threads: int = 0) -> Judgement:
    """Measure weights on the validation split of a training set, on the frames' own pixels.

    Segmentation: mean over frames and labels of the Dice, 1 where a label is neither there nor found; a model that does
    not draw a label finds nothing of it, and the one label of the set is whatever a model draws. Classification:
    accuracy. Interactive: mean Dice after three clicks of an oracle, each at the middle of the largest error.

    Args:
        model: one of ``METRICS``.
        weights: of a version.
        folder: of ``training_set``.
        names: of the label numbers in its masks.
        threads: of the inference.

    Errors: WeightsError for weights that cannot be used.
    """
    score, channels = _SCORES[model](weights, tuple(names), threads)
    values = [score(frame, mask, label) for frame, mask, label in _held_out(folder)]
    return Judgement(METRICS[model], float(np.mean(values)) if values else float("nan"), len(values), channels)


def dice(prediction: Mask, truth: Mask) -> float:
    """Of two masks (H, W); 1 when both are empty, so that what is not there is rightly not found."""
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


def middle_of_error(prediction: Mask, truth: Mask) -> tuple[tuple[float, float], bool] | None:
    """Where a person would click next: (x, y) farthest inside the largest wrong region, and whether it is missing.

    None when nothing is wrong.
    """
    wrong = (prediction != truth).astype(np.uint8)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(wrong, connectivity=4)
    if count < 2:
        return None
    largest = parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    depth = cv2.distanceTransform(np.pad(largest, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return (float(x), float(y)), bool(truth[y, x])


Score = Callable[[Frame, NDArray[np.uint8], str], float]


def _segmentation(weights: Path, names: tuple[str, ...], threads: int) -> tuple[Score, int]:
    from sonodistill.inference.predictor import Predictor

    predictor = Predictor(weights, precision="auto", threads=threads)

    def score(frame: Frame, numbers: NDArray[np.uint8], _: str) -> float:
        masks = predictor.predict_one(frame).masks
        if len(names) == 1:
            return dice(np.any(masks, axis=0), numbers > 0)
        drawn = dict(zip(predictor.labels, masks, strict=True))
        nothing = np.zeros(numbers.shape, bool)
        return float(np.mean([dice(drawn.get(name, nothing), numbers == at) for at, name in enumerate(names, 1)]))

    return score, len(predictor.labels)


def _classification(weights: Path, _: tuple[str, ...], threads: int) -> tuple[Score, int]:
    from sonodistill.inference.predictor import Predictor

    predictor = Predictor(weights, precision="auto", threads=threads)
    return lambda frame, __, label: float(predictor.predict_one(frame).label == label), len(predictor.labels)


def _interactive(weights: Path, _: tuple[str, ...], threads: int) -> tuple[Score, int]:
    from sonodistill.annotate.clicks.interactive import Interactive

    interactive = Interactive(weights, threads=threads)

    def score(frame: Frame, mask: NDArray[np.uint8], _: str) -> float:
        truth = mask > 0
        found, clicks = np.zeros_like(truth), {True: list[tuple[float, float]](), False: list[tuple[float, float]]()}
        for number in range(CLICKS):
            click = middle_of_error(found, truth)
            if click is None:
                break
            clicks[click[1]].append(click[0])
            before = found if number else None
            prompts = Prompts(tuple(clicks[True]), tuple(clicks[False]), mask=before)
            found = interactive.refine(FrameId("judged", 0), frame.image, prompts).mask
        return dice(found, truth)

    return score, 1


_SCORES: dict[str, Callable[[Path, tuple[str, ...], int], tuple[Score, int]]] = {
    "segmentation": _segmentation,
    "classification": _classification,
    "interactive": _interactive,
}


def _held_out(folder: Path) -> Iterator[tuple[Frame, NDArray[np.uint8], str]]:
    with (folder / INDEX).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == VALIDATION]
    for row in rows:
        frame = next(read(folder / row["file"]))
        mask = next(read(folder / row["mask"])).image if row["mask"] else np.zeros(frame.image.shape, np.uint8)
        yield frame, mask, row["label"]
