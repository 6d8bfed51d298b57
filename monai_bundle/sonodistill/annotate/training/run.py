"""Fine-tune a model on what people accepted, through the bundle's own configs, and promote it when it is not worse."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sonodistill import __version__
from sonodistill.annotate.training.bundle import train_bundle
from sonodistill.annotate.training.labelled import training_set
from sonodistill.annotate.training.result import keep
from sonodistill.annotate.training.start import Job, find_start
from sonodistill.annotate.training.state import (
    CANCELLED,
    DONE,
    FAILED,
    RUNNING,
    TrainSettings,
    folder_of,
    note_start,
    only_training,
    read_progress,
    require_trained,
    write_progress,
)
from sonodistill.annotate.workbench import Workbench
from sonodistill.errors import SonoDistillError
from sonodistill.files import write_text

SET, RUN, JOB = "set", "run", "job.json"
_MESSAGE = 1000
_CANCELLED_CODE = 128 + signal.SIGTERM


def run_training(
    workbench: Workbench, model: str, settings: TrainSettings | None = None, *, annotator: str | None = None
) -> dict[str, Any]:
    """Train a model in this process, which it changes (seeds, signal handlers): give it one of its own.

    One that was killed goes on after its last whole epoch when labels, settings and start are the same. The new
    version is judged on the held-out frames beside the current one, and promoted when it is not worse; validated on
    frames of the group that it was trained on, it replaces no version. SIGTERM ends the training orderly.

    Args:
        workbench: opened, not started.
        model: "segmentation", "classification" or "interactive".
        settings: by default those of the model.
        annotator: train on this one's labels alone.

    Returns:
        The record: "version", "promoted", "note", and "metrics", which the version keeps too.

    Errors: ConflictError (another training runs, too few labels, nothing to start from); UnknownModelError;
        WeightsError.
    """
    require_trained(model)
    settings = settings or TrainSettings.of(model)
    work = workbench.settings.work
    with only_training(work), reported(work, model):
        return train_alone(workbench, model, settings, annotator=annotator)


def train_alone(
    workbench: Workbench, model: str, settings: TrainSettings, *, annotator: str | None = None
) -> dict[str, Any]:
    """As ``run_training``, where ``only_training`` and ``reported`` are seen to."""
    work, began = workbench.settings.work, time.time()
    write_progress(work, model, state=RUNNING, phase="collecting", pid=os.getpid())
    note_start(work, model, workbench.labels.revision())
    folder = folder_of(work, model)
    seed = workbench.settings.seed
    data = training_set(workbench.catalogue, workbench.labels, folder / SET, model, annotator=annotator, seed=seed)
    job = Job(workbench, model, settings, data, find_start(workbench, model, data, folder), folder / RUN)
    _prepare(job)
    write_progress(work, model, state=RUNNING, phase="loading", pid=os.getpid())
    train_bundle(job)
    write_progress(work, model, state=RUNNING, phase="judging", pid=os.getpid())
    record = keep(job, began)
    shutil.rmtree(job.run, ignore_errors=True)
    write_progress(work, model, state=DONE, message=record["note"], **record)
    return record


@contextmanager
def reported(work: Path, model: str) -> Iterator[None]:
    """Say how it ended if it did not end well; SIGTERM ends the block as an exception does."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_CANCELLED_CODE)) if main else None
    try:
        yield
    except (SystemExit, KeyboardInterrupt):
        reached = {name: value for name, value in read_progress(work, model).items() if name in ("epoch", "of")}
        write_progress(work, model, state=CANCELLED, message="stopped; the next start goes on where it was", **reached)
        raise
    except SonoDistillError as error:
        write_progress(work, model, state=FAILED, message=str(error)[:_MESSAGE])
        raise
    except Exception as error:
        write_progress(work, model, state=FAILED, message=f"{type(error).__name__}; see the log of the training")
        raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _prepare(job: Job) -> None:
    """Empty the folder of the run, unless one of the same labels, settings and start was interrupted there."""
    asked = {
        "model": job.model,
        "settings": asdict(job.settings),
        "data": job.data.digest,
        "start": [job.start.name, job.start.sha256],
        "labels": list(job.workbench.labels.names),
        "seed": job.workbench.settings.seed,
        "version": __version__,
    }
    text = json.dumps(asked, indent=1)
    try:
        same = (job.run / JOB).read_text("utf-8") == text
    except OSError:
        same = False
    if not same:
        shutil.rmtree(job.run, ignore_errors=True)
        write_text(job.run / JOB, text)
    for left in job.run.glob(".*.tmp"):  # by a process that was killed
        left.unlink(missing_ok=True)
