"""What papers A and B report, number by number, and what is wrong or unsaid in it.

Paper A is "Domain-Constrained Distillation of DINOv3 into a Lightweight Foundation Model Toward Point-of-Care
Ultrasound" (MIDL 2026), Tables 2 to 8. Paper B is "General Methods Make Great Domain-specific Foundation Models"
(UltraDINO, arXiv:2506.19552), of which the headline numbers are here, from a summary. What is wrong in
them: see the module ``errata``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

BUSI_TEST_IMAGES = 157
"""Images of paper A's classification test: not printed; its accuracies are multiples of 1 / 157."""
TEST_IMAGES = {("segmentation", "ddti"): 65, ("classification", "busi"): BUSI_TEST_IMAGES}

RANDOM, DEFAULT, DEFAULT_MIXUP = "R50-Rand", "R50-Distill-Default", "R50-Distill-Default-Mixup"
US_PLAIN, US, TEACHER = "R50-Distill-US-NoMixup", "R50-Distill-US", "DINOv3 ViT-B/16"
STUDENTS = {DEFAULT: ("Default", False), DEFAULT_MIXUP: ("Default", True), US_PLAIN: ("US", False), US: ("US", True)}
"""Augmentation and mixup of each distilled ResNet-50. Which of Table 6 is which row of the other tables follows from
the numbers: Table 3's "R50-Distill-Default" is Table 6's Default without mixup, its "R50-Distill-US" is US with it."""


@dataclass(frozen=True, slots=True)
class Published:
    """A number as it is printed.

    Attributes:
        paper: "A" or "B".
        table: "2" to "8", or "headline".
        row: encoder, as everywhere in the evaluation.
        task: "segmentation", "classification" or "deployment".
        data: key of the data set; "" for deployment.
        protocol: what it most likely was; paper A's frozen encoder had a whole decoder on it.
        metric: "dice", "iou", "accuracy", "macro_f1", or a quantity of Table 5 with its unit.
        value: a share in [0, 1] for metrics (paper B's percent / 100).
        fraction: of the training images that were labelled.
        shots: labelled images in the place of a fraction.
        deviation: standard deviation where one is printed.
    """

    paper: str
    table: str
    row: str
    task: str
    data: str
    protocol: str
    metric: str
    value: float
    fraction: float = 1.0
    shots: int = 0
    deviation: float | None = None


def _of_a(table: str, task: str, data: str, protocol: str, rows: Mapping[str, Sequence[float]]) -> Iterator[Published]:
    metrics = ("dice", "iou") if task == "segmentation" else ("accuracy", "macro_f1")
    for row, values in rows.items():
        for metric, value in zip(metrics, values, strict=False):
            yield Published("A", table, row, task, data, protocol, metric, value)


def _table_2() -> Iterator[Published]:
    ddti = {RANDOM: (0.6028, 0.4647), DEFAULT: (0.7378, 0.6252), US: (0.7334, 0.6192), TEACHER: (0.6503, 0.4743)}
    busi = {RANDOM: (0.4365, 0.3369), DEFAULT: (0.5771, 0.4857), US: (0.6083, 0.5259), TEACHER: (0.2384, 0.1729)}
    classes = {RANDOM: (0.6115, 0.4204), DEFAULT: (0.7325, 0.7037), US: (0.7452, 0.6768)}
    yield from _of_a("2", "segmentation", "ddti", "frozen_encoder_unet", ddti)
    yield from _of_a("2", "segmentation", "busi", "frozen_encoder_unet", busi)
    yield from _of_a("2", "classification", "busi", "linear", classes)


def _table_3() -> Iterator[Published]:
    ddti = {RANDOM: (0.6605, 0.5297), DEFAULT: (0.7652, 0.6608), US: (0.7872, 0.6745), TEACHER: (0.7933, 0.4790)}
    busi = {RANDOM: (0.5525, 0.4629), DEFAULT: (0.6967, 0.6209), US: (0.6930, 0.6126), TEACHER: (0.2838, 0.1957)}
    classes = {RANDOM: (0.6561, 0.6526), DEFAULT: (0.8662, 0.8572), US: (0.8790, 0.8673)}
    yield from _of_a("3", "segmentation", "ddti", "finetune", ddti)
    yield from _of_a("3", "segmentation", "busi", "finetune", busi)
    yield from _of_a("3", "classification", "busi", "finetune", classes)


FRACTIONS = (0.05, 0.1, 0.2, 0.5)


def _table_4() -> Iterator[Published]:
    columns = {
        ("segmentation", "ddti", "dice"): {
            RANDOM: (0.4269, 0.5237, 0.5597, 0.6007),
            DEFAULT: (0.4958, 0.6536, 0.7109, 0.7672),
            US: (0.5233, 0.6574, 0.7309, 0.7661),
        },
        ("segmentation", "busi", "dice"): {
            RANDOM: (0.1911, 0.3381, 0.3895, 0.4038),
            DEFAULT: (0.2494, 0.4857, 0.5011, 0.6185),
            US: (0.2752, 0.4600, 0.5036, 0.5543),
        },
        ("classification", "busi", "accuracy"): {
            RANDOM: (0.2675, 0.5605, 0.6242, 0.6561),
            DEFAULT: (0.4968, 0.5860, 0.6688, 0.7452),
            US: (0.7197, 0.6242, 0.8025, 0.8726),
        },
    }
    for (task, data, metric), rows in columns.items():
        for row, values in rows.items():
            for fraction, value in zip(FRACTIONS, values, strict=True):
                yield Published("A", "4", row, task, data, "finetune", metric, value, fraction)


def _table_5() -> Iterator[Published]:
    quantities: dict[str, tuple[tuple[float, float | None], tuple[float, float | None]]] = {
        "encoder_parameters_millions": ((86, None), (25, None)),
        "parameters_millions": ((87.44, None), (32.52, None)),
        "gflops": ((22.80, None), (10.67, None)),
        "gpu_latency_ms": ((8.63, 0.91), (4.07, 1.26)),
        "gpu_images_per_second": ((86.21, None), (174.88, None)),
        "gpu_peak_mb": ((686.70, None), (372.17, None)),
        "cpu_latency_ms": ((430.51, 3.02), (33.76, 4.50)),
        "cpu_images_per_second": ((2.30, None), (27.64, None)),
    }
    for metric, values in quantities.items():
        for row, (value, deviation) in zip((TEACHER, US), values, strict=True):
            yield Published("A", "5", row, "deployment", "", "deployment", metric, value, deviation=deviation)
    yield from _of_a("5", "segmentation", "ddti", "finetune", {TEACHER: (0.7933,), US: (0.7872,)})


def _table_6() -> Iterator[Published]:
    classes = {
        DEFAULT: (0.8662, 0.8572),
        DEFAULT_MIXUP: (0.8712, 0.8602),
        US_PLAIN: (0.8790, 0.8738),
        US: (0.8790, 0.8673),
    }
    ddti = {
        DEFAULT: (0.7652, 0.6608),
        DEFAULT_MIXUP: (0.7732, 0.6658),
        US_PLAIN: (0.7759, 0.6705),
        US: (0.7872, 0.6745),
    }
    yield from _of_a("6", "classification", "busi", "finetune", classes)
    yield from _of_a("6", "segmentation", "ddti", "finetune", ddti)


def _table_7() -> Iterator[Published]:
    classes = {
        "R18-Rand": (0.5987, 0.4144),
        "R18-Distill-US": (0.6561, 0.4835),
        "ConvNeXt-Tiny-Rand": (0.5096, 0.3386),
        "ConvNeXt-Tiny-Distill-US": (0.8153, 0.7855),
        US: (0.8790, 0.8673),
    }
    ddti = {
        "R18-Rand": (0.6936, 0.5657),
        "R18-Distill-US": (0.7552, 0.6424),
        "ConvNeXt-Tiny-Rand": (0.6251, 0.4828),
        "ConvNeXt-Tiny-Distill-US": (0.7543, 0.6386),
        US: (0.7872, 0.6745),
    }
    yield from _of_a("7", "classification", "busi", "finetune", classes)
    yield from _of_a("7", "segmentation", "ddti", "finetune", ddti)


USFM, SAM2, ULTRADINO = "USFM ViT-B/16", "Temporal SAM2 Hiera-B+", "UltraDINO ViT-B/16"


def _table_8() -> Iterator[Published]:
    for row, millions in {TEACHER: 86.0, SAM2: 80.8, USFM: 86, US: 25.0}.items():
        yield Published("A", "8", row, "deployment", "", "deployment", "encoder_parameters_millions", millions)
    rows = {TEACHER: (0.7933,), SAM2: (0.8041,), USFM: (0.5760,), US: (0.7872,)}
    yield from _of_a("8", "segmentation", "ddti", "finetune", rows)


def _headlines() -> Iterator[Published]:
    yield Published(
        "B", "headline", ULTRADINO, "segmentation", "jnu_ifm", "finetune", "dice", 0.8601, fraction=1.0, shots=20
    )
    yield Published("B", "headline", ULTRADINO, "segmentation", "fass", "finetune", "dice", 0.7424)
    yield Published("B", "headline", USFM, "segmentation", "fass", "finetune", "dice", 0.6666)
    yield Published("B", "headline", ULTRADINO, "classification", "fetal_planes", "linear", "macro_f1", 0.9454)


@cache
def published() -> tuple[Published, ...]:
    """Every number, in the order of the tables."""
    tables = (_table_2, _table_3, _table_4, _table_5, _table_6, _table_7, _table_8, _headlines)
    return tuple(value for table in tables for value in table())
