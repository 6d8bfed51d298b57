"""The training of the server's models: begun, watched, stopped; versions and which of them is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from UltrasoundSegmentLib.backends.client import Client
from UltrasoundSegmentLib.backends.connection import Connection
from UltrasoundSegmentLib.backends.model import BackendError, Cancel, ServerLostError
from UltrasoundSegmentLib.errors import Cancelled
from UltrasoundSegmentLib.jobs import Jobs
from UltrasoundSegmentLib.signal import Signal

ASK_AFTER_S = 1.0
_SETTINGS = ("max_epochs", "batch_size", "learning_rate", "freeze_encoder")


class Training:
    """Used in the main thread; nothing in it waits. The training itself is the server's and outlives Slicer.

    Attributes:
        progress: Signal(epoch, epochs, text).
        ended: Signal(said), what the server says of a training that is over: "state" ("done", "failed", "cancelled",
            "interrupted"), "reason", and of one that is done "version", "promoted" and "metrics".
        versions: Signal(said), by model {"current": number, "versions": [{"number", "created", "note", "labels",
            "metrics", "metric"}]}; "metric" is the first of the metrics, None without any.
        failed: Signal(error).
        running: the model that is trained, "" for none, as far as is known.
    """

    def __init__(self, client: Client, jobs: Jobs, connection: Connection) -> None:
        self.client, self.jobs, self.connection = client, jobs, connection
        self.progress, self.ended, self.versions, self.failed = Signal(), Signal(), Signal(), Signal()
        self.running, self._asking, self._closed = "", False, False
        self._at = 0, 0

    def start(self, model: str = "segmentation", **settings: Any) -> None:
        """Train a model on accepted labels. ``settings``: max_epochs, batch_size, learning_rate, freeze_encoder."""
        unknown = set(settings) - set(_SETTINGS)
        if unknown:
            raise BackendError(f"{', '.join(sorted(unknown))}: a training has {', '.join(_SETTINGS)}.")

        def started(_: Any) -> None:
            self.running = model
            self._at = 0, int(settings.get("max_epochs", 0))
            self.progress.emit(*self._at, "starting")
            self._later(ASK_AFTER_S)

        self._submit("POST", "/sonodistill/train", started, {"model": model, **settings})

    def look(self) -> None:
        """Whether one runs that somebody began; then it is watched."""
        self._ask()

    def stop(self) -> None:
        """Stop it; the next one goes on from there."""
        self._submit("DELETE", "/sonodistill/train", lambda _: self._ask())

    def fetch_versions(self) -> None:
        self._submit("GET", "/sonodistill/models", lambda said: self.versions.emit(_measured(said)))

    def promote(self, model: str, number: int) -> None:
        """Use this version from now on."""
        self._submit(
            "POST",
            f"/sonodistill/models/{quote(model, safe='')}/promote",
            lambda _: self.fetch_versions(),
            {"number": number},
        )

    def rollback(self, model: str) -> None:
        """Use the version before again."""
        self._submit("POST", f"/sonodistill/models/{quote(model, safe='')}/rollback", lambda _: self.fetch_versions())

    def close(self) -> None:
        self._closed = True

    def _later(self, seconds: float) -> None:
        if not self._asking and not self._closed:
            self._asking = True
            self.jobs.later(seconds, self._ask)

    def _ask(self) -> None:
        self._asking = False
        if not self._closed:
            self._submit("GET", "/sonodistill/train", self._told)

    def _told(self, said: Any) -> None:
        if not isinstance(said, dict):
            raise BackendError("The server does not say how far the training is.")
        running = [one for one in said.values() if isinstance(one, dict) and one.get("state") == "running"]
        if running:
            # One that was killed may be told as running while another is: the latest word counts.
            one = max(running, key=lambda one: one["time"] if isinstance(one.get("time"), float) else 0.0)
            self.running = str(one.get("model", ""))
            if _whole(one.get("of")):
                self._at = _whole(one.get("epoch")), _whole(one.get("of"))
            self.progress.emit(*self._at, _text(one))
            self._later(ASK_AFTER_S)
            return
        was, self.running = self.running, ""
        if was:
            last = said.get(was)
            last = last if isinstance(last, dict) else {}
            self.ended.emit({"reason": str(last.get("message", ""))[:500], **last})

    def _submit(self, method: str, path: str, done: Callable[[Any], None], body: Any = None) -> None:
        def work(cancel: Cancel, _: Any) -> Any:
            return self.client.json(method, path, cancel, body=body)

        def good(value: Any) -> None:
            self.connection.noted()
            done(value)

        def bad(error: Exception) -> None:
            if isinstance(error, ServerLostError) and self.running:
                self._later(max(ASK_AFTER_S, error.retry_s))
            if not isinstance(error, Cancelled) and self.connection.note(error):
                self.failed.emit(error)

        self.jobs.submit(work, good, bad)


def _measured(said: Any) -> dict[str, Any]:
    """The versions of each model, each with one ``metric`` to show."""
    if not isinstance(said, dict):
        raise BackendError("The server does not tell its versions.")
    told = {}
    for model, known in said.items():
        known = known if isinstance(known, dict) else {}
        listed = [one for one in known.get("versions") or [] if isinstance(one, dict)]
        told[str(model)] = {
            "current": known.get("current"),
            "versions": [{**one, "metric": _metric(one.get("metrics"))} for one in listed],
        }
    return told


def _metric(metrics: Any) -> float | None:
    """The first figure of a version's own, not of the one it was compared with."""
    if not isinstance(metrics, dict):
        return None
    own = (value for name, value in metrics.items() if not str(name).endswith("_of_current"))
    return next((value for value in own if isinstance(value, float)), None)


def _whole(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _text(said: dict[str, Any]) -> str:
    """ "training, dice 0.81, about 40 s left" of what is known."""
    parts = [str(said.get("phase", "training"))[:40]]
    metric, name = said.get("metric"), said.get("metric_name")
    if isinstance(metric, int | float) and name:
        parts.append(f"{str(name)[:40]} {metric:.3f}")
    left = said.get("eta_seconds")
    if isinstance(left, int | float):
        parts.append(f"about {left:.0f} s left")
    return ", ".join(parts)
