"""Labels as a folder of PNG files with one index in JSON, as ``sonodistill label export --form png`` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import png as codec
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange.errors import NotLabelsError
from UltrasoundSegmentLib.exchange.files import read_bytes, write_bytes
from UltrasoundSegmentLib.exchange.records import (
    check_head,
    entries,
    frame_id,
    head,
    read_json,
    record_of,
    said_in,
    to_json,
)
from UltrasoundSegmentLib.exchange.report import Report
from UltrasoundSegmentLib.exchange.take import Taker
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.steps import Steps, finish
from UltrasoundSegmentLib.masks.store import MaskStore

FORM = "png"
INDEX = "labels.json"

_MAX_PNG = 1 << 26


def write(
    cine: Any, store: MaskStore, indices: Sequence[int], out: Path, report: Report, *, images: bool
) -> Steps[None]:
    """``labels.json``, ``masks/<frame>.png`` of label numbers; with the images ``images/<frame>.png``, gray.

    The index comes last: a folder without one was not finished.
    """
    records: list[dict[str, Any]] = []
    for index in indices:
        frame = frame_id(cine, index)
        record: dict[str, Any] = {**record_of(cine, store, index), "mask": None, "image": None}
        if store.status(index) is not Status.SKIPPED:
            record["mask"] = f"masks/{frame}.png"
            write_bytes(out / record["mask"], codec.encode(store.mask(index)))
            report.files.append(str(out / record["mask"]))
        if images:
            record["image"] = f"images/{frame}.png"
            write_bytes(out / record["image"], codec.encode(cine.frame(index).image))
            report.files.append(str(out / record["image"]))
        records.append(record)
        report.written.append(frame)
        yield
    write_bytes(out / INDEX, to_json({**head(FORM, store.labels), "frames": records}))
    report.files.append(str(out / INDEX))


def import_png(path: str | Path, cine: Any, store: MaskStore, *, replace: bool = False) -> Report:
    """``import_png_steps`` all at once."""
    return finish(import_png_steps(path, cine, store, replace=replace))


def import_png_steps(path: str | Path, cine: Any, store: MaskStore, *, replace: bool = False) -> Steps[Report]:
    """Take over the labels of a folder of this form, or of its ``labels.json``; no file outside of it is opened.

    Args:
        path: what to read.
        cine, store: they go into; labels of other items are in the report.
        replace: a person's label that is here already, too.

    Errors: NotLabelsError, ExchangeError for an index that is none.
    """
    index = Path(path) / INDEX if Path(path).is_dir() else Path(path)
    said = read_json(index)
    report = Report()
    names = check_head(said, FORM)
    records = entries(said, "frames")
    taker = Taker(cine, store, names, replace=replace, report=report)
    for number, record in enumerate(records, 1):
        what = f"{index.name}, entry {number}"
        try:
            if not isinstance(record, dict) or not isinstance(record.get("frame"), str):
                raise NotLabelsError("it names no frame")
            what = record["frame"]
            place = record.get("mask")
            taker.frame(what, None if place is None else _mask(index.parent, place), said_in(record))
        except SegmentError as error:
            report.skip(what, error)
        yield
    return report


def _mask(folder: Path, name: Any) -> NDArray[np.uint8]:
    if not isinstance(name, str) or not 0 < len(name) <= 512 or not name.isprintable() or "\\" in name:
        raise NotLabelsError("it names its file in no way that can be followed")
    try:
        path = (folder / name).resolve()
        found = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, RuntimeError, ValueError):
        found = False
    if not found:
        raise NotLabelsError(f"{name!r} is no file of its folder")
    try:
        return codec.decode(read_bytes(path, _MAX_PNG))
    except SegmentError:
        raise NotLabelsError(f"{name!r} is no gray PNG file of eight bits, or a damaged one") from None
