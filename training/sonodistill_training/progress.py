"""What a long training shows and obeys: a progress bar, its speed, a log that survives a kill, and Ctrl-C."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from sonodistill.files import atomic_path


class Bar:
    """The progress bar with the last logged figures beside it."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self) -> None:
        """One step more."""
        self._progress.advance(self._task)

    def show(self, row: Mapping[str, Any]) -> None:
        """Loss, speed and data wait of a row of the log."""
        status = f"loss {row['loss']:.4f}  {row['images_per_second']:.1f} images/s  data wait {row['data_wait']:.0%}"
        self._progress.update(self._task, status=status)


class Clock:
    """Images a second, and the share of the time spent waiting for data, since the last report."""

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._began, self._waited, self._images = time.perf_counter(), 0.0, 0

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, with the time it takes to get each counted as waiting."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._waited += time.perf_counter() - before
            yield batch

    def count(self, images: int) -> None:
        """So many images more."""
        self._images += images

    def report(self) -> dict[str, float]:
        """``images_per_second`` and ``data_wait`` (a share of 1); starts counting anew."""
        elapsed = max(time.perf_counter() - self._began, 1e-9)
        figures = {
            "images_per_second": round(self._images / elapsed, 2),
            "data_wait": round(self._waited / elapsed, 4),
        }
        self._restart()
        return figures


@contextmanager
def progress_bar(total: int, start: int, visible: bool) -> Iterator[Bar]:
    """A bar over training steps, on a terminal."""
    columns = (
        TextColumn("[bold]training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not visible) as progress:
        yield Bar(progress, progress.add_task("training", total=total, completed=start, status=""))


def cut_log(path: Path, step: int) -> None:
    """Drop the rows logged after the checkpoint that training goes on from, and a half-written last row."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            break
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the step in hand is finished and saved first."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: event.set()) for number in numbers}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
