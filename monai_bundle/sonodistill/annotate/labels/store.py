"""Labels frame by frame: who says what, in one SQLite file that several threads and processes write."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import ConflictError, InvalidLabelError, UnknownIdError
from sonodistill.annotate.ids import FrameId, check_item_id, check_name
from sonodistill.annotate.labels import checks
from sonodistill.annotate.labels import mask as masks
from sonodistill.annotate.labels.file import LabelFile, insert, png_of, retire, revision_of, select
from sonodistill.annotate.model import MODEL, Label, LabelRow, Status

_RANKED = (Status.ACCEPTED, Status.EDITED, Status.SKIPPED, Status.PROPAGATED, Status.PREDICTED)
_RANK = "CASE status " + " ".join(f"WHEN '{status.value}' THEN {i}" for i, status in enumerate(_RANKED)) + " END"
_BEST_FIRST = f"item, frame, {_RANK}, revision DESC"


class LabelStore:
    """The labels of a folder of work.

    A label belongs to a frame and an annotator; there is one current of each such pair, and what it replaced is kept as
    history. A write is on disk when its method returns. Every method may be called from any thread, and several
    processes may have the file open.

    Args:
        path: of the file, on a local disk; made where it does not exist.
        labels: names of the label numbers 1, 2, ...; those of before, in their order, new ones at the end.
        classes: that a frame may be of.

    Attributes:
        names: of the labels.
        classes: as given.

    Errors: StorageError when the file cannot be used, or was made with other names; also of every method, when the
        disk fails.
    """

    def __init__(self, path: str | Path, labels: Sequence[str], classes: Sequence[str]) -> None:
        self.path, self.names, self.classes = Path(path), tuple(labels), tuple(classes)
        checks.check_names(self.names, "label")
        checks.check_names(self.classes, "class")
        self._file = LabelFile(self.path, self.names, self.classes)

    def close(self) -> None:
        """Close the file when the writes under way are finished."""
        self._file.close()

    def save(
        self,
        frame: FrameId,
        mask: NDArray[Any] | None,
        *,
        status: Status,
        annotator: str,
        shape: tuple[int, int] | None = None,
        classification: str = "",
        model: str = "",
        confidence: float | None = None,
        info: dict[str, object] | None = None,
        expect_revision: int | None = None,
    ) -> LabelRow:
        """Keep what ``annotator`` says of a frame, in place of what they said before.

        Args:
            frame: which.
            mask: (H, W) bool or integers, label numbers, 0 for background; None for a class alone, and when skipped.
            status: ``MODEL`` predicts and propagates; people do all of it.
            annotator: a name, or ``MODEL``.
            shape: (H, W) of the frame, which the mask has to have.
            classification: one of ``classes``, or "".
            model: what the label started from, or "".
            confidence: 0 to 1.
            info: JSON values, 16 KB and 8 levels at most.
            expect_revision: of the latest label of this annotator that the caller has seen, 0 for none.

        Errors: InvalidIdError; InvalidLabelError; ConflictError when the annotator's label is newer than
            ``expect_revision``, when a prediction would replace what its annotator has drawn, accepted or skipped,
            and when ``MODEL`` predicts a frame of which any person has said that.
        """
        frame = checks.checked_frame(frame)
        status = checks.checked_status(status, annotator)
        if (status is Status.SKIPPED) != (mask is None and not classification):
            raise InvalidLabelError(
                "a skipped frame has no mask and no class, and every other label has one of them",
                remedy="send a mask, or skip the frame",
            )
        pixels = None if mask is None else masks.checked(mask, len(self.names), shape)
        row = LabelRow(
            frame,
            annotator,
            status,
            checks.check_class(classification, self.classes),
            model=checks.check_text(model),
            confidence=checks.checked_confidence(confidence),
            shape=None if pixels is None else (pixels.shape[0], pixels.shape[1]),
            pixels=0 if pixels is None else int(np.count_nonzero(pixels)),
            info=json.loads(checks.checked_info(info)),
        )
        png = None if pixels is None else masks.to_png(pixels)
        with self._file.write() as connection:
            rows = self._current(connection, frame)
            checks.check_seen(_of(annotator, rows), expect_revision)
            if status in checks.BY_MODEL:
                checks.check_keeps_people(rows, annotator)
            return _replace(connection, row, png)

    def mark(
        self,
        frame: FrameId,
        status: Status,
        annotator: str,
        *,
        classification: str | None = None,
        shape: tuple[int, int] | None = None,
        expect_revision: int | None = None,
    ) -> LabelRow:
        """What a person says of a frame without new pixels: accept or reopen the label that is there, or skip it.

        Accepted is the annotator's own label, or the best there is where they have none; a copy becomes theirs.

        Args:
            frame: which.
            status: ACCEPTED, EDITED or SKIPPED.
            annotator: a person.
            classification: in place of the one that is there; "" for none.
            shape: (H, W) of the frame, which the mask has to have.
            expect_revision: of the label that the person has seen, so that no newer one is accepted unseen.

        Errors: InvalidIdError, InvalidLabelError; UnknownIdError when there is nothing to accept; ConflictError when
            the label is newer than ``expect_revision``, or of another size than the frame has now.
        """
        frame = checks.checked_frame(frame)
        status = checks.checked_status(status, annotator)
        if status in checks.BY_MODEL or annotator == MODEL:
            raise InvalidLabelError("only people mark frames, as accepted, edited or skipped")
        with self._file.write() as connection:
            rows = self._current(connection, frame)
            own = _of(annotator, rows)
            seen = own if own and own.status is not Status.SKIPPED else next(filter(_says, rows), own)
            checks.check_seen(seen, expect_revision)
            if seen is None or status is Status.SKIPPED:
                row = LabelRow(frame, annotator, status)
            else:
                row = replace(seen, annotator=annotator, status=status)
            if classification is not None:
                row = replace(row, classification=checks.check_class(classification, self.classes))
            if _says(row) == (status is Status.SKIPPED):
                raise UnknownIdError(f"frame {frame} has no label to accept", remedy="draw one, or skip the frame")
            if shape is not None and row.shape not in (None, shape):
                raise ConflictError(f"frame {frame} had another size when it was labelled", remedy="label it anew")
            return _replace(connection, row, png_of(connection, row.revision) if row.shape else None)

    def remove(self, frame: FrameId, annotator: str) -> None:
        """Take a label back, which stays in the history. Errors: InvalidIdError, UnknownIdError."""
        frame = checks.checked_frame(frame)
        check_name(annotator)
        with self._file.write() as connection:
            if _of(annotator, self._current(connection, frame)) is None:
                raise UnknownIdError(f"{annotator} has no label of frame {frame}")
            retire(connection, frame, annotator)

    def get(self, frame: FrameId, annotator: str | None = None) -> Label | None:
        """An annotator's label, or the best: accepted, edited, skipped, propagated, predicted; newest first."""
        frame = checks.checked_frame(frame)
        if annotator is not None:
            check_name(annotator)
        with self._file.read() as connection:
            rows = self._current(connection, frame)
            row = _of(annotator, rows) if annotator else next(iter(rows), None)
            png = png_of(connection, row.revision) if row else None
        if row is None:
            return None
        return Label(row, masks.from_png(png, row.shape) if png and row.shape else None)

    def rows(
        self,
        *,
        item: str | None = None,
        frame: FrameId | None = None,
        status: Status | Iterable[Status] | None = None,
        annotator: str | None = None,
    ) -> list[LabelRow]:
        """The current labels that all of what is given holds for, in the order of the frames, the best first in each.

        Errors: InvalidIdError, InvalidLabelError.
        """
        terms: dict[str, Sequence[Any]] = {"current": ()}
        if item is not None:
            terms["item = ?"] = (check_item_id(item),)
        if frame is not None:
            frame = checks.checked_frame(frame)
            terms["item = ? AND frame = ?"] = (frame.item, frame.index)
        if status is not None:
            wanted = [checks.known_status(one).value for one in ((status,) if isinstance(status, str) else status)]
            terms[f"status IN ({', '.join('?' * len(wanted))})"] = wanted
        if annotator is not None:
            terms["annotator = ?"] = (check_name(annotator),)
        values = [value for given in terms.values() for value in given]
        with self._file.read() as connection:
            return select(connection, f"{' AND '.join(terms)} ORDER BY {_BEST_FIRST}", values)

    def history(self, frame: FrameId) -> list[LabelRow]:
        """Every label that the frame ever had, in the order they were saved."""
        frame = checks.checked_frame(frame)
        with self._file.read() as connection:
            return select(connection, "item = ? AND frame = ? ORDER BY revision", (frame.item, frame.index))

    def status_of(self, item: str) -> dict[int, Status]:
        """The best status of each frame of an item that has a label."""
        query = f"SELECT frame, min({_RANK}) FROM label WHERE current AND item = ? GROUP BY frame"  # noqa: S608
        with self._file.read() as connection:
            return {frame: _RANKED[rank] for frame, rank in connection.execute(query, (check_item_id(item),))}

    def counts(self) -> dict[str, int]:
        """How many frames have each status as their best; every status is there."""
        query = f"SELECT min({_RANK}) FROM label WHERE current GROUP BY item, frame"  # noqa: S608
        found = dict.fromkeys((status.value for status in Status), 0)
        with self._file.read() as connection:
            for (rank,) in connection.execute(query):
                found[_RANKED[rank].value] += 1
        return found

    def revision(self) -> int:
        """A number that grows with each write of any process."""
        with self._file.read() as connection:
            return revision_of(connection)

    def _current(self, connection: sqlite3.Connection, frame: FrameId) -> list[LabelRow]:
        where = f"current AND item = ? AND frame = ? ORDER BY {_BEST_FIRST}"
        return select(connection, where, (frame.item, frame.index))


def _of(annotator: str, rows: Iterable[LabelRow]) -> LabelRow | None:
    return next((row for row in rows if row.annotator == annotator), None)


def _says(row: LabelRow) -> bool:
    return row.shape is not None or row.classification != ""


def _replace(connection: sqlite3.Connection, row: LabelRow, png: bytes | None) -> LabelRow:
    """Write a row in place of the current one; the row as it was written."""
    written = replace(row, revision=retire(connection, row.frame, row.annotator), time=time.time())
    insert(connection, written, png)
    return written
