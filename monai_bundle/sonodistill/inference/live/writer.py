"""Masks and index.csv of a live session, written behind the inference's back."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from threading import Condition, Thread
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from sonodistill.frames import Frame
from sonodistill.inference.files import INDEX, MASK, OutputError, mask_endings
from sonodistill.transforms.masks import mask_path, write_mask

COLUMNS = ("file", "source", "frame", "time_ms", "latency_ms", "area_pixels", "area_mm2", "label")
MAX_MASKS = 32
MAX_ROWS = 10_000


class Writer:
    """Writes each result's masks, then its rows, one a label, in a thread of its own.

    A row is flushed when it is written, and its mask is whole by then: a process that is killed leaves every row with
    its mask. When the disk is slower than the model, a result beyond ``MAX_MASKS`` that wait keeps its rows, with no
    file in them, and loses its masks; beyond ``MAX_ROWS`` it loses both. Both are counted, in results.

    Args:
        out: folder, made with the first result; it must not hold an earlier session's index.
        source: address of the source, as it is written into each row.
        name: what the mask files are called after.
        labels: of the masks' channels.

    Errors: OutputError when the folder holds an index.csv, and from ``put`` and on leaving when the thread has failed.
    """

    def __init__(self, out: Path, source: str, name: str, labels: Sequence[str]) -> None:
        if (out / INDEX).exists():
            raise OutputError(
                "the folder holds an earlier session, which cannot be recorded a second time",
                path=out,
                remedy="name another folder with --out",
            )
        self.out, self._source, self._name = out, source, name
        self._labels, self._ends = labels, mask_endings(labels)
        self.masks_not_written = self.rows_not_written = 0
        self._waiting: deque[tuple[list[list[object]], int, NDArray[np.bool_] | None]] = deque()
        self._masks = 0
        self._changed = Condition()
        self._closed = False
        self._error: Exception | None = None
        self._thread = Thread(target=self._run, name="live-writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        if kind is None:
            self._raise()

    def put(self, frame: Frame, masks: NDArray[np.bool_], latency_ms: float) -> None:
        """Hand over a frame's masks (labels, H, W); never waits."""
        self._raise()
        spacing = frame.mm_per_pixel
        rows: list[list[object]] = []
        for mask, label in zip(masks, self._labels, strict=True):
            pixels = int(np.count_nonzero(mask))
            area = "" if spacing is None else round(pixels * spacing[0] * spacing[1], 3)
            rows.append([self._source, frame.index, frame.time_ms, round(latency_ms, 3), pixels, area, label])
        with self._changed:
            if len(self._waiting) >= MAX_ROWS:
                self.masks_not_written += 1
                self.rows_not_written += 1
                return
            kept = self._masks < MAX_MASKS
            self._masks += kept
            self.masks_not_written += not kept
            self._waiting.append((rows, frame.index, masks if kept else None))
            self._changed.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise OutputError.of(self._error, self.out) from self._error

    def _run(self) -> None:
        try:
            self._write()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that predicts
            self._error = error

    def _write(self) -> None:
        if not self._wait():
            return
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / INDEX).open("x", newline="", encoding="utf-8", errors="surrogateescape") as table:
            lines = csv.writer(table)
            lines.writerow(COLUMNS)
            while self._wait():
                with self._changed:
                    rows, number, masks = self._waiting.popleft()
                    self._masks -= masks is not None
                plain = mask_path(self.out, self._name, number, Path())
                for channel, (row, end) in enumerate(zip(rows, self._ends, strict=True)):
                    path = plain.with_name(plain.name.removesuffix(MASK) + end)
                    if masks is not None:
                        write_mask(path, masks[channel].astype(np.uint8))
                    lines.writerow(["" if masks is None else path.relative_to(self.out), *row])
                table.flush()

    def _wait(self) -> bool:
        """Wait for a result; False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return bool(self._waiting)
