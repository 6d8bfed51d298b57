"""Labels as a folder of PNG files with one index in JSON; with the images it is a data set that is trained on."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sonodistill.annotate.errors import AnnotationError, InvalidLabelError
from sonodistill.annotate.exchange.choose import Export
from sonodistill.annotate.exchange.pixels import inside, read_mask, save_png
from sonodistill.annotate.exchange.records import check_head, entries, head, read_json, record_of, said_in, to_json
from sonodistill.annotate.exchange.report import Skipped
from sonodistill.annotate.exchange.taken import Entry
from sonodistill.annotate.labels.mask import to_png
from sonodistill.annotate.model import Item, Label, Status
from sonodistill.files import atomic_path, write_text
from sonodistill.frames import Frame

FORM = "png"
INDEX = "labels.json"
TRAINING_INDEX = "index.csv"
_COLUMNS = ("file", "mask", "label", "group", "split", "mm_per_pixel")
_SQUARE = 0.01


def write(export: Export) -> None:
    """``labels.json``, ``masks/<frame>.png`` of label numbers; with the images ``images/<frame>.png``, gray, and
    ``index.csv``, by which ``sonodistill_training.corpus.labelled`` reads the folder (a skipped frame is not in it).

    The index comes last: a folder without one was not finished.
    """
    records: list[dict[str, Any]] = []
    table: list[tuple[str, ...]] = []

    def take(frame: Frame, label: Label) -> None:
        name = f"{label.row.frame}.png"
        record = record_of(item, label.row, frame)
        record["mask"] = record["image"] = None
        if label.mask is not None:
            record["mask"] = f"masks/{name}"
            with atomic_path(export.out / "masks" / name) as temporary:
                temporary.write_bytes(to_png(label.mask))
        if export.images:
            record["image"] = f"images/{name}"
            save_png(frame.image, export.out / "images" / name)
            if label.row.status is not Status.SKIPPED:
                table.append(_trained(record, item, frame))
        records.append(record)

    for item in export.chosen:
        export.labels(item, take)
    if export.images:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([_COLUMNS, *table])
        write_text(export.out / TRAINING_INDEX, text.getvalue())
    said = {**head(FORM, export.store.names, export.store.classes), "frames": records}
    write_text(export.out / INDEX, to_json(said))


def read(index: Path) -> Iterator[Entry | Skipped]:
    """The labels of a folder that ``write`` made, by its ``labels.json``; no file outside the folder is opened.

    Errors: InvalidLabelError, TooLargeError for an index that is none.
    """
    said = read_json(index)
    names = check_head(said, FORM)
    for number, record in enumerate(entries(said, "frames"), start=1):
        what = f"{index.name}, entry {number}"
        try:
            if not isinstance(record, dict) or not isinstance(record.get("frame"), str):
                raise InvalidLabelError("it names no frame")
            what = record["frame"]
            place = record.get("mask")
            mask = None if place is None else read_mask(inside(index.parent, place))
            yield Entry(what, what, mask, names, said_in(record))
        except AnnotationError as error:
            yield Skipped(what, error.message)


def _trained(record: dict[str, Any], item: Item, frame: Frame) -> tuple[str, ...]:
    """A row of the data set; the size of a pixel is one number there, so that only square ones have it."""
    row, column = frame.mm_per_pixel or (0.0, 0.0)
    square = row > 0 and abs(row - column) <= _SQUARE * row
    size = f"{(row + column) / 2:.6g}" if square else ""
    return record["image"], record["mask"] or "", record["classification"], item.group or item.id, "", size
