"""Active learning with our server: the next sample is opened, labels are sent, a model is trained and used."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from UltrasoundSegmentLib.backends import items
from UltrasoundSegmentLib.backends.client import LARGE, Client
from UltrasoundSegmentLib.backends.connection import Connection
from UltrasoundSegmentLib.backends.model import BackendError, Cancel
from UltrasoundSegmentLib.errors import Cancelled, SegmentError
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.jobs import Jobs
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore
from UltrasoundSegmentLib.server_cine import cine_of, keep, labels_of, make_cine
from UltrasoundSegmentLib.signal import Signal
from UltrasoundSegmentLib.tasks import Task
from UltrasoundSegmentLib.training import Training

if TYPE_CHECKING:
    from UltrasoundSegmentLib.backends.items import Fetched, Label

FORMS = ("png", "coco", "seg", "nifti")
_UNSENT = "unsent"
_TURN_S = 0.015


class Learning:
    """What a person does with the server besides segmenting. Used in the main thread; nothing in it waits.

    A label that could not be sent stays on the list of its cine, which is saved with the scene, until ``send_unsent``.

    Args:
        scene: that samples are opened in, by default Slicer's.
        connection: shared with the session; by default one of its own.

    Attributes:
        opened: Signal(cine, store, index): a sample is there, its frame ``index`` is to be labelled.
        sent: Signal(index): the server has the label of a frame.
        unsent_changed: Signal(indices) of what waits.
        failed: Signal(error).
        progress: Signal(done, total, text), from half a second after the beginning.
        busy: Signal(bool).
        training: see ``Training``.
    """

    def __init__(self, client: Client, jobs: Jobs, *, scene: Any = None, connection: Connection | None = None) -> None:
        self.client, self.jobs = client, jobs
        self.connection = connection or Connection(client, jobs)
        self.opened, self.sent, self.unsent_changed = Signal(), Signal(), Signal()
        self.failed, self.progress, self.busy = Signal(), Signal(), Signal()
        self.training = Training(client, jobs, self.connection)
        self.training.failed.connect(self.failed.emit)
        self._scene = scene
        self._tasks: list[Task] = []

    def next_sample(self, strategy: str | None = None, exclude: Sequence[str] = ()) -> None:
        """Ask what to label next, and open it. ``exclude``: ids of frames."""

        def work(cancel: Cancel, _: Any) -> tuple[str, int]:
            body: dict[str, Any] = {"n": 1, "exclude": list(exclude)}
            body |= {
                key: value for key, value in (("strategy", strategy), ("annotator", self.client.annotator)) if value
            }
            said = self.client.json("POST", "/sonodistill/next", cancel, body=body)
            found = said.get("frames") if isinstance(said, dict) else None
            if not isinstance(found, list):
                raise BackendError("The server does not say what is next: is it a SonoDistill server?")
            if not found:
                raise SegmentError("There is nothing left to label on the server.")
            return items.item_id(found[0].get("item")), int(found[0].get("index", 0))

        self._run("Asking for the next frame", work, lambda found: self.open(*found))

    def open(self, item: str, index: int = 0) -> None:
        """Open an item of the server, or go to it where it is open already."""
        known = cine_of(self._in_scene(), self.client.url, item)
        if known is not None:
            self._show(known, MaskStore.of(known, labels_of(known)), index)
            return

        def work(cancel: Cancel, progress: Callable[..., None]) -> Fetched:
            return items.fetch(self.client, item, cancel, progress)

        def opened(found: Fetched) -> None:
            cine = make_cine(self._in_scene(), found, self.client.url)
            store = MaskStore.of(cine, found.names)
            self._keep(store, list(found.labels.items()), index)

        self._run("Fetching frames", work, opened)

    def submit(self, store: MaskStore, index: int) -> None:
        """Send the label of a frame: accepted, edited or skipped by a person.

        Errors: SegmentError where no person has said anything of the frame, or the cine is not of this server.
        """
        cine, info = store.cine, store.info(index)
        item = cine.attribute("item")
        if not item or cine.attribute("server") != self.client.url:
            raise SegmentError(f"“{cine.name}” is not of this server: open it from the server, or export its labels.")
        status: Status = info["status"]
        if not status.by_person:
            raise SegmentError(f"Frame {index + 1} is {status.value}: look at it and accept it first.")
        mask = None if status is Status.SKIPPED else self._numbered(store, index)
        frame = f"{items.item_id(item)}.f{index:05d}"
        self._set_unsent(cine, {*self.unsent(cine), index})

        def work(cancel: Cancel, _: Any) -> Any:
            return items.send(self.client, frame, mask, status.value, info["model"], cancel)

        def sent(_: Any) -> None:
            if store.info(index)["time"] == info["time"]:  # else it was changed meanwhile, and waits
                self._set_unsent(cine, {*self.unsent(cine)} - {index})
            self.sent.emit(index)

        self._run("Sending", work, sent)

    def unsent(self, cine: Cine) -> list[int]:
        """Frames whose labels were to be sent and are not on the server."""
        stored = cine.attribute(_UNSENT)
        return (
            sorted({int(one) for one in stored.split() if one.isdecimal() and int(one) < cine.count}) if stored else []
        )

    def send_unsent(self, store: MaskStore) -> None:
        """Send what waits, as it is now."""
        waiting = self.unsent(store.cine)
        still = [index for index in waiting if store.status(index).by_person]  # others were taken back
        if still != waiting:
            self._set_unsent(store.cine, set(still))
        for index in still:
            self.submit(store, index)

    def export(self, path: str | Path, form: str = "png", statuses: Sequence[str] | None = None) -> None:
        """Have the server write labels to a zip, and keep it as ``path``. ``form``: png, coco, seg or nifti."""
        body: dict[str, Any] = {"form": form, **({"statuses": list(statuses)} if statuses else {})}

        def work(cancel: Cancel, _: Any) -> None:
            content = self.client.request("POST", "/sonodistill/export", cancel, body=body, most=LARGE).content
            if not content.startswith(b"PK"):
                raise BackendError("The server's answer is no zip: ask again.")
            target = Path(path)
            part = target.with_name(f".{target.name}.part")
            try:
                part.write_bytes(content)
                os.replace(part, target)  # noqa: PTH105
            except OSError as error:
                raise SegmentError(f"{target} cannot be written ({error}): choose another folder.") from None
            finally:
                part.unlink(missing_ok=True)

        self._run("Exporting", work, lambda _: None)

    def cancel(self) -> None:
        """Stop what was begun here; a training goes on, see ``training.stop``."""
        for task in list(self._tasks):
            task.cancel()

    def close(self) -> None:
        self.cancel()
        self.training.close()
        self.connection.close()
        self.client.close()

    def _in_scene(self) -> Any:
        if self._scene is not None:
            return self._scene
        import slicer

        return slicer.mrmlScene

    def _show(self, cine: Cine, store: MaskStore, index: int) -> None:
        cine.select(min(max(0, index), cine.count - 1))
        self.opened.emit(cine, store, cine.selected)

    def _keep(self, store: MaskStore, labels: list[tuple[int, Label]], index: int) -> None:
        """Take the server's labels over, a few at each turn of the main thread, and show the frame at the end."""
        if store.cine.scene is None:
            return  # closed meanwhile
        until = time.monotonic() + _TURN_S
        while labels and time.monotonic() < until:
            keep(store, *labels.pop())
        if labels:
            self.jobs.later(0, lambda: self._keep(store, labels, index))
        else:
            self._show(store.cine, store, index)

    def _numbered(self, store: MaskStore, index: int) -> Any:
        """The mask in the server's label numbers. Errors: SegmentError for a label that it does not know."""
        mask, known = store.mask(index), labels_of(store.cine)
        numbers = np.zeros(256, np.uint8)
        for number, name in enumerate(store.labels, 1):
            if name in known:
                numbers[number] = known.index(name) + 1
            elif (mask == number).any():
                raise SegmentError(f"The server has no label “{name}”: it knows {', '.join(known)}.")
        return numbers[mask]

    def _set_unsent(self, cine: Cine, indices: set[int]) -> None:
        cine.set_attribute(_UNSENT, " ".join(str(one) for one in sorted(indices)) or None)
        self.unsent_changed.emit(sorted(indices))

    def _run(self, text: str, work: Callable[[Cancel, Any], Any], done: Callable[[Any], None]) -> None:
        task = Task(
            self.jobs,
            text,
            0,
            progress=self.progress.emit,
            good=self.connection.noted,
            bad=self._failed,
            ended=self._ended,
        )
        self._tasks.append(task)
        if len(self._tasks) == 1:
            self.busy.emit(True)
        task.submit(work, done, task.at)
        task.end_when_empty()

    def _ended(self, task: Task) -> None:
        self._tasks.remove(task)
        if not self._tasks:
            self.busy.emit(False)

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, Cancelled) and self.connection.note(error):
            self.failed.emit(error)
