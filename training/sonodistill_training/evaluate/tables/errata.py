"""What is wrong with published numbers, found by arithmetic on the numbers, and what is unsaid about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise

from sonodistill_training.evaluate.metrics.segmentation import is_possible
from sonodistill_training.evaluate.tables.published import (
    BUSI_TEST_IMAGES,
    STUDENTS,
    TEACHER,
    ULTRADINO,
    US,
    USFM,
    Published,
    published,
)

GMACS = {TEACHER: {224: 17.55, 256: 22.797}, US: {224: 8.17, 256: 10.67}}
"""Multiply-accumulates (10^9) of encoder and head by input size, counted on networks of these shapes: ViT-B/16 with a
3x3 convolution to 256 channels, batch normalisation and a 1x1 convolution; ResNet-50 with SMP's U-Net decoder."""
MILLIONS = {"encoder": 23.508, "with classifier": 25.557}
"""Parameters (10^6) of a ResNet-50 without and with its ImageNet classifier."""

_HALF = 5e-5  # what a value printed with four decimals is rounded by at most
_SPREAD = 0.02  # throughput and 1 / latency of one measurement agree within this share
_UNLIKE = 3.0  # a speed-up this many times the reduction in MACs does not come from the network


@dataclass(frozen=True, slots=True)
class Erratum:
    """Something to know about a published number: ``code`` names the reason in :data:`REASONS`."""

    code: str
    of: Published

    @property
    def reason(self) -> str:
        """One sentence."""
        return REASONS[self.code]


REASONS = {
    "impossible-iou": "Impossible: a mean over images obeys D/(2-D) <= IoU <= D, and this IoU is below it.",
    "dice-of-impossible-iou": "The Dice of a row whose IoU is impossible; nothing says which of the two is wrong.",
    "not-of-157": "Every other BUSI accuracy is a multiple of 1/157 (157 test images); this one is not.",
    "not-monotone": "Falls from 5 % to 10 % of the labels (.7197 to .6242): one draw of the labelled images, one seed.",
    "confounded": "Default and US differ in two things: this Default is without mixup, this US with it (Table 6).",
    "macs-at-256": "Called FLOPs at 224 px; it is the number of multiply-accumulates at 256 px.",
    "throughput-not-latency": "Not 1 / latency at batch size 1 (8.63 ms: 115.9/s; 4.07 ms: 245.7/s; 33.76 ms: 29.6/s).",
    "unlike-speeds": "Printed as 12.75 times faster with 2.14 times fewer operations: hardly measured alike.",
    "with-classifier": "ResNet-50 counted with its ImageNet classifier, which is not used; the encoder has 23.51 M.",
    # Not wrong, but unsaid or unfair.
    "frozen-unclear": "Called a linear head; a random encoder's .60 on DDTI points to a whole decoder on frozen maps.",
    "one-rate": "Fine-tuned with one learning rate, without warm-up or layer-wise decay: hard on a transformer.",
    "empty-unsaid": "How normal images (no lesion) are scored is unsaid; it moves the mean by up to .17 (their share).",
    "unknown-configuration": "How USFM was configured is unsaid; others report that its segmentation needed fixing.",
    "memory-unclear": "Allocated or reserved is unsaid; the weights alone take 350 MB (teacher) and 130 MB (student).",
    "from-summary": "Read from a summary of the paper, which does not say which size of UltraDINO it is.",
    "by-difference": "Not printed: UltraDINO's value less the 7.58 points that it is said to lie above.",
}
ARITHMETIC = tuple(REASONS)[:9]
"""Codes that are found by computation."""


def errata(values: Sequence[Published] | None = None) -> list[Erratum]:
    """What is wrong with the numbers, found by arithmetic, and what is unsaid about them.

    Args:
        values: default :func:`published`.
    """
    values = published() if values is None else values
    found = [Erratum(code, value) for code, check in _CHECKS.items() for value in check(values)]
    return found + [Erratum(code, value) for code, unsaid in _UNSAID.items() for value in values if unsaid(value)]


@cache
def _codes() -> dict[Published, tuple[str, ...]]:
    found: dict[Published, tuple[str, ...]] = {}
    for erratum in errata():
        found[erratum.of] = (*found.get(erratum.of, ()), erratum.code)
    return found


def codes_of(value: Published) -> tuple[str, ...]:
    """The codes of what is to be known about one of the published numbers; of most there is none."""
    return _codes().get(value, ())


def explained_by(accuracies: Sequence[float], images: int) -> list[float]:
    """Those of the accuracies that are k / ``images`` for a whole k, rounded to four decimals."""
    return [value for value in accuracies if abs(round(value * images) / images - value) <= _HALF + 1e-9]


def _where(value: Published, *names: str) -> tuple[object, ...]:
    return tuple(getattr(value, name) for name in names)


_SAME_RUN = ("paper", "row", "task", "data", "protocol", "fraction", "shots")


def _impossible(values: Sequence[Published]) -> list[Published]:
    dice = {_where(value, "table", *_SAME_RUN): value.value for value in values if value.metric == "dice"}
    pairs = [(dice.get(_where(value, "table", *_SAME_RUN)), value) for value in values if value.metric == "iou"]
    return [value for of, value in pairs if of is not None and not is_possible(of, value.value)]


def _dice_of_impossible(values: Sequence[Published]) -> list[Published]:
    wrong = {_where(value, *_SAME_RUN) for value in _impossible(values)}
    return [value for value in values if value.metric == "dice" and _where(value, *_SAME_RUN) in wrong]


def _not_of_test_images(values: Sequence[Published]) -> list[Published]:
    found = [value for value in values if value.paper == "A" and value.metric == "accuracy"]
    return [value for value in found if not explained_by([value.value], BUSI_TEST_IMAGES)]


def _not_monotone(values: Sequence[Published]) -> list[Published]:
    runs: dict[tuple[object, ...], list[Published]] = {}
    for value in values:
        if value.fraction < 1:
            runs.setdefault(_where(value, "paper", "table", "row", "task", "data", "metric"), []).append(value)
    steps = [pair for run in runs.values() for pair in pairwise(sorted(run, key=lambda value: value.fraction))]
    return [value for less, more in steps if less.value > more.value for value in (less, more)]


def _confounded(values: Sequence[Published]) -> list[Published]:
    tables: dict[str, set[str]] = {}
    for value in values:
        if value.row in STUDENTS:
            tables.setdefault(value.table, set()).add(value.row)
    hidden: set[tuple[object, ...]] = set()
    for table, rows in tables.items():
        for one, other in combinations(sorted(rows), 2):
            differ = [a != b for a, b in zip(STUDENTS[one], STUDENTS[other], strict=True)]
            if all(differ) and len(rows) == 2:  # nothing between the two shows which of the factors it was
                hidden |= {(table, one), (table, other)}
    return [value for value in values if _where(value, "table", "row") in hidden]


def _macs(values: Sequence[Published]) -> list[Published]:
    return [
        value
        for value in values
        if value.metric == "gflops"
        and abs(GMACS[value.row][256] - value.value) < 0.01 < abs(GMACS[value.row][224] - value.value)
    ]


def _deployment(values: Sequence[Published]) -> dict[tuple[str, str], Published]:
    return {(value.row, value.metric): value for value in values if value.task == "deployment" and value.table == "5"}


def _throughputs(values: Sequence[Published]) -> list[Published]:
    found = _deployment(values)
    pairs = [
        (found.get((row, metric.replace("images_per_second", "latency_ms"))), value)
        for (row, metric), value in found.items()
        if metric.endswith("images_per_second")
    ]
    return [value for latency, value in pairs if latency and abs(value.value * latency.value / 1000 - 1) > _SPREAD]


def _unlike_speeds(values: Sequence[Published]) -> list[Published]:
    found = _deployment(values)

    def ratio(metric: str) -> float:
        return found[TEACHER, metric].value / found[US, metric].value

    wrong = [m for m in ("gpu_latency_ms", "cpu_latency_ms") if (TEACHER, m) in found and (US, m) in found]
    wrong = [metric for metric in wrong if ratio(metric) > _UNLIKE * ratio("gflops")]
    return [found[row, metric] for metric in wrong for row in (TEACHER, US)]


def _with_classifier(values: Sequence[Published]) -> list[Published]:
    found = [value for value in values if value.metric == "encoder_parameters_millions" and value.row == US]
    return [value for value in found if abs(value.value - MILLIONS["encoder"]) > 1]


_CHECKS: dict[str, Callable[[Sequence[Published]], list[Published]]] = {
    "impossible-iou": _impossible,
    "dice-of-impossible-iou": _dice_of_impossible,
    "not-of-157": _not_of_test_images,
    "not-monotone": _not_monotone,
    "confounded": _confounded,
    "macs-at-256": _macs,
    "throughput-not-latency": _throughputs,
    "unlike-speeds": _unlike_speeds,
    "with-classifier": _with_classifier,
}

_UNSAID: dict[str, Callable[[Published], bool]] = {
    "frozen-unclear": lambda value: value.table == "2" and value.task == "segmentation",
    "one-rate": lambda value: value.row == TEACHER and value.task == "segmentation" and value.protocol == "finetune",
    "empty-unsaid": lambda value: value.data == "busi" and value.task == "segmentation",
    "unknown-configuration": lambda value: value.paper == "A" and value.row == USFM and value.task == "segmentation",
    "memory-unclear": lambda value: value.metric == "gpu_peak_mb",
    "from-summary": lambda value: value.paper == "B" and value.row == ULTRADINO,
    "by-difference": lambda value: value.paper == "B" and value.row == USFM,
}
