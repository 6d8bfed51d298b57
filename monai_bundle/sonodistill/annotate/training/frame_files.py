"""Frames and masks of a training set as PNG files; what lies there already is not written again."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Catalogue, Item, LabelRow
from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path, write_text

WRITTEN, IMAGES, MASKS = "written.json", "images", "masks"


@dataclass(slots=True)
class Entry:
    """A frame as it lies in the folder; what decides whether it has to be written again.

    Attributes:
        revision: of the label.
        stamp: of the file that the frame comes from.
        masks: paths in the folder.
    """

    revision: int
    stamp: list[int]
    masks: list[str] = field(default_factory=list)


def write_frames(
    catalogue: Catalogue,
    labels: LabelStore,
    folder: Path,
    model: str,
    rows: Iterable[LabelRow],
    items: Mapping[str, Item],
) -> tuple[dict[str, Entry], list[tuple[str, str]], int]:
    """What lies in the folder now by frame, what could not be read, and how many were written."""
    before, entries, skipped = _read_written(folder, _kind(model, labels)), {}, []
    todo: dict[str, dict[int, LabelRow]] = {}
    for row in rows:
        name, stamp = str(row.frame), _stamp(items[row.frame.item])
        entry = before.get(name)
        if entry and entry.revision == row.revision and stamp in ([], entry.stamp) and _complete(folder, name, entry):
            entries[name] = entry
        else:
            todo.setdefault(row.frame.item, {})[row.frame.index] = row
    written = 0
    for id, wanted in todo.items():
        left = dict(wanted)
        reason = "the file has no such frame"
        try:
            for frame in catalogue.read(items[id], only=sorted(wanted)):
                row = left.pop(frame.index)
                try:
                    entries[str(row.frame)] = _write_frame(folder, labels, row, frame.image, model, items[id])
                    written += 1
                except AnnotationError as error:
                    skipped.append((str(row.frame), error.message))
        except (SonoDistillError, OSError) as error:
            reason = error.message if isinstance(error, SonoDistillError) else str(error.strerror)
        skipped += [(str(row.frame), reason) for row in left.values()]
    said = {name: asdict(entry) for name, entry in entries.items()}
    write_text(folder / WRITTEN, json.dumps({"kind": _kind(model, labels), "frames": said}))
    return entries, skipped, written


def _write_frame(
    folder: Path, labels: LabelStore, row: LabelRow, image: NDArray[np.uint8], model: str, item: Item
) -> Entry:
    entry = Entry(row.revision, _stamp(item))
    if model != "classification":
        label = labels.get(row.frame, row.annotator)
        if label is None or label.mask is None or label.row.revision != row.revision:
            raise ConflictError("the label was changed meanwhile; it is trained on next time")
        if label.mask.shape != image.shape:
            raise ConflictError(f"the label is {label.mask.shape}, the frame is {image.shape} now")
        for ending, mask in _masks(label.mask, model, len(labels.names)):
            entry.masks.append(f"{MASKS}/{row.frame}{ending}.png")
            _write_png(folder / entry.masks[-1], mask)
    _write_png(folder / IMAGES / f"{row.frame}.png", image)
    return entry


def _masks(mask: NDArray[np.uint8], model: str, names: int) -> Iterable[tuple[str, NDArray[np.uint8]]]:
    """(end of the name, image) of the files of one label."""
    if model == "interactive":
        for number in np.unique(mask[mask > 0]):
            yield f"-{number}", (mask == number).astype(np.uint8) * np.uint8(255)
    elif names > 1:
        yield "", mask
    else:
        yield "", (mask > 0).astype(np.uint8) * np.uint8(255)


def _write_png(path: Path, image: NDArray[np.uint8]) -> None:
    _, png = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    with atomic_path(path) as temporary:
        temporary.write_bytes(png.tobytes())


def _kind(model: str, labels: LabelStore) -> str:
    """Of the masks in the folder: with another kind every frame is written again."""
    return f"{model} of several labels" if len(labels.names) > 1 else model


def _read_written(folder: Path, kind: str) -> dict[str, Entry]:
    """Nothing where it cannot be read or is of another kind: then every frame is written again."""
    try:
        said = json.loads((folder / WRITTEN).read_text("utf-8"))
        return {name: Entry(**entry) for name, entry in said["frames"].items()} if said["kind"] == kind else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _complete(folder: Path, name: str, entry: Entry) -> bool:
    return all((folder / path).is_file() for path in (f"{IMAGES}/{name}.png", *entry.masks))


def remove_others(folder: Path, kept: Collection[str]) -> None:
    """Remove the images and masks that are not ``kept``."""
    for part in (IMAGES, MASKS):
        for path in (folder / part).glob("*"):
            if f"{part}/{path.name}" not in kept:
                path.unlink(missing_ok=True)


def _stamp(item: Item) -> list[int]:
    """Size and time of the file; empty where there is none here, as of an instance in a PACS, which never changes."""
    try:
        found = item.path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
