"""Which evaluations each table of the papers needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sonodistill_training.evaluate.tables.published import (
    DEFAULT,
    DEFAULT_MIXUP,
    FRACTIONS,
    RANDOM,
    SAM2,
    TEACHER,
    ULTRADINO,
    US,
    US_PLAIN,
    USFM,
)

IMAGENET = "R50-ImageNet"
"""Not in paper A, and the baseline that a reader wants."""
SHOTS, DRAWS, SEEDS = 20, 5, 5
TABLES = ("2", "3", "4", "5", "6", "7", "8", "headline")

_R50 = (RANDOM, IMAGENET, DEFAULT, US)
_OTHERS = ("R18-Rand", "R18-Distill-US", "ConvNeXt-Tiny-Rand", "ConvNeXt-Tiny-Distill-US")
_OF_B = (ULTRADINO, "UltraDINO ViT-S/16", "DINOv2", "iBOT", USFM)


@dataclass(frozen=True, slots=True)
class PaperCell:
    """What one place of a table needs, for any draw and seed; the fields are those of a :class:`Cell`.

    Attributes:
        table: "2" to "8", or "headline" (paper B).
        row: encoder.
        task, data, protocol, head: as in a cell.
        recipe: "paper", "vit" beside it for transformers, or "paper_b" for paper B's headlines.
        fraction, shots: of labelled images.
    """

    table: str
    row: str
    task: str
    data: str
    protocol: str
    head: str
    recipe: str = "paper"
    fraction: float = 1.0
    shots: int = 0

    @property
    def draws(self) -> int:
        """How many random choices of the labelled images there are to be."""
        return DRAWS if self.shots or self.fraction < 1 else 1


def paper_cells(tables: Iterable[str] = TABLES) -> list[PaperCell]:
    """The cells of the tables, in their order; the same work may serve several (:func:`distinct`)."""
    makers = {
        "2": _table_2, "3": _table_3, "4": _table_4, "5": _table_5,
        "6": _table_6, "7": _table_7, "8": _table_8, "headline": _headlines,
    }  # fmt: skip
    return [replace(cell, table=table) for table in tables for cell in makers[table]()]


def distinct(cells: Iterable[PaperCell]) -> list[PaperCell]:
    """The cells without those that another table has asked for already."""
    found: dict[PaperCell, PaperCell] = {}
    for cell in cells:
        found.setdefault(replace(cell, table=""), cell)
    return list(found.values())


def rank(row: str) -> tuple[int, str]:
    """Sorts encoders as the papers' tables have them; others come after, by name."""
    rows = list(dict.fromkeys(cell.row for cell in paper_cells()))
    return (rows.index(row) if row in rows else len(rows), row)


def is_transformer(row: str) -> bool:
    """Whether a row's encoder is a vision transformer."""
    return not row.startswith(("R50", "R18", "ConvNeXt"))


def _segmentation(row: str, data: str, protocol: str, fraction: float = 1.0) -> Iterator[PaperCell]:
    light = "unet" if "Hiera" in row else "light"
    head = "linear" if protocol == "linear" else light if is_transformer(row) else "unet"
    for recipe in ("paper", "vit") if is_transformer(row) and protocol == "finetune" else ("paper",):
        yield PaperCell("", row, "segmentation", data, protocol, head, recipe, fraction)


def _classification(row: str, protocol: str, fraction: float = 1.0) -> PaperCell:
    return PaperCell("", row, "classification", "busi", protocol, "linear", fraction=fraction)


def _table_2() -> Iterator[PaperCell]:
    for protocol in ("frozen_encoder_unet", "linear"):
        for data in ("ddti", "busi"):
            for row in (*_R50, TEACHER):
                yield from _segmentation(row, data, protocol)
    yield from (_classification(row, "linear") for row in _R50)


def _table_3() -> Iterator[PaperCell]:
    for data in ("ddti", "busi"):
        for row in (*_R50, TEACHER):
            yield from _segmentation(row, data, "finetune")
    yield from (_classification(row, "finetune") for row in _R50)


def _table_4() -> Iterator[PaperCell]:
    for data in ("ddti", "busi"):
        for row in _R50:
            for fraction in FRACTIONS:
                yield from _segmentation(row, data, "finetune", fraction)
    yield from (_classification(row, "finetune", fraction) for row in _R50 for fraction in FRACTIONS)


def _table_5() -> Iterator[PaperCell]:
    for row in (TEACHER, US):
        yield next(_segmentation(row, "ddti", "finetune"))


def _table_6() -> Iterator[PaperCell]:
    rows = (DEFAULT, DEFAULT_MIXUP, US_PLAIN, US)
    yield from (_classification(row, "finetune") for row in rows)
    for row in rows:
        yield from _segmentation(row, "ddti", "finetune")


def _table_7() -> Iterator[PaperCell]:
    yield from (_classification(row, "finetune") for row in (*_OTHERS, US))
    for row in (*_OTHERS, US):
        yield from _segmentation(row, "ddti", "finetune")


def _table_8() -> Iterator[PaperCell]:
    for row in (TEACHER, SAM2, USFM, US):
        yield from _segmentation(row, "ddti", "finetune")


def _headlines() -> Iterator[PaperCell]:
    for row in _OF_B:
        yield PaperCell("", row, "segmentation", "jnu_ifm", "finetune", "upernet", "paper_b", shots=SHOTS)
    for row in _OF_B:
        yield PaperCell("", row, "segmentation", "fass", "finetune", "upernet", "paper_b")
    for row in _OF_B:
        yield PaperCell("", row, "classification", "fetal_planes", "linear", "linear", "paper_b")
