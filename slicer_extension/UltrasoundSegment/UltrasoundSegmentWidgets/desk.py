"""The desk: the cine, its masks, the backend and the work under way, for every section of the panel. No Qt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import vtk
from UltrasoundSegmentLib.backends.address import as_name
from UltrasoundSegmentLib.backends.connection import Connection
from UltrasoundSegmentLib.backends.model import Cancel
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import build_on_worker
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.read import read_on_worker
from UltrasoundSegmentLib.frames.still import cine_of_still
from UltrasoundSegmentLib.frames.sweep import SweepPlan, sweep_source
from UltrasoundSegmentLib.jobs import Job, Jobs
from UltrasoundSegmentLib.masks.sequence import find_sequence
from UltrasoundSegmentLib.masks.store import MaskStore
from UltrasoundSegmentLib.session import Session
from UltrasoundSegmentLib.signal import Signal
from UltrasoundSegmentLib.volume_work import segment_volume

import slicer


class NothingOpenError(SegmentError):
    """An action needs a cine, a mask or a backend that is not there yet."""


class Desk:
    """What the sections share. They listen to its signals and never to each other.

    Attributes:
        jobs: the worker; its results arrive when ``jobs.pump()`` is called, by the panel's timer.
        cine, store, session: of the cine in use; None before one is chosen, ``store`` before it has masks.
        backend, models: what is connected, and what it offers.
        cine_changed: Signal(), another cine, other calibration or other masks of it.
        frame_changed: Signal(index), another frame is on display.
        mask_changed: Signal(index), mask or status of a frame.
        backend_changed, models_changed, busy: Signal(), Signal(), Signal(bool).
        progress, failed, said: Signal(done, total, text), Signal(error), Signal(text).
    """

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.cine: Cine | None = None
        self.store: MaskStore | None = None
        self.session: Session | None = None
        self.backend: Any = None
        self.connection: Connection | None = None
        self.models: list[Any] = []
        self.annotator = ""
        self.cine_changed, self.frame_changed, self.mask_changed = Signal(), Signal(), Signal()
        self.backend_changed, self.models_changed, self.busy = Signal(), Signal(), Signal()
        self.progress, self.failed, self.said = Signal(), Signal(), Signal()
        self._observer: int | None = None
        self._shown = -1
        self._loading: Job | None = None
        self._turns = 0

    def open(self, path: Path, done: Callable[[Cine], None]) -> None:
        """Read a DICOM file, a video or a tracked sequence beside the GUI; ``done`` gets the cine.

        Errors: NothingOpenError where there is no file; what is wrong with one is told by ``failed``.
        """
        if not path.name or not path.is_file():
            raise NothingOpenError(f"There is no file “{path}”: choose a DICOM or video file.")
        scene = slicer.mrmlScene
        self._load(lambda on_main, progress: read_on_worker(path, scene, on_main, progress), done)

    def slice(self, volume: Any, plan: SweepPlan, done: Callable[[Cine], None]) -> None:
        """Cut the planes of a volume beside the GUI; a volume of one slice is a cine of one frame.

        Errors: SegmentError for a plan that has no frames.
        """
        if volume.GetImageData() is not None and volume.GetImageData().GetDimensions()[2] == 1:
            done(cine_of_still(volume, slicer.mrmlScene))
            return
        source, scene = sweep_source(volume, plan), slicer.mrmlScene
        self._load(lambda on_main, progress: build_on_worker(scene, source, on_main, progress), done)

    def segment_volume(self, volume: Any, model: Any, done: Callable[[Any], None]) -> None:
        """Have a server segment a whole volume; ``done`` gets the segmentation.

        Errors: NotOfferedError where the backend has no volumes.
        """
        ended, failed = self._turn(done)
        self._loading = segment_volume(volume, self.backend, model, self.jobs, ended, failed)
        self.busy.emit(True)

    def _turn(self, done: Callable[[Any], None]) -> tuple[Callable[[Any], None], Callable[[Exception], None]]:
        """What follows the end of a long work that replaces the one before, whose end is of no interest any more."""
        self.cancel()
        self._turns += 1
        turn = self._turns

        def over() -> bool:
            if turn == self._turns:
                self._loading = None
                self.busy.emit(False)
            return turn == self._turns

        def ended(value: Any) -> None:
            if over():
                done(value)

        def failed(error: Exception) -> None:
            if over():
                self.failed.emit(error)

        return ended, failed

    def _load(self, read: Callable[..., Cine], done: Callable[[Cine], None]) -> None:
        def work(cancel: Cancel, progress: Callable[..., None]) -> Cine:
            return read(lambda ask: self.jobs.on_main(ask, cancel), progress)

        ended, failed = self._turn(done)
        self.busy.emit(True)
        self._loading = self.jobs.submit(work, ended, failed, self.progress.emit, group="load")

    def cancel(self) -> None:
        """Stop what reads and what segments."""
        if self._loading is not None:
            self.jobs.cancel(self._loading)
        if self.session is not None:
            self.session.cancel()

    def use(self, browser: Any) -> None:
        """Work on the cine of a browser; None: on nothing.

        Errors: NotACineError for a browser without images; then nothing is open.
        """
        same = browser is not None and self.cine is not None and self.cine.browser is browser
        if same:
            return
        self.leave()
        try:
            if browser is not None:
                self.cine = Cine(browser)
                self._observer = browser.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._moved())
                if find_sequence(self.cine) is not None:
                    self._keep(MaskStore.of(self.cine))
        finally:
            self._shown = -1
            self.cine_changed.emit()
            self._moved()

    def leave(self) -> None:
        """Stop the work on the cine in use and let go of it; it stays in the scene."""
        self._end_session()
        if self.store is not None:
            self.store.unwatch()
            self.store.changed.disconnect(self.mask_changed.emit)
        if self.cine is not None and self._observer is not None:
            self.cine.browser.RemoveObserver(self._observer)
        self.cine = self.store = self.session = self._observer = None

    def masks(self, labels: Sequence[str]) -> MaskStore:
        """The masks of the cine, made when first needed; labels that it lacks are added.

        Errors: NothingOpenError without a cine.
        """
        cine = self.the_cine()
        missing = [name for name in labels if self.store is None or name not in self.store.labels]
        if self.store is None:
            self._keep(MaskStore.of(cine, labels))
            self.cine_changed.emit()
        elif missing:
            for name in missing:
                self.store.add_label(name)
            self.cine_changed.emit()
        return self.store

    def the_cine(self) -> Cine:
        """Errors: NothingOpenError where none is chosen."""
        if self.cine is None:
            raise NothingOpenError("No cine is open: open a file, or choose a sequence in Source.")
        return self.cine

    def the_session(self, labels: Sequence[str] = ()) -> Session:
        """The session of the cine and its masks.

        Errors: NothingOpenError where there is no cine.
        """
        self.masks(labels)
        return self.session

    def go(self, index: int) -> None:
        """Put a frame on display; before the first and after the last it stays there."""
        cine = self.the_cine()
        cine.select(min(max(index, 0), cine.count - 1))

    def set_backend(self, backend: Any, models: Sequence[Any]) -> None:
        """Use a backend that answered; the one before is closed."""
        old, self.backend, self.models = self.backend, backend, list(models)
        self._end_session()
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if old is not None and old is not backend:
            old.close()
        client = getattr(backend, "client", None)
        if client is not None:
            self.connection = Connection(client, self.jobs)
            self.connection.lost.connect(lambda text: self.failed.emit(SegmentError(text)))
            self.connection.back.connect(lambda: self.said.emit("The server answers again."))
        self._renew()
        self.backend_changed.emit()
        self.models_changed.emit()

    def fetch_models(self) -> None:
        """Ask the backend anew what it offers, after a training say."""
        backend = self.backend

        def fetched(models: list[Any]) -> None:
            if backend is self.backend:
                self.models = models
                if self.session is not None:
                    self.session.models = {model.id: model for model in models}
                self.models_changed.emit()

        if backend is not None:
            self.jobs.submit(lambda cancel, _: backend.models(cancel), fetched, self.failed.emit, group="models")

    def models_of(self, kind: str) -> list[Any]:
        """Models of a kind: "segmentation" or "interactive"."""
        return [model for model in self.models if model.kind == kind]

    def set_annotator(self, name: str) -> None:
        """Who draws and accepts from now on."""
        if name == self.annotator:
            return
        self.annotator = name
        client = getattr(self.backend, "client", None)
        if client is not None:
            client.annotator = as_name(name)
        if self.session is not None:
            self.session.annotator = name
        if self.store is not None:
            self.store.watch(name)

    def close(self) -> None:
        """Stop everything; nothing is waited for."""
        self.leave()
        if self.connection is not None:
            self.connection.close()
        if self.backend is not None:
            self.backend.close()
        self.jobs.close()

    def _keep(self, store: MaskStore) -> None:
        self.store = store
        store.changed.connect(self.mask_changed.emit)
        store.watch(self.annotator)
        self._renew()

    def _renew(self) -> None:
        self._end_session()
        if self.cine is None or self.store is None:
            return
        self.session = Session(
            self.cine, self.store, self.backend, self.jobs, annotator=self.annotator, connection=self.connection
        )
        self.session.models = {model.id: model for model in self.models}
        self.session.progress.connect(self.progress.emit)
        self.session.failed.connect(self.failed.emit)
        self.session.said.connect(self.said.emit)
        self.session.busy.connect(self.busy.emit)

    def _end_session(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            session.close()
            self.busy.emit(False)

    def _moved(self) -> None:
        index = self.cine.selected if self.cine is not None else -1
        if index != self._shown:
            self._shown = index
            self.frame_changed.emit(index)
