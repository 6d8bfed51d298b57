"""What people accepted, as a folder of labelled frames that the bundle's configs train on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import FINAL, Catalogue, Item, LabelRow
from sonodistill.annotate.training.frame_files import IMAGES, Entry, remove_others, write_frames
from sonodistill.annotate.training.held_out import TRAIN, VALIDATION, opaque, split
from sonodistill.files import write_text

INDEX, SPLITS = "index.csv", "splits.json"
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
    entries, more, written = write_frames(catalogue, labels, folder, model, rows, items)
    rows = [row for row in rows if str(row.frame) in entries]
    _require_enough(rows, model, [*skipped, *more])
    groups = {id: item.group or f"item {id}" for id, item in items.items()}
    frames = {str(row.frame): groups[row.frame.item] for row in rows}
    splits, by_frames, dealt = split(folder.parent / SPLITS, frames, seed)
    table = list(_table(rows, entries, groups, splits, model))
    text = io.StringIO()
    csv.writer(text).writerows([_COLUMNS, *table])
    write_text(folder / INDEX, text.getvalue())
    remove_others(folder, {path for line in table for path in line[:2] if path})
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


def _table(
    rows: Iterable[LabelRow],
    entries: Mapping[str, Entry],
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
