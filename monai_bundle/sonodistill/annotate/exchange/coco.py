"""Labels as one COCO file of polygons and run lengths, exact either way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill import __version__
from sonodistill.annotate.errors import AnnotationError, InvalidLabelError, TooLargeError
from sonodistill.annotate.exchange import rle
from sonodistill.annotate.exchange.choose import Export
from sonodistill.annotate.exchange.pixels import save_png
from sonodistill.annotate.exchange.records import (
    FORMAT,
    Said,
    check_head,
    entries,
    head,
    names_in,
    read_json,
    record_of,
    said_in,
    to_json,
)
from sonodistill.annotate.exchange.report import Skipped
from sonodistill.annotate.exchange.taken import Entry
from sonodistill.annotate.model import Label
from sonodistill.files import write_text
from sonodistill.frames import Frame
from sonodistill.frames.bounds import MAX_PIXELS, MAX_SIDE

FORM = "coco"
FILE = "annotations.json"
OURS = "sonodistill"
"""Key of what COCO has no place for, in ``info`` and in each image."""

_MAX_REGIONS = 256
"""Of a label in a frame: more are speckle, and written as one annotation."""
_MAX_IN_FRAME = 1 << 12


def write(export: Export) -> None:
    """``annotations.json``; with the images ``images/<frame>.png``, gray, which it names in any case.

    An annotation is a region that hangs together, of one label (category_id is the label's number), as a polygon along
    the edges of its pixels, or as run lengths where it has holes. Both give its exact pixels when they are decoded by
    pycocotools. A labelled frame without annotations is an image without annotations.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []

    def take(frame: Frame, label: Label) -> None:
        name = f"images/{label.row.frame}.png"
        if export.images:
            save_png(frame.image, export.out / name)
        height, width = frame.image.shape
        number = len(images) + 1
        record = {**record_of(item, label.row, frame), "mask": label.mask is not None}
        images.append({"id": number, "file_name": name, "height": height, "width": width, OURS: record})
        for annotation in () if label.mask is None else _annotations(label.mask):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **annotation})

    for item in export.chosen:
        export.labels(item, take)
    names = export.store.names
    said = {
        "info": {
            "description": "labels of ultrasound frames",
            "version": __version__,
            OURS: head(FORM, names, export.store.classes),
        },
        "licenses": [],
        "categories": [{"id": number, "name": name, "supercategory": ""} for number, name in enumerate(names, 1)],
        "images": images,
        "annotations": annotations,
    }
    write_text(export.out / FILE, to_json(said))


def read(path: Path) -> Iterator[Entry | Skipped]:
    """The labels of a COCO file, ours or another's.

    Of others the frame is the one that the name of the image file, without folder and suffix, is the id of, and an
    image without annotations is one that nobody labelled. A frame of which any annotation cannot be used is refused as
    a whole: half a label would be a wrong one.

    Errors: InvalidLabelError, TooLargeError for a file that is none.
    """
    said = read_json(path)
    numbers, names = _categories(said)
    info = said.get("info")
    ours = isinstance(info, dict) and isinstance(info.get(OURS), dict) and info[OURS].get("format") == FORMAT
    if ours:
        check_head(said["info"][OURS], FORM)
    of_image: dict[Any, list[Any]] = {}
    for annotation in entries(said, "annotations"):
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if type(image) not in (int, str):
            yield Skipped(path.name, "an annotation names no image")
            continue
        of_image.setdefault(image, []).append(annotation)
    for number, image in enumerate(entries(said, "images"), start=1):
        what = f"{path.name}, image {number}"
        try:
            if not isinstance(image, dict) or type(image.get("id")) not in (int, str):
                raise InvalidLabelError("it is no image with an id")
            kept = image.get(OURS)
            record = kept if ours and isinstance(kept, dict) else {}
            what = _frame(image, record)
            found = of_image.pop(image["id"], [])
            if not ours and not found:
                raise InvalidLabelError("it has no annotation, and may be one that nobody looked at")
            has_mask = not ours or record.get("mask") is True or bool(found)
            shape = _size(image) if has_mask else None
            mask = partial(_mask, found, shape, numbers) if shape else None
            yield Entry(what, what, mask, names, said_in(record) if ours else Said(), shape=shape)
        except AnnotationError as error:
            yield Skipped(what, error.message)
    for found in of_image.values():
        yield Skipped(path.name, f"{len(found)} annotations are of an image that it does not list, or lists twice")


def _annotations(mask: NDArray[np.uint8]) -> Iterator[dict[str, Any]]:
    """Those of a frame, without their ids."""
    for number in np.unique(mask[mask > 0]).tolist():
        for region in rle.regions(mask == number, _MAX_REGIONS):
            left, top, width, height = region.box
            if region.outline is None:
                whole = np.zeros(mask.shape, np.bool_)
                whole[top : top + height, left : left + width] = region.part
            yield {
                "category_id": number,
                "segmentation": rle.encode(whole) if region.outline is None else [region.outline],
                "area": region.pixels,
                "bbox": [left, top, width, height],
                "iscrowd": 0,
            }


def _categories(said: Mapping[str, Any]) -> tuple[dict[int, int], tuple[str, ...]]:
    """(label number by category id, names of the label numbers)."""
    found = entries(said, "categories")
    if len(found) > 255 or not all(isinstance(each, dict) and type(each.get("id")) is int for each in found):
        raise InvalidLabelError("it has no categories with numbers, or more than 255")
    return {each["id"]: number for number, each in enumerate(found, 1)}, names_in([each.get("name") for each in found])


def _frame(image: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """Id of the frame of an image."""
    if isinstance(record.get("frame"), str):
        return str(record["frame"])
    name = image.get("file_name")
    if not isinstance(name, str) or not 0 < len(name) <= 512:
        raise InvalidLabelError("it names no file")
    name = PurePosixPath(name.replace("\\", "/")).name
    return name.rpartition(".")[0] or name


def _size(image: Mapping[str, Any]) -> tuple[int, int]:
    rows, columns = image.get("height"), image.get("width")
    if type(rows) is not int or type(columns) is not int or rows < 1 or columns < 1:
        raise InvalidLabelError("it has no height and width")
    if max(rows, columns) > MAX_SIDE or rows * columns > MAX_PIXELS:
        raise TooLargeError(f"it is {rows} x {columns}")
    return rows, columns


def _mask(annotations: Sequence[Any], shape: tuple[int, int], numbers: Mapping[int, int]) -> NDArray[np.uint8]:
    """(H, W) uint8 label numbers."""
    if len(annotations) > _MAX_IN_FRAME:
        raise TooLargeError(f"it has {len(annotations)} annotations")
    mask = np.zeros(shape, np.uint8)
    for annotation in annotations:
        category = annotation.get("category_id")
        if type(category) is not int or category not in numbers:
            raise InvalidLabelError("an annotation has a category that is not listed")
        number, region = numbers[category], _region(annotation.get("segmentation"), shape)
        if ((mask != 0) & (mask != number) & region).any():
            raise InvalidLabelError("annotations of several categories overlap, and a mask has one label a pixel")
        mask[region] = number
    return mask


def _region(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    if isinstance(segmentation, dict):
        return rle.decode(segmentation, shape)
    if not isinstance(segmentation, list) or not segmentation:
        raise InvalidLabelError("an annotation has no segmentation, only a box perhaps")
    region = np.zeros(shape, np.bool_)
    for polygon in segmentation:
        region |= rle.fill(polygon, shape)
    return region
