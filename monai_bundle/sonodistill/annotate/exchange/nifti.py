"""Labels as NIfTI: a volume for each item, and beside it a JSON file that says which of its frames are labelled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import AnnotationError, InvalidLabelError
from sonodistill.annotate.exchange.choose import Export
from sonodistill.annotate.exchange.nifti_file import MAX_SLICES, Geometry, LabelVolume, write_labels
from sonodistill.annotate.exchange.records import (
    FORMAT,
    Said,
    check_head,
    entries,
    head,
    read_json,
    record_of,
    said_in,
    to_json,
)
from sonodistill.annotate.exchange.report import Skipped
from sonodistill.annotate.exchange.taken import Entry
from sonodistill.annotate.ids import FrameId, check_item_id
from sonodistill.annotate.labels.mask import from_png, to_png
from sonodistill.annotate.model import Item, Label, Status
from sonodistill.files import write_text
from sonodistill.frames import Frame

FORM = "nifti"
SUFFIXES = (".nii.gz", ".nii")


def write(export: Export) -> None:
    """``<item>.nii.gz``, uint8 label numbers with the axes (x, y, frame), as many frames as the item has, and
    ``<item>.json``, whose ``frames`` are those that are labelled: the others are empty because nobody looked at them.

    Pixels have a size in the header only where the item is calibrated, else the unit is unknown; frames of a cine are
    1 apart, whatever the unit. A volume has the geometry of its source, and lies on it. Pages of a TIFF file that are
    of another size than its first labelled one are left out.
    """
    for item in export.chosen:
        _write_item(export, item)


def _write_item(export: Export, item: Item) -> None:
    records: list[dict[str, Any]] = []
    masks: dict[int, bytes] = {}  # as PNG, of which a long cine fits into memory
    first: list[Frame] = []

    def take(frame: Frame, label: Label) -> None:
        if item.frames > MAX_SLICES:
            raise AnnotationError(f"the item has {item.frames} frames, and NIfTI ends at {MAX_SLICES}")
        if first and frame.image.shape != first[0].image.shape:
            raise AnnotationError("it has another size than the first labelled frame, so that both fit in no volume")
        if not first:
            first.append(frame)
        records.append({**record_of(item, label.row, frame), "mask": label.mask is not None})
        if label.mask is not None:
            masks[frame.index] = to_png(label.mask)

    export.labels(item, take)
    if not records:
        return
    rows, columns = first[0].image.shape
    said = {**head(FORM, export.store.names, export.store.classes), "item": item.id, "name": item.name}
    said |= {"shape": [item.frames, rows, columns], "file": f"{item.id}.nii.gz" if masks else None, "frames": records}
    if masks:
        empty = np.zeros((rows, columns), np.uint8)
        slices = (from_png(masks[index], (rows, columns)) if index in masks else empty for index in range(item.frames))
        at = _geometry(export, item, first[0])
        write_labels(export.out / f"{item.id}.nii.gz", slices, (item.frames, rows, columns), at)
    write_text(export.out / f"{item.id}.json", to_json(said))


def read(path: Path) -> Iterator[Entry | Skipped]:
    """The labels of a volume, or of a sidecar that has none.

    With a sidecar of ours these are the frames that it lists, also where they are empty, and others that are not:
    somebody painted them since. Without one they are the frames that are not empty, label numbers are those of the
    store, and the name of the file is the id of the item.

    Errors: InvalidLabelError, TooLargeError, InvalidIdError.
    """
    stem = stem_of(path)
    sidecar = path.with_name(f"{stem}.json")
    said = read_json(sidecar) if sidecar.is_file() else None
    if said and said.get("format") != FORMAT:
        said = None
    names = check_head(said, FORM) if said else None
    item = check_item_id(said.get("item") if said else stem)  # type: ignore[arg-type]
    listed: dict[int, Any] = {}
    for record in entries(said, "frames") if said else ():
        index = record.get("index") if isinstance(record, dict) else None
        if type(index) is not int or index in listed:
            yield Skipped(item, f"its sidecar lists a frame {str(index)[:20]!r}")
        else:
            listed[index] = record
    if path.suffix != ".json":
        volume = LabelVolume(path)
        for index, mask in enumerate(volume):
            record = listed.pop(index, None)
            if record is not None or mask is None or mask.any():
                yield _entry(item, index, mask, names, record, volume.shape[0])
    for index, record in listed.items():
        yield _entry(item, index, None, names, record, None)


def stem_of(path: Path) -> str:
    """Name of a volume without its suffix."""
    return next((path.name[: -len(end)] for end in SUFFIXES if path.name.endswith(end)), path.stem)


def _entry(
    item: str,
    index: int,
    mask: NDArray[np.uint8] | None,
    names: tuple[str, ...] | None,
    record: dict[str, Any] | None,
    frames: int | None,
) -> Entry | Skipped:
    what = str(FrameId(item, index))
    try:
        painted = mask is not None and bool(mask.any())
        has_mask = record is None or record.get("mask") is True or painted
        if has_mask and mask is None:
            raise InvalidLabelError("it holds no label numbers" if frames else "there is no volume of its mask")
        said = Said() if record is None else said_in(record)
        if painted and said.status is Status.SKIPPED:
            said = replace(said, status=None)
        return Entry(what, what, mask if has_mask else None, names, said, frames=frames)
    except AnnotationError as error:
        return Skipped(what, error.message)


def _geometry(export: Export, item: Item, frame: Frame) -> Geometry:
    known = frame.mm_per_pixel is not None
    row, column = frame.mm_per_pixel or (1.0, 1.0)
    if item.kind != "volume":
        return Geometry((column, row, 1.0), millimetres=known)
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(export.catalogue.file(item)))
    reader.ReadImageInformation()
    if reader.GetDimension() != 3:
        return Geometry((column, row, 1.0), millimetres=known)
    direction = np.array(reader.GetDirection()).reshape(3, 3).tolist()
    return Geometry(reader.GetSpacing(), reader.GetOrigin(), tuple(map(tuple, direction)), known)
