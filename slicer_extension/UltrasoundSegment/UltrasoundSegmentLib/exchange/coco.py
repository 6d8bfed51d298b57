"""Labels as one COCO file, in the layout of ``sonodistill label export --form coco``; every mask is exact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import png as codec
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange import rle
from UltrasoundSegmentLib.exchange.errors import NotLabelsError
from UltrasoundSegmentLib.exchange.files import write_bytes
from UltrasoundSegmentLib.exchange.records import (
    FORMAT,
    Said,
    check_head,
    entries,
    frame_id,
    head,
    names_in,
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

FORM = "coco"
FILE = "annotations.json"
OURS = "sonodistill"
"""Key of what COCO has no place for, in ``info`` and in each image."""

_MAX_PIXELS = 1 << 26
_MAX_IN_FRAME = 1 << 12


def write(
    cine: Any, store: MaskStore, indices: Sequence[int], out: Path, report: Report, *, images: bool
) -> Steps[None]:
    """``annotations.json`` (or the file ``out``); with the images ``images/<frame>.png``, which it names in any case.

    An annotation is all of one label in a frame, as run lengths; category_id is the label's number. A labelled frame
    without annotations is an image without annotations.
    """
    path = out if out.suffix.lower() == ".json" else out / FILE
    shown: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, index in enumerate(indices, 1):
        frame = frame_id(cine, index)
        record = record_of(cine, store, index)
        has_mask = store.status(index) is not Status.SKIPPED
        name = f"images/{frame}.png"
        if images:
            write_bytes(path.parent / name, codec.encode(cine.frame(index).image))
            report.files.append(str(path.parent / name))
        size = {"height": record["rows"], "width": record["columns"]}
        shown.append({"id": number, "file_name": name, **size, OURS: {**record, "mask": has_mask}})
        for annotation in _annotations(store.mask(index)) if has_mask else ():
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})
        report.written.append(frame)
        yield
    said = {
        "info": {"description": "labels of ultrasound frames", OURS: head(FORM, store.labels)},
        "licenses": [],
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(store.labels, 1)
        ],
        "images": shown,
        "annotations": annotations,
    }
    write_bytes(path, to_json(said))
    report.files.append(str(path))


def import_coco(path: str | Path, cine: Any, store: MaskStore, *, replace: bool = False) -> Report:
    """``import_coco_steps`` all at once."""
    return finish(import_coco_steps(path, cine, store, replace=replace))


def import_coco_steps(path: str | Path, cine: Any, store: MaskStore, *, replace: bool = False) -> Steps[Report]:
    """Take over the labels of a COCO file, ours or another's.

    Of others the frame is the one that the name of the image file, without folder and suffix, is the id of, and an
    image without annotations is one that nobody labelled. A frame of which any annotation cannot be used is refused as
    a whole: half a label would be a wrong one.

    Args:
        path: the file, or a folder with ``annotations.json``.
        cine, store: they go into; labels of other items are in the report.
        replace: a person's label that is here already, too.

    Errors: NotLabelsError, ExchangeError for a file that is none.
    """
    path = Path(path) / FILE if Path(path).is_dir() else Path(path)
    said = read_json(path)
    numbers, names = _categories(said)
    info = said.get("info")
    kept = _object(_object(info).get(OURS))
    ours = kept.get("format") == FORMAT
    if ours:
        check_head(kept, FORM)
    of_image: dict[Any, list[Any]] = {}
    report = Report()
    for annotation in entries(said, "annotations"):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if type(image) in (int, str):
            of_image.setdefault(image, []).append(annotation)
        else:
            report.skip(path.name, "an annotation names no image")
    images = entries(said, "images")
    taker = Taker(cine, store, names, replace=replace, report=report)
    for number, image in enumerate(images, 1):
        what = f"{path.name}, image {number}"
        try:
            if not isinstance(image, dict) or type(image.get("id")) not in (int, str):
                raise NotLabelsError("it is no image with an id")
            record = _object(image.get(OURS)) if ours else {}
            what = _frame(image, record)
            found = of_image.pop(image["id"], [])
            if not ours and not found:
                raise NotLabelsError("it has no annotation, and may be one that nobody looked at")
            has_mask = not ours or record.get("mask") is True or bool(found)
            mask = _mask(found, _size(image), numbers) if has_mask else None
            taker.frame(what, mask, said_in(record) if ours else Said())
        except SegmentError as error:
            report.skip(what, error)
        yield
    for found in of_image.values():
        report.skip(path.name, f"{len(found)} annotations are of an image that it does not list, or lists twice")
    return report


def _object(found: Any) -> dict[str, Any]:
    """A JSON object; an empty one in the place of anything else."""
    return found if isinstance(found, dict) else {}


def _annotations(mask: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Those of a frame, without their ids."""
    found = []
    for number in np.unique(mask[mask > 0]).tolist():
        region = mask == number
        y, x = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        box = [int(x[0]), int(y[0]), int(x[-1] - x[0]) + 1, int(y[-1] - y[0]) + 1]
        area = int(region.sum())
        found.append(
            {"category_id": number, "segmentation": rle.encode(region), "area": area, "bbox": box, "iscrowd": 0}
        )
    return found


def _categories(said: Mapping[str, Any]) -> tuple[dict[int, int], tuple[str, ...]]:
    """(label number by category id, names of the label numbers)."""
    found = entries(said, "categories")
    if not all(isinstance(each, dict) and type(each.get("id")) is int for each in found):
        raise NotLabelsError("It has no categories with numbers.")
    return {each["id"]: number for number, each in enumerate(found, 1)}, names_in([each.get("name") for each in found])


def _frame(image: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Id of the frame of an image."""
    if isinstance(record.get("frame"), str):
        return str(record["frame"])
    name = image.get("file_name")
    if not isinstance(name, str) or not 0 < len(name) <= 512:
        raise NotLabelsError("it names no file")
    name = PurePosixPath(name.replace("\\", "/")).name
    return name.rpartition(".")[0] or name


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    rows, columns = image.get("height"), image.get("width")
    if type(rows) is not int or type(columns) is not int or rows < 1 or columns < 1 or rows * columns > _MAX_PIXELS:
        raise NotLabelsError("it has no height and width, or greater ones than are read")
    return rows, columns


def _mask(annotations: Sequence[Any], shape: tuple[int, int], numbers: Mapping[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 label numbers."""
    if len(annotations) > _MAX_IN_FRAME:
        raise NotLabelsError(f"it has {len(annotations)} annotations, more than are read")
    mask = np.zeros(shape, np.uint8)
    for annotation in annotations:
        category = annotation.get("category_id")
        if type(category) is not int or category not in numbers:
            raise NotLabelsError("an annotation has a category that is not listed")
        number, region = numbers[category], _region(annotation.get("segmentation"), shape)
        if ((mask != 0) & (mask != number) & region).any():
            raise NotLabelsError("annotations of several categories overlap, and a mask has one label a pixel")
        mask[region] = number
    return mask


def _region(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if isinstance(segmentation, dict):
        return rle.decode(segmentation, shape)
    if not isinstance(segmentation, list) or not segmentation:
        raise NotLabelsError("an annotation has no segmentation, only a box perhaps")
    region = np.zeros(shape, np.bool_)
    for polygon in segmentation:
        region |= rle.fill(polygon, shape)
    return region
