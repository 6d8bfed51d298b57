"""What people accepted, as a folder of labelled frames that the bundle's configs train on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.held_out import TRAIN, VALIDATION, opaque, split
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels import LabelStore
from sonodistill.annotate.model import FINAL, Catalogue, Item, LabelRow
from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path, write_text

logger = logging.getLogger(__name__)

INDEX, WRITTEN, SPLITS = "index.csv", "written.json", "splits.json"
IMAGES, MASKS = "images", "masks"
_COLUMNS = ("file", "mask", "label", "group", "split")


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A folder that was written.

    Attributes:
        folder: has index.csv (file, mask, label, group, split), images and masks.
        digest: changes with any frame, label or split in it.
        revision: of the newest label in it.
        train, validation: frames of each.
        groups: groups of each, {"train": 3, "validation": 1}.
        by_frames: the two divide the frames of the same groups, since there is one group only.
        classes: that occur, sorted.
        written: frames that were new or changed.
        skipped: (frame, reason) of those that could not be read.
        warnings: for people.
    """

    folder: Path
    digest: str
    revision: int
    train: int
    validation: int
    groups: dict[str, int]
    by_frames: bool
    classes: tuple[str, ...]
    written: int
    skipped: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """JSON values, of which ten skipped frames at most."""
        said = asdict(self)
        said["skipped"] = [list(one) for one in self.skipped[:10]]
        return {name: value for name, value in said.items() if name != "folder"}


@dataclass(slots=True)
class _Entry:
    """A frame as it lies in the folder; what decides whether it has to be written again."""

    revision: int
    stamp: list[int]
    masks: list[str] = field(default_factory=list)


def training_set(
    catalogue: Catalogue,
    labels: LabelStore,
    folder: str | Path,
    model: str,
    *,
    annotator: str | None = None,
    seed: int = 0,
) -> TrainingSet:
    """Write the accepted frames as a folder for ``corpus.labelled``; only what is new or changed is written again.

    Of several annotators' accepted labels of a frame the newest is taken. Segmentation: masks of 0 and 255, or of label
    numbers where there are several labels. Interactive: a row for each label in a frame, whose mask is its own; frames
    without any are left out. Classification: the class. Whole groups (patients, studies) are held out; a group stays
    where it was dealt.

    Args:
        model: "segmentation", "classification" or "interactive".
        annotator: take this one's labels alone.
        seed: of the dealing.

    Errors: ConflictError when fewer than two frames, or classes of a classification, were accepted.
    """
    folder = Path(folder)
    rows = _chosen(labels, model, annotator)
    items, skipped = _items(catalogue, rows)
    rows = [row for row in rows if row.frame.item in items]
    entries, more, written = _write_frames(catalogue, labels, folder, model, rows, items)
    rows = [row for row in rows if str(row.frame) in entries]
    _require_enough(rows, model, [*skipped, *more])
    groups = {id: item.group or f"item {id}" for id, item in items.items()}
    frames = {str(row.frame): groups[row.frame.item] for row in rows}
    splits, by_frames, dealt = split(folder.parent / SPLITS, frames, seed)
    table = list(_table(rows, entries, groups, splits, model))
    text = io.StringIO()
    csv.writer(text).writerows([_COLUMNS, *table])
    write_text(folder / INDEX, text.getvalue())
    _remove_others(folder, {path for line in table for path in line[:2] if path})
    classes = sorted({row.classification for row in rows} - {""}) if model == "classification" else []
    state = json.dumps([text.getvalue(), [[str(row.frame), row.revision] for row in rows]])
    return TrainingSet(
        folder=folder,
        digest=hashlib.sha256(state.encode()).hexdigest(),
        revision=max(row.revision for row in rows),
        train=sum(splits[str(row.frame)] == TRAIN for row in rows),
        validation=sum(splits[str(row.frame)] == VALIDATION for row in rows),
        groups=dealt,
        by_frames=by_frames,
        classes=tuple(classes),
        written=written,
        skipped=(*skipped, *more),
        warnings=tuple(_warnings(by_frames, [*skipped, *more])),
    )


def _chosen(labels: LabelStore, model: str, annotator: str | None) -> list[LabelRow]:
    """The newest accepted label of each frame that says what the model learns, in the order of the frames."""
    newest: dict[FrameId, LabelRow] = {}
    for row in labels.rows(status=FINAL, annotator=annotator):
        says = row.classification if model == "classification" else row.shape
        if not says or (model == "interactive" and not row.pixels):
            continue
        if row.frame not in newest or row.revision > newest[row.frame].revision:
            newest[row.frame] = row
    return [newest[frame] for frame in sorted(newest)]


def _items(catalogue: Catalogue, rows: Iterable[LabelRow]) -> tuple[dict[str, Item], list[tuple[str, str]]]:
    found, skipped = {}, []
    for id in dict.fromkeys(row.frame.item for row in rows):
        try:
            found[id] = catalogue.item(id)
        except AnnotationError as error:
            skipped.append((id, error.message))
    return found, skipped


def _write_frames(
    catalogue: Catalogue,
    labels: LabelStore,
    folder: Path,
    model: str,
    rows: Iterable[LabelRow],
    items: Mapping[str, Item],
) -> tuple[dict[str, _Entry], list[tuple[str, str]], int]:
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
) -> _Entry:
    entry = _Entry(row.revision, _stamp(item))
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


def _table(
    rows: Iterable[LabelRow],
    entries: Mapping[str, _Entry],
    groups: Mapping[str, str],
    splits: Mapping[str, str],
    model: str,
) -> Iterable[tuple[str, str, str, str, str]]:
    for row in rows:
        name = str(row.frame)
        label = row.classification if model == "classification" else ""
        for mask in entries[name].masks or [""]:
            yield f"{IMAGES}/{name}.png", mask, label, opaque(groups[row.frame.item]), splits[name]


def _require_enough(rows: Collection[LabelRow], model: str, skipped: Collection[tuple[str, str]]) -> None:
    classes = {row.classification for row in rows}
    if len(rows) < 2 or (model == "classification" and len(classes) < 2):
        found = f"{len(rows)} accepted frames" + (f" of {len(classes)} classes" if model == "classification" else "")
        left = f"; {len(skipped)} could not be read: {next(iter(skipped))[1]}" if skipped else ""
        raise ConflictError(
            f"{found} to train {model} on, and two are needed{left}", remedy="accept labels of more frames"
        )


def _warnings(by_frames: bool, skipped: Collection[tuple[str, str]]) -> Iterable[str]:
    if by_frames:
        yield "all frames are of one group: validated on other frames of the same patient or study"
    if skipped:
        yield f"{len(skipped)} frames could not be read"


def _kind(model: str, labels: LabelStore) -> str:
    """Of the masks in the folder: with another kind every frame is written again."""
    return f"{model} of several labels" if len(labels.names) > 1 else model


def _read_written(folder: Path, kind: str) -> dict[str, _Entry]:
    """Nothing where it cannot be read or is of another kind: then every frame is written again."""
    try:
        said = json.loads((folder / WRITTEN).read_text("utf-8"))
        return {name: _Entry(**entry) for name, entry in said["frames"].items()} if said["kind"] == kind else {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _complete(folder: Path, name: str, entry: _Entry) -> bool:
    return all((folder / path).is_file() for path in (f"{IMAGES}/{name}.png", *entry.masks))


def _remove_others(folder: Path, kept: Collection[str]) -> None:
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
