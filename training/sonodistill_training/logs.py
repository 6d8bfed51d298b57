"""Where the rows of a training's log go: JSON lines, CSV, TensorBoard and MLflow, behind one interface."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from sonodistill.errors import DatasetError, SonoDistillError, UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill_training.progress import cut_log

logger = logging.getLogger(__name__)

JSONL, CSV, TENSORBOARD = "log.jsonl", "log.csv", "tensorboard"
PACKAGES: dict[str, dict[str, str]] = {
    "jsonl": {},
    "csv": {},
    "tensorboard": {"tensorboard": "tensorboard"},
    "mlflow": {"mlflow": "mlflow", "sqlalchemy": "mlflow", "ignite": "pytorch-ignite"},
}
"""The logs there are; for each, what is imported and the package that brings it."""

_RETRY_SECONDS = 600.0
_CATCH_UP_SECONDS = 10.0

Row = Mapping[str, Any]


class LogWriter(Protocol):
    """One kind of log. Made with the step it goes on from: what was logged after it is dropped, or not logged again."""

    def write(self, row: Row) -> None:
        """Write a row, all of it or (raising OSError) none. A value that is not finite comes as None."""

    def close(self, status: str, /) -> None:
        """Release files and connections; ``status`` is FINISHED, KILLED (stopped on request) or FAILED."""


def read_log(run: str | Path) -> list[dict[str, Any]]:
    """The rows of a training's ``log.jsonl``, given its folder or the file.

    Raises:
        DatasetError: no log there.
        UnreadableFileError: a line is not JSON.
    """
    path = Path(run) / JSONL if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise DatasetError(f"there is no {JSONL}", path=run, remedy="name the output folder of a training")
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise UnreadableFileError(f"line {number} is no JSON object", path=path) from error
    return rows


def check_logs(names: Sequence[str]) -> None:
    """Raise before anything is computed.

    Raises:
        SonoDistillError: a log that does not exist, or one whose package is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise SonoDistillError(f"there is no log {name!r}", remedy=f"choose among {', '.join(PACKAGES)}")
        missing = [module for module in PACKAGES[name] if find_spec(module) is None]
        if missing:
            packages = dict.fromkeys(PACKAGES[name][module] for module in missing)
            raise SonoDistillError(
                f"the log {name} needs {' and '.join(missing)}, which is not installed",
                remedy=f"pip install {' '.join(packages)}, or train without this log",
            )


class Writers:
    """All logs of a training in ``folder``; a context manager. For the main process only.

    A log that cannot be written (a full disk, a tracking server that is away) is warned about once. Training goes on,
    its rows are kept, and written when that works again.

    Args:
        folder: the training's output folder, made if it is not there.
        names: among "jsonl", "csv", "tensorboard" and "mlflow"; "jsonl" is always written.
        start_step: the step of the checkpoint that training goes on from, 0 for a new training.
        run_name: of the MLflow run; the folder's name by default.
        tracking_uri: of MLflow; a SQLite file in the folder by default, whatever the environment says.
        settings: of the training, for MLflow's parameters and TensorBoard's text.

    Raises:
        SonoDistillError: a log that does not exist, that needs a package, or a tracking URI that is none.
    """

    def __init__(
        self,
        folder: str | Path,
        names: Sequence[str],
        *,
        start_step: int,
        run_name: str = "",
        tracking_uri: str | None = None,
        settings: Mapping[str, Any],
    ) -> None:
        names = [names] if isinstance(names, str) else list(names)
        check_logs(names)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        texts = {name: str(value) for name, value in _flatten(settings)}
        openers: dict[str, Callable[[int], LogWriter]] = {
            "jsonl": partial(_JsonLines, folder / JSONL),
            "csv": partial(_Table, folder / CSV),
            "tensorboard": partial(_TensorBoard, folder / TENSORBOARD, texts),
            "mlflow": partial(_mlflow, folder, run_name or folder.resolve().name, tracking_uri, texts),
        }
        # Opening a file again is cheap; an event file or a server is tried again after some time only.
        pauses = {"tensorboard": _RETRY_SECONDS, "mlflow": _RETRY_SECONDS}
        self._logs = [
            _Patient(name, openers[name], start_step, pauses.get(name, 0.0))
            for name in dict.fromkeys(["jsonl", *names])
        ]

    def write(self, row: Row) -> None:
        """Write a row to every log; it has a "step" that grows from row to row."""
        plain = {name: _plain(value) for name, value in row.items()}
        for log in self._logs:
            log.write(plain)

    def close(self, status: str = "FINISHED") -> None:
        """Write what was kept, if that works now, and close every log."""
        for log in self._logs:
            log.close(status)

    def __enter__(self) -> Writers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
        self.close("KILLED" if stopped else "FAILED" if kind else "FINISHED")


class _Patient:
    """A log that may fail for a while: its rows wait, and it is opened again from the last row that it took."""

    def __init__(self, name: str, opener: Callable[[int], LogWriter], start_step: int, pause: float) -> None:
        self._name, self._opener, self._taken, self._pause = name, opener, start_step, pause
        self._writer: LogWriter | None = None
        self._waiting: deque[Row] = deque()
        self._retry_at = -math.inf
        self._warned = False
        self._catch_up()

    def write(self, row: Row) -> None:
        self._waiting.append(row)
        if time.monotonic() >= self._retry_at:
            self._catch_up()

    def close(self, status: str) -> None:
        self._catch_up()
        try:
            if self._writer:
                self._writer.close(status)
        except OSError as error:
            self._warn(error)

    def _catch_up(self) -> None:
        until = time.monotonic() + _CATCH_UP_SECONDS  # a server that comes back must not hold up the training
        try:
            self._writer = self._writer or self._opener(self._taken)
            while self._waiting and time.monotonic() < until:
                self._writer.write(self._waiting[0])
                self._taken = self._waiting.popleft()["step"]
        except OSError as error:
            self._writer, self._retry_at = None, time.monotonic() + self._pause
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            logger.warning("the log %s cannot be written, training goes on without it: %s", self._name, error)
        self._warned = True


class _JsonLines:
    """One JSON object a line; what is not finite is null."""

    def __init__(self, path: Path, start_step: int) -> None:
        self._path = path
        cut_log(path, start_step)

    def write(self, row: Row) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def close(self, _status: str) -> None:
        """Nothing is held open."""


class _Table:
    """A CSV table with a header. A column that comes later is empty in the rows before it."""

    def __init__(self, path: Path, start_step: int) -> None:
        self._path = path
        self._columns = _cut_table(path, start_step)

    def write(self, row: Row) -> None:
        if new := [name for name in row if name not in self._columns]:
            self._widen([*self._columns, *new])
        with self._path.open("a", encoding="utf-8", newline="") as file:
            file.write(_csv_line([row.get(name) for name in self._columns]))

    def close(self, _status: str) -> None:
        """Nothing is held open."""

    def _widen(self, columns: list[str]) -> None:
        padding = "," * (len(columns) - len(self._columns))
        with atomic_path(self._path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(_csv_line(columns))
            if self._columns:
                with self._path.open(encoding="utf-8", newline="") as before:
                    next(before)
                    file.writelines(line.removesuffix("\n") + padding + "\n" for line in before)
        self._columns = columns


def _csv_line(values: Sequence[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def _cut_table(path: Path, step: int) -> list[str]:
    """As :func:`cut_log`, for a table; its columns, none where no row is left."""
    if not path.is_file():
        return []
    with path.open("rb") as file:
        header = file.readline()
        columns = next(csv.reader([header.decode("utf-8", "replace")]), [])
        kept, rows = len(header), 0
        for line in file:
            row = dict(zip(columns, values := next(csv.reader([line.decode("utf-8", "replace")]), []), strict=False))
            whole = line.endswith(b"\n") and len(values) == len(columns) and row.get("step", "").isdecimal()
            if not whole or int(row["step"]) > step:
                break
            kept, rows = kept + len(line), rows + 1
    os.truncate(path, kept if rows else 0)
    return columns if rows else []


class _TensorBoard:
    """Scalars of TensorBoard. Readers drop what was logged after the step that a later file goes on from."""

    def __init__(self, folder: Path, settings: Mapping[str, str], start_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        old = list(folder.glob("events.out.tfevents.*"))
        if not start_step:
            for path in old:
                path.unlink()
        elif old:
            # Readers take files in the order of the second in their names, so a new one needs a later second.
            newest = max(int(path.name.split(".")[3]) for path in old)
            time.sleep(min(max(newest + 1 - time.time(), 0.0), 2.0))
        self._writer = SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)
        if not start_step:
            self._writer.add_text("settings", "\n".join(f"    {name}: {text}" for name, text in settings.items()), 0)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)):
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()  # its writer is a thread: without this, a kill loses minutes and a full disk is not told

    def close(self, _status: str) -> None:
        self._writer.close()


def _mlflow(*arguments: Any) -> LogWriter:
    from sonodistill_training.mlflow_log import MlflowLog

    return MlflowLog(*arguments)


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    """A number that JSON has, a text, or None for a number that is not finite."""
    if value is None or isinstance(value, (str, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else None
