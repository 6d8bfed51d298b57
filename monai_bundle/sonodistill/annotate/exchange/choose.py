"""Which labels are exported, with the frames they are of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sonodistill.annotate.errors import AnnotationError
from sonodistill.annotate.exchange.report import Report
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Catalogue, Item, Label, LabelRow, Status
from sonodistill.errors import SonoDistillError
from sonodistill.frames import Frame


@dataclass(frozen=True, slots=True)
class Export:
    """What is exported from where to where; each form is a function of it.

    Attributes:
        catalogue, store: the labels are of.
        out: folder to write in.
        chosen: the labels, in the order of the frames, by item.
        images: whether the frames are written, too.
        report: filled on the way.
    """

    catalogue: Catalogue
    store: LabelStore
    out: Path
    chosen: dict[Item, list[LabelRow]]
    images: bool
    report: Report

    def label(self, row: LabelRow) -> Label:
        """The label of a row with its mask.

        Errors: AnnotationError when it was changed since it was chosen.
        """
        label = self.store.get(row.frame, row.annotator)
        if label is None or label.row.revision != row.revision:
            raise AnnotationError("its label was changed during the export", remedy="export it again")
        return label

    def labels(self, item: Item, take: Callable[[Frame, Label], None]) -> None:
        """Hand over each chosen label of an item with its frame; those that cannot be are noted as skipped."""
        left = {row.frame.index: row for row in self.chosen[item]}
        reason: str = "its file has no such frame"
        try:
            for frame in self.catalogue.read(item, only=sorted(left)):
                row = left.pop(frame.index)
                try:
                    label = self.label(row)
                    _check_fits(label, frame)
                    take(frame, label)
                    self.report.written.append(str(row.frame))
                except AnnotationError as error:
                    self.report.skip(row.frame, error.message)
        except SonoDistillError as error:
            reason = error.message
        for row in left.values():
            self.report.skip(row.frame, reason)


def choose(
    catalogue: Catalogue, store: LabelStore, statuses: Collection[Status], annotator: str | None, report: Report
) -> dict[Item, list[LabelRow]]:
    """One label for each frame that has any: the best of these statuses, by one annotator if one is named.

    Those of items that the catalogue does not have are noted as skipped.
    """
    best: dict[FrameId, LabelRow] = {}
    for row in store.rows(status=statuses, annotator=annotator):
        best.setdefault(row.frame, row)  # the best of a frame comes first
    chosen: dict[Item, list[LabelRow]] = {}
    for id, rows in _by_item(best.values()):
        try:
            chosen[catalogue.item(id)] = rows
        except AnnotationError as error:
            for row in rows:
                report.skip(row.frame, error.message)
    return chosen


def _by_item(rows: Collection[LabelRow]) -> Iterator[tuple[str, list[LabelRow]]]:
    found: dict[str, list[LabelRow]] = {}
    for row in rows:
        found.setdefault(row.frame.item, []).append(row)
    yield from found.items()


def _check_fits(label: Label, frame: Frame) -> None:
    if label.mask is not None and label.mask.shape != frame.image.shape:
        raise AnnotationError(f"its mask is {label.mask.shape}, its frame {frame.image.shape}: the file was replaced")
