"""Embeds every frame in the background, and keeps what strategies need: no request waits for any of it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.acquire.features import summarise
from sonodistill.annotate.acquire.learner import Learner
from sonodistill.annotate.acquire.network import Network, Source, open_source, source_of
from sonodistill.annotate.acquire.store import EmbeddingStore, Shape, kept_shape
from sonodistill.annotate.acquire.taken import Limits
from sonodistill.annotate.acquire.view import View, ViewMaker, empty_view
from sonodistill.annotate.acquire.walk import Sampling, Walk
from sonodistill.annotate.errors import UnreachableError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Catalogue, Item
from sonodistill.errors import SonoDistillError
from sonodistill.transforms.geometry import to_input

if TYPE_CHECKING:
    from sonodistill.annotate.training.versions import Versions

logger = logging.getLogger(__name__)

_BATCH = 8
_NICE = 10
_POLL, _RETRY, _REFRESH = 1.0, 10.0, 60.0  # seconds
_LONGEST_PAUSE = 2.0
_PUBLISH = 2.0
_CLOSE = 60.0
_KEPT_STORES = 2

Batch = list[tuple[FrameId, NDArray[np.float32]]]


class Embedder:
    """One thread of low priority that embeds frames, fits the ensemble when labels changed, and publishes both.

    Embeddings are kept by the weights they were computed with. When another "embedding" model is promoted, frames are
    embedded anew, and the old view stays until the new one is as large. Of segmenters, where there is no such model,
    the one that is promoted when the thread starts is used.

    Args:
        catalogue: of the frames.
        labels: that the ensemble learns from.
        folder: of the embeddings.
        versions: model -> its versions.
        seed: of the order, of untrained weights, of the ensemble.
        sampling: which frames of a file.
        limits: of frames of one file.

    Attributes:
        view: what was published last; replaced, never changed.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        labels: LabelStore,
        folder: Path,
        versions: Mapping[str, Versions],
        seed: int,
        sampling: Sampling,
        limits: Limits,
    ) -> None:
        self._catalogue, self._folder, self._versions, self._seed = catalogue, folder, versions, seed
        self._walk, self._learner = Walk(catalogue, sampling, seed), Learner(labels, seed)
        self._limits = limits
        self._stop, self._idle, self._busy = threading.Event(), threading.Condition(), 0
        self._thread: threading.Thread | None = None
        self._source = Source("", "", "")
        self._network: tuple[Network, tuple[int, int]] | None = None
        self._store: EmbeddingStore | None = None
        self._maker: ViewMaker | None = None
        self._shown: tuple[Any, ...] = ()
        self._publish_at, self._refresh_at = 0.0, time.monotonic() + _REFRESH
        self._working, self._error = False, ""
        self._marks: deque[tuple[float, int]] = deque(maxlen=64)
        self.view: View = empty_view()

    def start(self) -> None:
        """Begin; once."""
        if self._thread is None:
            self._working = True
            self._thread = threading.Thread(target=self._run, name="sonodistill-embed", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread, after the batch in hand."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_CLOSE)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While somebody waits for an answer: the thread pauses after the batch in hand, for two seconds at most."""
        with self._idle:
            self._busy += 1
        try:
            yield
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    @property
    def running(self) -> bool:
        """Whether frames are embedded just now."""
        return self._working and self._thread is not None and self._thread.is_alive()

    @property
    def unfinished(self) -> bool:
        """Whether the view lacks frames that it will have, also while an error makes a pause."""
        return self.running or self._walk.embedded < self._walk.total

    def progress(self) -> dict[str, Any]:
        """How far it is; see ``Acquisition.progress``."""
        walk, source = self._walk, self._source
        return {
            "embedded": walk.embedded,
            "total": walk.total,
            "running": self.running,
            "eta_seconds": self._eta(),
            "error": self._error,
            "model": source.name,
            "trained": source.path is not None,
            "learned": self._learner.labelled,
            "skipped": [list(one) for one in walk.failed()],
        }

    def _eta(self) -> float | None:
        left, marks = self._walk.total - self._walk.embedded, list(self._marks)
        if left <= 0 and not self._working:
            return 0.0
        if len(marks) < 2 or marks[-1][1] <= marks[0][1]:
            return None
        return round(left * (marks[-1][0] - marks[0][0]) / (marks[-1][1] - marks[0][1]), 1)

    def _run(self) -> None:
        _lower_priority()
        try:
            while not self._stop.is_set():
                pause, done = _POLL, True
                try:
                    done = self._pass()
                    self._error = ""
                except Exception as error:  # the thread goes on, whatever a library raises
                    logger.warning("embedding pauses: %s", type(error).__name__, exc_info=_is_fault(error))
                    # The text of any other error may name files of this machine.
                    self._error, pause = str(getattr(error, "message", type(error).__name__))[:300], _RETRY
                    self._walk.again()
                self._working = not done
                self._stop.wait(pause)
        finally:
            if self._store is not None:
                self._store.close()

    def _pass(self) -> bool:
        """Embed what is missing, until something comes first: then the next pass does that, and this one is False."""
        done = True
        self._follow_versions()
        self._refresh()
        self._learner.look()
        if self._walk.changed(self._learner.frames):
            todo = self._walk.look(self._learner.frames)
            self._working = self._working or bool(todo)
            done = self._embed_all(todo)
            if done:
                _prune(self._folder)
        self._publish(finished=True)
        return done

    def _embed_all(self, todo: Sequence[tuple[Item, list[int]]]) -> bool:
        """Whether all of it was embedded."""
        self._marks.clear()
        wanted = self._learner.frames
        batch: Batch = []
        for item, indices in todo:
            for id, frame in self._walk.frames(item, indices):
                batch.append((id, to_input(frame.image, self._opened()[1])))
                if len(batch) == _BATCH:
                    self._embed(batch)
                    batch = []
                if self._stop.is_set():
                    return False
            self._learner.look()
            if any(not self._walk.has(frame) for frame in self._learner.frames - wanted):
                break  # what was labelled meanwhile comes first
        else:
            self._embed(batch)
            return True
        self._embed(batch)
        return False

    def _opened(self) -> tuple[Network, tuple[int, int]]:
        if self._network is None:
            self._network = open_source(self._source, self._seed)
        return self._network

    def _embed(self, batch: Batch) -> None:
        if not batch:
            return
        self._give_way()
        vectors, maps = summarise(self._opened()[0](np.stack([image for _, image in batch])))
        if not (np.isfinite(vectors).all() and np.isfinite(maps).all()):
            raise SonoDistillError("the encoder's features are not numbers", remedy="promote another version of it")
        shape = Shape(vectors.shape[1], *maps.shape[1:])
        store = self._store if self._store and self._store.shape == shape else self._use(shape)
        keys = [self._walk.key(id) for id, _ in batch]
        store.append(keys, vectors, maps)
        self._walk.done(keys)
        self._marks.append((time.monotonic(), self._walk.embedded))
        self._publish()

    def _follow_versions(self) -> None:
        source = source_of(self._versions, self._seed)
        if not source.replaces(self._source):
            return
        self._working = True  # before the source has its new name, so that nobody takes it for finished
        self._source, self._network = source, None
        self._leave()
        shape = kept_shape(self._folder / source.key)
        if shape is not None:
            self._use(shape)

    def _leave(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._maker = None
        self._learner.forget()
        self._walk.begin([])

    def _use(self, shape: Shape) -> EmbeddingStore:
        """Go on with what is kept of the source, where it has this shape."""
        self._leave()
        store = EmbeddingStore(self._folder / self._source.key, shape)
        self._store, self._maker = store, ViewMaker(store, self._limits)
        self._walk.begin(store.keys)
        return store

    def _refresh(self) -> None:
        if time.monotonic() >= self._refresh_at:
            self._refresh_at = time.monotonic() + _REFRESH
            with suppress(UnreachableError):  # what is listed can be embedded all the same
                self._catalogue.refresh()

    def _publish(self, finished: bool = False) -> None:
        """Fit and publish what is new; not all the time while frames are embedded."""
        began = time.monotonic()
        if self._store is None or self._maker is None or (began < self._publish_at and not finished):
            return
        if not finished:
            self._learner.look()
        self._learner.fit(self._store, self._walk.items)
        shown = (self._maker, len(self._store), self._walk.looks, self._learner.frames, self._learner.ensemble)
        if shown == self._shown:
            return
        view = self._maker.make(
            self._walk.is_current, self._learner.frames, self._learner.ensemble, lambda: self._give_way()
        )
        if finished or len(view.frames) >= len(self.view.frames):
            self.view = view
        self._shown = shown
        self._publish_at = time.monotonic() + max(_PUBLISH, 10 * (time.monotonic() - began))

    def _give_way(self) -> None:
        until = time.monotonic() + _LONGEST_PAUSE
        with self._idle:
            while self._busy and not self._stop.is_set() and time.monotonic() < until:
                self._idle.wait(0.05)


def _lower_priority() -> None:
    """Of this thread alone, where the system has such a thing."""
    with suppress(AttributeError, OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _is_fault(error: Exception) -> bool:
    return not isinstance(error, SonoDistillError)


def _prune(folder: Path) -> None:
    """Remove what was computed with weights of long ago: all but the two folders that were used last."""
    stores = sorted(folder.glob("*/"), key=lambda path: path.stat().st_mtime)
    for path in stores[:-_KEPT_STORES]:
        shutil.rmtree(path, ignore_errors=True)
