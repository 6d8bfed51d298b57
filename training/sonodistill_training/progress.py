"""What a long training shows and obeys: a progress bar, its speed, a log that survives a kill, and stop signals."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

LINE_SECONDS = 30.0
"""Seconds between two lines of progress where the output is a file."""

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Ctrl-C, a scheduler's end, and what ``sbatch --signal=B:USR1@180`` sends before it."""

_SHOWN_MONITORS = 4
_PATIENT_INTERRUPTS = 2


def stopped(number: int) -> BaseException:
    """What ends a training that was asked to stop and has saved: Ctrl-C as such, other signals as exit code 128 + n."""
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


class StopRequests:
    """Whether the training was asked to stop, and by which signal (the first that came; None before)."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._interrupts = 0

    def is_set(self) -> bool:
        """Whether a signal came."""
        return self.signal_number is not None

    def receive(self, number: int, _frame: object = None) -> None:
        """The signal handler. Nothing is printed here: a handler may interrupt a print."""
        if self.signal_number is None:
            self.signal_number = number
        if number == signal.SIGINT:
            # With torchrun one Ctrl-C comes twice: from the terminal and from the launcher.
            self._interrupts += 1
            if self._interrupts > _PATIENT_INTERRUPTS:
                raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """What Ctrl-C, SIGTERM and SIGUSR1 set, so that the step in hand is finished and saved first.

    A second Ctrl-C changes nothing; the third ends the process at once. The handlers are put back afterwards. In a
    thread that is not the main one, no signal is caught.
    """
    requests = StopRequests()
    if threading.current_thread() is not threading.main_thread():
        yield requests
        return
    numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]
    before = {number: signal.signal(number, requests.receive) for number in numbers}
    try:
        yield requests
    finally:
        for number, handler in before.items():
            # None: a handler that was not installed from Python, and that Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ignore_stop_signals(_worker: int = 0) -> None:
    """For a ``DataLoader``'s ``worker_init_fn``: a stop is the training's to obey.

    Ctrl-C in a terminal and a scheduler's SIGTERM reach every process of the job; a worker that obeyed would fail the
    step that the training is about to finish and save. A worker ends with the training that started it.
    """
    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def batches_of(loader: Iterable[Any]) -> Generator[Any, None, None]:
    """The loader's batches; when this generator is closed its workers end.

    Otherwise they end with the loader's iterator, which an error's traceback keeps alive; and a program that comes to
    its end before it waits for ever, for the signal that it ends its children with is one that they ignore.
    """
    iterator = iter(loader)
    try:
        yield from iterator
    finally:
        if shut_down := getattr(iterator, "_shutdown_workers", None):
            shut_down()


class Bar:
    """The progress of a training: steps done, the last row of the log, and the time that is left.

    Args:
        total: steps of the whole training.
        done: steps that are done already.
        draw: called with the bar after every change; its second argument says whether a row came.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        total: int,
        done: int,
        draw: Callable[[Bar, bool], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.done, self.row, self.monitors = total, done, {}, {}  # type: ignore[var-annotated]
        self._draw, self._clock = draw, clock
        self._first: tuple[int, float] | None = None

    def advance(self) -> None:
        """One step more."""
        self.done += 1
        # The first step is not counted: it compiles, allocates and waits for the first batch.
        self._first = self._first or (self.done, self._clock())
        self._draw(self, False)

    def show(self, row: Mapping[str, Any], monitors: Mapping[str, Any] | None = None) -> None:
        """Show a row of the log; the values of monitors stay until the next ones come."""
        self.row = dict(row)
        self.monitors = dict(monitors) if monitors else self.monitors
        self._draw(self, True)

    def seconds_left(self) -> float | None:
        """At the mean speed since this process began, monitors and checkpoints included. None after one step."""
        if self._first is None or self.done == self._first[0]:
            return None
        since, began = self._first
        return (self._clock() - began) / (self.done - since) * (self.total - self.done)

    def figures(self) -> str:
        """Loss, speed, data wait and time left, on one line."""
        row = self.row
        shown = (
            f"loss {_number(row.get('loss'), '.4f')}",
            f"{_number(row.get('images_per_second'), '.1f')} images/s",
            f"wait {_number(row.get('data_wait'), '.0%')}",
            f"ETA {duration(self.seconds_left())}",
        )
        return "  ".join(shown)

    def monitored(self) -> str:
        """The last monitor values, shortly: without the group before a slash, and the first few of them."""
        values = list(self.monitors.items())
        shown = [f"{name.rpartition('/')[2]} {_number(value, '.4g')}" for name, value in values[:_SHOWN_MONITORS]]
        return "  ".join(shown + ["..."] * (len(values) > _SHOWN_MONITORS))


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
def progress_bar(
    total: int,
    start: int,
    visible: bool,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Bar]:
    """A bar over training steps on a terminal; in a file, a line every half minute; nothing where not ``visible``."""
    console = console or Console()
    if not visible:
        yield Bar(total, start, lambda _bar, _row: None, clock)
    elif console.is_terminal:
        one_line = Column(no_wrap=True, overflow="ellipsis")
        status = TextColumn("{task.fields[status]}", markup=False, table_column=one_line)
        with Progress(BarColumn(10), MofNCompleteColumn(), status, console=console) as progress:
            task = progress.add_task("", total=total, completed=start, status="")
            yield Bar(total, start, lambda bar, _row: _draw_bar(progress, task, bar), clock)
    else:
        lines = _Lines(console, clock)
        bar = Bar(total, start, lines.draw, clock)
        try:
            yield bar
        finally:
            lines.last()


def _draw_bar(progress: Progress, task: TaskID, bar: Bar) -> None:
    figures = bar.figures() if bar.row else ""
    progress.update(task, completed=bar.done, status="\n".join(text for text in (figures, bar.monitored()) if text))


class _Lines:
    """Progress in a file: one line a row of the log, but not more often than ``LINE_SECONDS``."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock = console, clock
        self._next, self._unprinted = -float("inf"), ""

    def draw(self, bar: Bar, is_row: bool) -> None:
        if not is_row:
            return
        parts = (f"step {bar.row.get('step', bar.done)}/{bar.total}", bar.figures(), bar.monitored())
        self._unprinted = "  ".join(part for part in parts if part)
        if self._clock() >= self._next:
            self._next = self._clock() + LINE_SECONDS
            self.last()

    def last(self) -> None:
        """Print what was held back."""
        if self._unprinted:
            # The file it goes to may be on a full disk: no reason to stop.
            with suppress(OSError):
                self._console.print(self._unprinted, markup=False, highlight=False, soft_wrap=True)
            self._unprinted = ""


def duration(seconds: float | None) -> str:
    """``3 d 04:05`` from a day on, ``04:05:06`` below, ``?`` for what is not known."""
    if seconds is None:
        return "?"
    days, rest = divmod(round(seconds), 86400)
    hours, minutes, seconds = rest // 3600, rest // 60 % 60, rest % 60
    return f"{days} d {hours:02d}:{minutes:02d}" if days else f"{hours:02d}:{minutes:02d}:{seconds:02d}"


def _number(value: Any, style: str) -> str:
    return "?" if value is None else format(value, style)


def cut_log(path: Path, step: int) -> None:
    """Drop the rows logged after the checkpoint that training goes on from, and a half-written last row.

    The file is shortened in place, which needs no room: the disk may be full.
    """
    if not path.is_file():
        return
    kept = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept += len(line)
    os.truncate(path, kept)
