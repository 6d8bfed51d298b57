"""A training in a process of its own: begun, watched and stopped by a server that goes on answering.

The process is ``python -m sonodistill.annotate.training.process``; what it is to do comes on its standard input.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.training.state import (
    TrainSettings,
    due,
    folder_of,
    is_running,
    only_training,
    read_progress,
    running_model,
    write_progress,
)
from sonodistill.annotate.workbench import CLASSIFICATION, SEGMENTATION, Settings, Workbench
from sonodistill.errors import SonoDistillError

logger = logging.getLogger(__name__)

LOG = "train.log"
_STARTED = "started"
_NICE = 5
_LOG_BYTES = 1 << 20
_POLL_SECONDS = 0.1


def start_training(
    workbench: Workbench, model: str, given: Mapping[str, Any] | None = None, *, annotator: str | None = None
) -> dict[str, Any]:
    """Begin a training in the background; returns, within a second or so, once it has begun.

    Its output goes to ``<work>/training/<model>/train.log``, how far it is to ``training_state.read_progress``.

    Args:
        workbench: its settings and labels are those of the training; it stays in use here.
        model: "segmentation", "classification" or "interactive".
        given: settings by name, see ``TrainSettings``.
        annotator: train on this one's labels alone.

    Returns:
        The progress.

    Errors: ConflictError when another training runs; UnknownModelError, InvalidSettingError.
    """
    settings = TrainSettings.of(model, given)
    work = workbench.settings.work
    if is_running(work):
        raise ConflictError(
            f"a training of {running_model(work) or 'a model'} runs already", remedy="wait for its end, or stop it"
        )
    folder = folder_of(work, model)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    request = {
        "workbench": _to_json(workbench.settings),
        "model": model,
        "settings": asdict(settings),
        "annotator": annotator,
    }
    log_path = folder / LOG
    too_long = log_path.is_file() and log_path.stat().st_size > _LOG_BYTES
    with log_path.open("wb" if too_long else "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 (both are pipes)
    with process.stdin, process.stdout:
        process.stdin.write(json.dumps(request).encode())
        process.stdin.close()
        said = process.stdout.readline().decode(errors="replace").strip()
    threading.Thread(target=process.wait, daemon=True).start()
    if said != _STARTED:
        raise ConflictError(said or "the training did not start", remedy=f"see {LOG} of the training")
    return read_progress(work, model)


def start_if_due(workbench: Workbench) -> str | None:
    """Begin a training of segmentation or classification if ``train_after`` frames were accepted since the last.

    For each label that is saved: it is cheap where none is due, and does not wait for the one it begins.

    Returns:
        The model, None where none is begun.
    """
    model = next((model for model in (SEGMENTATION, CLASSIFICATION) if due(workbench, model)), None)
    if model is not None:
        threading.Thread(target=_start_due, args=(workbench, model), daemon=True).start()
    return model


def start_soon(workbench: Workbench) -> None:
    """As ``start_if_due``, which looks at the labels, without waiting for it."""

    def look() -> None:
        try:
            start_if_due(workbench)
        except SonoDistillError as error:
            logger.warning("whether a training is due is unknown: %s", error.message)

    threading.Thread(target=look, name="train-if-due", daemon=True).start()


def _start_due(workbench: Workbench, model: str) -> None:
    lock = FileLock(folder_of(workbench.settings.work, model).parent / ".starting", timeout=0)
    try:
        with lock:
            if due(workbench, model):
                start_training(workbench, model)
    except Timeout:  # another label that was saved begins it
        return
    except SonoDistillError as error:
        logger.warning("no training of %s: %s", model, error.message)


def stop_training(work: Path, *, patience: float = 15.0) -> str:
    """End the training that runs, orderly, or by force when it has not ended after ``patience`` seconds.

    Returns:
        The model; its next training goes on after the last whole epoch.

    Errors: ConflictError when none runs.
    """
    model = running_model(work)
    pid = read_progress(work, model).get("pid") if model else None
    if model is None or not isinstance(pid, int):
        raise ConflictError("no training runs")
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        until = time.monotonic() + patience
        while is_running(work) and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        if not is_running(work):
            break
    return model


def _to_json(settings: Settings) -> dict[str, Any]:
    said = asdict(settings)
    paths = {name: str(path) for name, path in settings.models.items()}
    token = None if settings.token_file is None else str(settings.token_file)
    return {**said, "work": str(settings.work), "models": paths, "token_file": token}


def _from_json(said: Mapping[str, Any]) -> Settings:
    return Settings(
        **{
            **said,
            "work": Path(said["work"]),
            "labels": tuple(said["labels"]),
            "classes": tuple(said["classes"]),
            "models": {},  # they were added when the server opened its workbench
            "token_file": None if said["token_file"] is None else Path(said["token_file"]),
        }
    )


def main() -> int:
    """Do what the standard input says; the first line of the standard output says that it has begun, or why not."""
    request = json.load(sys.stdin)
    settings, model = _from_json(request["workbench"]), str(request["model"])
    work = settings.work
    if hasattr(os, "nice"):
        os.nice(_NICE)  # people wait for the server
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        with only_training(work):
            write_progress(work, model, state="running", phase="starting", pid=os.getpid())
            _say(_STARTED)
            from sonodistill.annotate.training.run import reported, train_alone

            with reported(work, model):
                workbench = Workbench(settings)
                try:
                    train_alone(workbench, model, TrainSettings(**request["settings"]), annotator=request["annotator"])
                finally:
                    workbench.close()
    except AnnotationError as error:
        _say(error.message)
        logger.error("%s", error)
        return 2
    except SonoDistillError as error:
        logger.error("%s", error)
        return 2
    return 0


def _say(line: str) -> None:
    """To whoever began this process; the log has the rest."""
    if not sys.stdout.closed:
        sys.stdout.write(line.replace("\n", " ") + "\n")
        sys.stdout.flush()
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
