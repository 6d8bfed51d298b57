"""Segmenting a cine with a backend: one frame, a range, prompts, propagation; only people accept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends.model import CLASSIFICATION, Backend, Cancel, Model, Prompts, Result
from UltrasoundSegmentLib.drawing import Drawing
from UltrasoundSegmentLib.errors import Cancelled, SegmentError
from UltrasoundSegmentLib.frames_on_demand import FramesOnDemand, check_inside, cropped, cut, moved, pasted
from UltrasoundSegmentLib.jobs import FIRST, Jobs
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.signal import Signal
from UltrasoundSegmentLib.tasks import Task

if TYPE_CHECKING:
    from UltrasoundSegmentLib.backends.connection import Connection
    from UltrasoundSegmentLib.frames.cine import Cine
    from UltrasoundSegmentLib.masks.store import MaskStore

UNSURE_BELOW = 0.8
UNLIKE = "unlike the frames this model was made for"
_NAMED = 8
"""Frames that a line names by their numbers."""
_REFINE = "refine"
_AT_ONCE = 2
"""Frames that are read ahead of the one that is computed."""


class Session:
    """A cine, its masks and who segments it. Used in the main thread; nothing in it waits.

    Args:
        annotator: the person who works.
        connection: of a server, told when it does not answer.

    Attributes:
        progress: Signal(done, total, text), from half a second after the beginning of what takes longer.
        failed: Signal(error), a SegmentError or what was not foreseen; a server that is lost is told by the connection.
        said: Signal(text): why a propagation stopped, what a classification found, which frames were left alone.
        changed: Signal(index), a mask or status.
        busy: Signal(bool).
        models: by id, what the backend offers; see ``fetch_models``.
    """

    def __init__(
        self,
        cine: Cine,
        store: MaskStore,
        backend: Backend,
        jobs: Jobs,
        *,
        annotator: str = "",
        connection: Connection | None = None,
    ) -> None:
        self.cine, self.store, self.backend, self.jobs = cine, store, backend, jobs
        self.annotator, self.connection = annotator, connection
        self.progress, self.failed, self.said = Signal(), Signal(), Signal()
        self.changed, self.busy = Signal(), Signal()
        self.models: dict[str, Model] = {}
        self._tasks: list[Task] = []
        self._drawing = Drawing(store)
        store.changed.connect(self.changed.emit)
        self._bind()

    @property
    def is_busy(self) -> bool:
        return bool(self._tasks)

    def fetch_models(self, done: Callable[[list[Model]], None] | None = None) -> None:
        """Ask the backend what it offers."""

        def fetched(models: list[Model]) -> None:
            self.models = {model.id: model for model in models}
            if done is not None:
                done(models)

        task = self._task("Asking for models")
        task.submit(lambda cancel, _: self.backend.models(cancel), fetched)
        task.end_when_empty()

    def segment(self, indices: Iterable[int], model: str) -> None:
        """Predict frames; those that a person labelled are left as they are."""
        wanted = [index for index in indices if not self.store.status(index).by_person]
        task = self._task("Segmenting", len(wanted))
        waiting = iter(wanted)
        unlike: list[int] = []

        def next_frame() -> None:
            index = next(waiting, None)
            if index is None:
                task.end_when_empty()
                return
            frame, region = self._frame(index)

            def segmented(result: Result) -> None:
                self._segmented(task, index, result, model, region, next_frame)
                if (result.unfamiliarity or 0) > 1:
                    self._warn(index, unlike)

            task.submit(lambda cancel, _: self.backend.segment(frame, model, cancel), segmented)

        try:
            for _ in range(_AT_ONCE):
                next_frame()
        except SegmentError as error:
            task.fail(error)

    def refine(self, index: int, prompts: Prompts, model: str = "interactive") -> None:
        """What a person drew on a frame, all of it each time; the answer is theirs, EDITED. The newest counts.

        Errors: SegmentError for prompts beside the frame or its region.
        """
        frame, region = self._frame(index)
        height, width = frame.image.shape
        check_inside(prompts, region or (0, 0, width, height))
        previous = self._drawing.goes_on_from(index, prompts)
        before = previous if region is None else cropped(previous, region)
        inside = prompts if region is None else moved(prompts, region)
        task = self._task("Refining", 1)
        seen = self.store.info(index)["time"]

        def refined(result: Result) -> None:
            if self.store.info(index)["time"] not in (seen, self._drawing.wrote):
                self._tell(f"Frame {index + 1} was changed meanwhile: the answer to the prompts was dropped.")
                return
            mask = pasted(result.mask, region, previous)
            self.store.write(index, mask, Status.EDITED, annotator=self.annotator, model=result.model)
            self._drawing.wrote = self.store.info(index)["time"]

        task.submit(
            lambda cancel, _: self.backend.refine(frame, inside, before, model, cancel),
            refined,
            group=_REFINE,
            priority=FIRST,
        )
        task.end_when_empty()

    def end_prompts(self, *, undo: bool = False) -> None:
        """The prompts of a frame are done with; ``undo`` brings back what was there before the first of them.

        What was drawn by hand since stays.
        """
        if undo:
            self.jobs.cancel_all(_REFINE)
            self._tell("The frame was drawn on since: it stays as it is." if self._drawing.drawn_over else "")
        self._drawing.end(undo=undo)

    def _decided(self, index: int, status: Status) -> None:
        self.jobs.cancel_all(_REFINE)
        self.end_prompts()
        self.store.mark(index, status, self.annotator)

    def propagate(self, index: int, count: int, direction: int = 1, model: str = "interactive") -> None:
        """Carry the mask of a frame to ``count`` frames after it (direction 1) or before it (-1).

        It stops where the backend does not trust it, and before a frame that a person labelled. Errors: SegmentError
        for a frame without a mask, or without a next one.
        """
        mask = self.store.mask(index)
        if not mask.any() or not self.store.status(index).has_mask:
            raise SegmentError(f"Frame {index + 1} has no mask to carry on: segment it first.")
        step = 1 if direction >= 0 else -1
        reach = range(index, self.cine.count)[: count + 1] if step > 0 else range(index, -1, -1)[: count + 1]
        free = [reach[0], *_until_a_person(reach[1:], self.store)]
        if len(free) < 2:
            raise SegmentError(
                f"There is nothing to carry it to: frame {index + 1} is the last one, or a label follows."
            )
        task = self._task("Propagating", len(free) - 1)
        region = self._region()
        inside = mask if region is None else cropped(mask, region)
        ended = (
            "" if len(free) == len(reach) else f"Stopped before frame {reach[len(free)] + 1}, which a person labelled."
        )

        def work(cancel: Cancel, progress: Callable[..., None]) -> str:
            frames = FramesOnDemand(lambda at: self._frame(at)[0], free, self.jobs, cancel)
            return self.backend.propagate(frames, inside, model, cancel, progress)

        def carried(at: int, result: Result) -> None:
            whole = pasted(result.mask, region, np.zeros_like(mask))
            said = {"confidence": result.confidence, "unfamiliarity": result.unfamiliarity}
            self.store.write(at, whole, Status.PROPAGATED, model=result.model, **said)
            task.step()

        task.submit(work, lambda why: self._tell(why or ended), carried)
        task.end_when_empty()

    def accept(self, index: int) -> None:
        """The person says that the mask on display is right, be it empty; an answer under way comes too late."""
        self._decided(index, Status.ACCEPTED)

    def skip(self, index: int) -> None:
        """The person says that the frame is not to be labelled."""
        self._decided(index, Status.SKIPPED)

    def next_uncertain(self, from_index: int) -> int | None:
        """The next proposal after a frame, and then from the start, of which the model is unsure; None: nothing waits.

        Unsure is a confidence below ``UNSURE_BELOW``, or none. Where all are sure, it is the least sure of them.
        """
        waiting = {
            index: self.store.info(index)["confidence"]
            for index, status in enumerate(self.store.statuses())
            if status.by_model and index != from_index
        }
        unsure = [index for index, value in waiting.items() if value is None or value < UNSURE_BELOW]
        if unsure:
            return min(unsure, key=lambda index: (index - from_index) % self.cine.count)
        return min(waiting, key=lambda index: (waiting[index], index), default=None)

    def cancel(self) -> None:
        """Stop everything that was begun here; what is there stays."""
        for task in list(self._tasks):
            task.cancel()

    def close(self) -> None:
        self.cancel()
        self.store.changed.disconnect(self.changed.emit)

    def _bind(self) -> None:
        """Tell a server whether the cine is its own."""
        bind = getattr(self.backend, "bind", None)
        if bind is not None:
            item, server = self.cine.attribute("item"), self.cine.attribute("server")
            bind(item if item and server == self.backend.client.url else "")  # type: ignore[attr-defined]

    def _region(self) -> tuple[int, int, int, int] | None:
        """The crop, of frames that are not the server's own, which it has whole."""
        return None if getattr(self.backend, "item", "") else self.cine.region

    def _frame(self, index: int) -> tuple[Any, tuple[int, int, int, int] | None]:
        region = self._region()
        return cut(self.cine.frame(index), region), region

    def _segmented(
        self,
        task: Task,
        index: int,
        result: Result,
        model: str,
        region: tuple[int, int, int, int] | None,
        following: Callable[[], None],
    ) -> None:
        known = self.models.get(model)
        try:
            if known is not None and known.kind == CLASSIFICATION:
                self._tell(f"Frame {index + 1}: {result.info.get('prediction', 'no class')}")
            else:
                shape = self.cine.frame(index).image.shape
                mask = pasted(result.mask, region, np.zeros(shape, np.uint8))
                mask = self._renumbered(mask, known.labels if known else ())
                said = {"confidence": result.confidence, "unfamiliarity": result.unfamiliarity}
                self.store.write(index, mask, Status.PREDICTED, model=result.model, **said)
        except SegmentError as error:
            task.fail(error)
            return
        task.step()
        following()

    def _warn(self, index: int, unlike: list[int]) -> None:
        """One line of all the frames of a request so far; ``unlike`` are those before, to which this one is added."""
        unlike.append(index + 1)
        if len(unlike) == 1:
            self._tell(f"Frame {index + 1} is {UNLIKE}: look closely at its mask.")
        else:
            named = ", ".join(map(str, sorted(unlike)[:_NAMED])) + (" ..." if len(unlike) > _NAMED else "")
            self._tell(f"{len(unlike)} frames are {UNLIKE}: {named}. Look closely at their masks.")

    def _renumbered(self, mask: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
        """The model's label numbers as the store's, by name; a label that the store lacks is added when it is drawn."""
        numbers = np.arange(256, dtype=np.uint8)
        for number, name in enumerate(names, 1):
            known = self.store.labels
            if name in known:
                numbers[number] = known.index(name) + 1
            elif (mask == number).any():
                numbers[number] = self.store.add_label(name)
        return numbers[mask]

    def _task(self, text: str, total: int = 0) -> Task:
        task = Task(
            self.jobs,
            text,
            total,
            progress=self.progress.emit,
            good=self._succeeded,
            bad=self._failed,
            ended=self._ended,
        )
        self._tasks.append(task)
        if len(self._tasks) == 1:
            self.busy.emit(True)
        return task

    def _ended(self, task: Task) -> None:
        if task in self._tasks:
            self._tasks.remove(task)
            if not self._tasks:
                self.busy.emit(False)

    def _tell(self, text: str) -> None:
        if text:
            self.said.emit(text)

    def _succeeded(self) -> None:
        if self.connection is not None:
            self.connection.noted()

    def _failed(self, error: Exception) -> None:
        if not isinstance(error, Cancelled) and (self.connection is None or self.connection.note(error)):
            self.failed.emit(error)


def _until_a_person(indices: Iterable[int], store: MaskStore) -> list[int]:
    """The frames before the first that a person labelled; skipped ones are gone through, and stay as they are."""
    free = []
    for index in indices:
        if store.status(index) in (Status.EDITED, Status.ACCEPTED):
            break
        free.append(index)
    return free
