"""What a file says of a frame, checked and taken over into the store of a cine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange.records import Said, item_of, parse_frame, source_of
from UltrasoundSegmentLib.exchange.report import Report
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MODEL, MaskStore


class Taker:
    """Takes labels over. A label that a person saved here is replaced only when that is asked for.

    Args:
        cine, store: they go into.
        names: of the label numbers 1, 2, ... in the file; those that the store lacks are added to it.
        replace: also where a person's other label is.
        report: filled on the way.
    """

    def __init__(self, cine: Any, store: MaskStore, names: Sequence[str], *, replace: bool, report: Report) -> None:
        self._cine, self._store, self._replace, self._report = cine, store, replace, report
        self._item, self._source = item_of(cine), source_of(cine)
        numbers = []
        for name in names:
            numbers.append(store.labels.index(name) + 1 if name in store.labels else store.add_label(name))
        self._table = np.zeros(256, np.uint8)
        self._table[1 : len(numbers) + 1] = numbers
        self._most = len(numbers)

    def frame(self, frame: str, mask: NDArray[np.uint8] | None, said: Said) -> None:
        """Take over the label of the frame of an id, or note why not."""
        item, index = parse_frame(frame)
        if item != self._item:
            self._report.skip(frame, f"it is of another item than the cine that is open, {self._item}")
            return
        self.index(index, mask, said, frame)

    def index(self, index: int, mask: NDArray[np.uint8] | None, said: Said, what: str) -> None:
        """Take over the label of a frame by its number from 0."""
        try:
            if not 0 <= index < self._cine.count:
                raise SegmentError(f"the cine has {self._cine.count} frames")
            self._take(index, mask, said, what)
        except SegmentError as error:
            self._report.skip(what, error)

    def _take(self, index: int, mask: NDArray[np.uint8] | None, said: Said, what: str) -> None:
        store, status = self._store, said.status or Status.EDITED
        if said.source and self._source and said.source != self._source:
            raise SegmentError("it is of another image, whose file has the same name")
        if status is Status.EMPTY:
            raise SegmentError("nobody looked at it")
        if mask is None and status is not Status.SKIPPED:
            raise SegmentError("it has no mask")
        if mask is not None and mask.size and int(mask.max()) > self._most:
            raise SegmentError(f"its mask holds {int(mask.max())}, which names no label")
        annotator = "" if status.by_model and said.annotator == MODEL else said.annotator
        here, before = store.mask(index), store.info(index)
        new = here if mask is None else self._table[mask]
        same = (before["status"], before["annotator"]) == (status, annotator) and np.array_equal(here, new)
        if same:
            self._report.unchanged.append(what)
            return
        if before["status"].by_person and not self._replace:
            raise SegmentError("a person's other label is there: import it with “replace” to have this one")
        written = store.write(
            index,
            new,
            status,
            annotator=annotator,
            confidence=said.confidence,
            model=said.model,
            when=said.time,
            replace=self._replace,
        )
        if not written:
            raise SegmentError("a person's label is there")
        self._report.written.append(what)
