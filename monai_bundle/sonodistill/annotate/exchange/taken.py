"""What a file says of a frame, checked against the frame and taken over into the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import AnnotationError, ConflictError, InvalidLabelError
from sonodistill.annotate.exchange.records import Said
from sonodistill.annotate.exchange.report import Report
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import MODEL, Catalogue, Item, Label, Status
from sonodistill.errors import SonoDistillError

_BY_MODEL = (Status.PREDICTED, Status.PROPAGATED)
_MAX_INFO = 15 << 10


@dataclass(frozen=True, slots=True)
class Entry:
    """A label of a file.

    Attributes:
        what: how it is called where it is refused.
        frame: id of the frame; id of the item for its only frame.
        mask: (H, W) uint8 of the file's label numbers, what makes it when it is called, or None.
        names: of the label numbers 1, 2, ... in the file; None where they are the store's.
        said: the rest.
        shape: (H, W) of a mask that is not made yet.
        frames: how many frames the file has, which its item has to have; None where it does not say.
    """

    what: str
    frame: str
    mask: NDArray[np.uint8] | Callable[[], NDArray[np.uint8]] | None
    names: tuple[str, ...] | None
    said: Said
    shape: tuple[int, int] | None = None
    frames: int | None = None


class Taker:
    """Takes labels over into a store.

    Args:
        catalogue: of the frames.
        store: they go into.
        annotator: whose they become; None for whose the file says they are. Labels that a model made and nobody touched
            stay the model's.
        status: that they get; None for what the file says, and EDITED where it says nothing. A skipped frame stays so.
        replace: whether a label of that annotator that is newer than the export, or that has no time to tell, is
            replaced. The older one stays in the history.
        source: form of the file, kept with each label.
        report: filled on the way.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        store: LabelStore,
        report: Report,
        *,
        annotator: str | None,
        status: Status | None,
        replace: bool,
        source: str,
    ) -> None:
        self._catalogue, self._store, self._report = catalogue, store, report
        self._annotator, self._status, self._replace, self._source = annotator, status, replace, source
        self._shapes: dict[tuple[str, int], tuple[int, int]] = {}

    def take(self, entry: Entry) -> None:
        """Save a label, or note why not."""
        try:
            item, index = place(self._catalogue, entry.frame)
            frame = FrameId(item.id, index)
            saved = self._save(frame, item, entry)
        except AnnotationError as error:
            self._report.skip(entry.what, error.message)
        except SonoDistillError as error:
            self._report.skip(entry.what, f"its frame cannot be read: {error.message}")
        else:
            (self._report.written if saved else self._report.unchanged).append(str(frame))

    def _save(self, frame: FrameId, item: Item, entry: Entry) -> bool:
        said = entry.said
        if entry.frames not in (None, item.frames):
            raise InvalidLabelError(f"the file has {entry.frames} frames, the item {item.frames}")
        mask = self._mask(frame, item, entry)
        if mask is None and not said.classification and said.status is not Status.SKIPPED:
            raise InvalidLabelError("it has neither a mask nor a class, and was not skipped")
        status = said.status if said.status is Status.SKIPPED else self._status or said.status or Status.EDITED
        who = self._who(said, status)
        before = self._store.get(frame, who)
        if before is not None and _same(before, mask, status, said.classification):
            return False
        if before is not None and not self._replace and before.row.time > said.time:
            raise ConflictError(f"{who} has a newer label of it here, which is replaced only if that is asked for")
        self._store.save(
            frame,
            mask,
            status=status,
            annotator=who,
            shape=None if mask is None else (mask.shape[0], mask.shape[1]),
            classification=said.classification,
            model=said.model,
            confidence=said.confidence,
            info=self._info(said),
            expect_revision=before.row.revision if before else 0,
        )
        return True

    def _mask(self, frame: FrameId, item: Item, entry: Entry) -> NDArray[np.uint8] | None:
        """Of the label numbers of the store."""
        if entry.mask is None:
            return None
        shape = self._shape(item, frame.index)
        # Nothing of another size is decoded.
        mask = entry.mask() if callable(entry.mask) and entry.shape == shape else entry.mask
        found = entry.shape if callable(mask) else mask.shape
        if callable(mask) or found != shape:
            raise InvalidLabelError(f"its mask is {found}, the frame {shape} (height, width)")
        return renumbered(mask, self._store.names if entry.names is None else entry.names, self._store.names)

    def _who(self, said: Said, status: Status) -> str:
        if status in _BY_MODEL and said.annotator in ("", MODEL):
            return MODEL
        who = self._annotator or said.annotator
        if not who or who == MODEL:
            raise InvalidLabelError("nobody is named who says so", remedy="name an annotator")
        return who

    def _info(self, said: Said) -> dict[str, object]:
        told: dict[str, Any] = {"from": self._source}
        if said.annotator:
            told["annotator"] = said.annotator
        if said.time:
            told["time"] = said.time
        info = {**said.info, "imported": told}
        return info if len(json.dumps(info)) <= _MAX_INFO else said.info

    def _shape(self, item: Item, index: int) -> tuple[int, int]:
        """(H, W) of a frame; all frames of an item have the same but those of an image file, its pages."""
        key = item.id, index if item.kind == "image" else -1
        if key not in self._shapes:
            rows, columns = self._catalogue.frame(FrameId(item.id, index)).image.shape
            self._shapes[key] = rows, columns
        return self._shapes[key]


def place(catalogue: Catalogue, text: str) -> tuple[Item, int]:
    """The item and the index of a frame, by the id of the frame, or of an item that has one.

    Errors: InvalidIdError, UnknownIdError; InvalidLabelError for an item of several frames.
    """
    item, index = catalogue.locate(text)
    if index is None and item.is_cine:
        raise InvalidLabelError("it does not say which frame of the item it is of")
    return item, index or 0


def renumbered(mask: NDArray[np.uint8], names: Sequence[str], here: Sequence[str]) -> NDArray[np.uint8]:
    """A mask with the label numbers of ``here`` in place of those of ``names``.

    Errors: InvalidLabelError for a number without a name, or a name that is not one of ``here``.
    """
    table = np.zeros(256, np.uint8)
    for number in np.unique(mask[mask > 0]).tolist():
        if number > len(names):
            raise InvalidLabelError(f"its mask holds {number}, which names no label")
        table[number] = _number(names[number - 1], here)
    return table[mask]


def _number(name: str, here: Sequence[str]) -> int:
    """The number of a label; a name in capitals is the same where there is no other."""
    alike = [each for each in here if each == name] or [each for each in here if each.casefold() == name.casefold()]
    if len(alike) != 1:
        raise InvalidLabelError(f"there is no label {name[:60]!r} here, only {', '.join(here)}")
    return here.index(alike[0]) + 1


def _same(label: Label, mask: NDArray[np.uint8] | None, status: Status, classification: str) -> bool:
    if (label.row.status, label.row.classification) != (status, classification):
        return False
    if label.mask is None or mask is None:
        return label.mask is mask
    return np.array_equal(label.mask, mask)
