"""What a training was asked for and how far it is, in files that any process reads; no torch.

``<work>/training/<model>/progress.json`` is replaced after each epoch. The process that trains holds a lock of the
folder of work, so that there is one training at once; a process that is killed holds it no longer.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.model import FINAL
from sonodistill.annotate.training.version_files import plain
from sonodistill.files import write_text

if TYPE_CHECKING:
    from sonodistill.annotate.workbench import Workbench

TRAINED = ("segmentation", "classification", "interactive")
"""The models that are trained on labels."""
PROGRESS, LAST = "progress.json", "last.json"
RUNNING, DONE, FAILED, CANCELLED, INTERRUPTED, IDLE = (
    "running",
    "done",
    "failed",
    "cancelled",
    "interrupted",
    "idle",
)
_DEFAULTS = {"segmentation": (50, 8, 1e-4), "classification": (50, 8, 1e-4), "interactive": (50, 8, 3e-4)}
_START_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What whoever asks for a training may decide.

    Attributes:
        max_epochs: 1 to 1000.
        batch_size: frames, 1 to 256.
        learning_rate: 1e-7 to 0.1.
        freeze_encoder: train the decoder or head alone.

    Errors: ConflictError naming the setting and its bounds.
    """

    max_epochs: int = 50
    batch_size: int = 8
    learning_rate: float = 1e-4
    freeze_encoder: bool = False

    def __post_init__(self) -> None:
        for name, (kind, low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high:
                raise InvalidSettingError(f"{name} is {str(value)[:40]!r}", remedy=f"give {low} to {high}")
        if not isinstance(self.freeze_encoder, bool):
            raise InvalidSettingError(f"freeze_encoder is {str(self.freeze_encoder)[:40]!r}", remedy="true or false")

    @classmethod
    def of(cls, model: str, given: Mapping[str, Any] | None = None, *, strict: bool = True) -> TrainSettings:
        """The settings of a request, defaults of the model for those it leaves out; numbers may come as text.

        Args:
            model: one of ``TRAINED``.
            given: by name.
            strict: refuse other names; otherwise they are left alone, as stock clients send their own.

        Errors: UnknownModelError, InvalidSettingError.
        """
        require_trained(model)
        names = list(cls.__slots__)
        values: dict[str, Any] = dict(zip(names, (*_DEFAULTS[model], False), strict=True))
        for name, value in (given or {}).items():
            if name in values:
                values[name] = _number(name, value)
            elif strict:
                raise InvalidSettingError(
                    f"{str(name)[:40]!r} is no setting of a training", remedy=f"give {', '.join(names)}"
                )
        return cls(**values)


class InvalidSettingError(AnnotationError):
    """A setting of a training that there is not, or out of its bounds."""

    status = 422


class UnknownModelError(AnnotationError):
    """No model of that name is trained on labels."""

    status = 404


_BOUNDS: dict[str, tuple[Any, float, float]] = {
    "max_epochs": (int, 1, 1000),
    "batch_size": (int, 1, 256),
    "learning_rate": ((int, float), 1e-7, 0.1),
}


def require_trained(model: str) -> None:
    """Errors: UnknownModelError."""
    if model not in TRAINED:
        raise UnknownModelError(f"{str(model)[:40]!r} is not trained on labels", remedy=f"train {', '.join(TRAINED)}")


def folder_of(work: Path, model: str) -> Path:
    """Where a model's training set, progress and unfinished run are."""
    require_trained(model)
    return work / "training" / model


def write_progress(work: Path, model: str, **said: Any) -> None:
    """Replace what is said of the training of a model: "state" and whatever else belongs to it, JSON values."""
    write_text(folder_of(work, model) / PROGRESS, json.dumps(plain({"model": model, "time": time.time(), **said})))


def read_progress(work: Path, model: str) -> dict[str, Any]:
    """What is known of the latest training of a model.

    Always "model" and "state": "idle" (never trained), "running", "done", "failed", "cancelled", or "interrupted" when
    the process was killed. While running also "phase" ("starting", "collecting", "loading", "training", "judging"),
    "pid", "epoch", "of", "loss", "metric", "metric_name", "eta_seconds"; afterwards "message", and of one that is done
    "version", "promoted" and "metrics".
    """
    said = {"model": model, **_read(folder_of(work, model) / PROGRESS)}
    said.setdefault("state", IDLE)
    if said["state"] == RUNNING and (not is_running(work) or _another_went_on(work, said)):
        said["state"] = _read(folder_of(work, model) / PROGRESS).get("state", IDLE)  # it may just have ended
        if said["state"] == RUNNING:
            said |= {"state": INTERRUPTED, "message": "the process was killed; start again to go on"}
    return said


def _another_went_on(work: Path, said: Mapping[str, Any]) -> bool:
    """Whether another model's training said something later: one trains at a time, so this one was killed."""
    others = (_read(folder_of(work, model) / PROGRESS) for model in TRAINED if model != said["model"])
    return any(other.get("time", 0) > said.get("time", 0) for other in others)


def is_running(work: Path) -> bool:
    """Whether a process trains in this folder of work."""
    try:
        with _lock(work, 0):
            return False
    except Timeout:
        return True


def running_model(work: Path) -> str | None:
    """The model that is trained just now."""
    states = {model: read_progress(work, model)["state"] for model in TRAINED}
    return next((model for model, state in states.items() if state == RUNNING), None)


@contextmanager
def only_training(work: Path) -> Iterator[None]:
    """Be the one training in this folder of work until the end of the block, or of the process.

    Errors: ConflictError when another one runs.
    """
    try:
        with _lock(work, _START_SECONDS):
            yield
    except Timeout:
        raise ConflictError(
            f"a training of {running_model(work) or 'a model'} runs already", remedy="wait for its end, or stop it"
        ) from None


def note_start(work: Path, model: str, revision: int) -> None:
    """Remember which labels a training begins with, for ``due``."""
    write_text(folder_of(work, model) / LAST, json.dumps({"revision": revision, "time": time.time()}))


def due(workbench: Workbench, model: str = "segmentation") -> bool:
    """Whether as many frames as ``train_after`` says were accepted since the last training of a model began."""
    after = workbench.settings.train_after
    if after < 1:
        return False
    last = _read(folder_of(workbench.settings.work, model) / LAST).get("revision", 0)
    if workbench.labels.revision() - last < after:  # no look at the labels for most writes
        return False
    fresh = {
        row.frame
        for row in workbench.labels.rows(status=FINAL)
        if row.revision > last and (row.classification if model == "classification" else row.shape)
    }
    return len(fresh) >= after and not is_running(workbench.settings.work)


def _lock(work: Path, timeout: float) -> FileLock:
    folder = work / "training"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FileLock(folder / ".lock", timeout=timeout, poll_interval=0.02)


def _number(name: str, value: Any) -> Any:
    """As it is, or read from text; a whole number for those that have to be whole."""
    if isinstance(value, str):
        if name == "freeze_encoder" and value.lower() in ("true", "false"):
            return value.lower() == "true"
        with suppress(ValueError):
            value = float(value)
    if _BOUNDS.get(name, (None,))[0] is int and isinstance(value, float) and math.isfinite(value) and value % 1 == 0:
        return int(value)
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
