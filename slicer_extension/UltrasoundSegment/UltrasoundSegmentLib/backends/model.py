"""What a backend is: models, prompts, results, cancelling, and the Protocol that the three backends follow."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from UltrasoundSegmentLib.errors import Cancelled, SegmentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from UltrasoundSegmentLib.frames.frame import Frame

logger = logging.getLogger(__name__)

SEGMENTATION = "segmentation"
INTERACTIVE = "interactive"
CLASSIFICATION = "classification"

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class BackendError(SegmentError):
    """A backend could not do what it was asked to; the next thing it is asked may work."""


class NotOfferedError(BackendError):
    """The backend has no such ability, and says what has."""


class ServerLostError(BackendError):
    """The server does not answer. ``retry_s``: after how many seconds it is asked again."""

    def __init__(self, message: str, retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_s = retry_s


@dataclass(frozen=True)
class Model:
    """A model of a backend.

    Attributes:
        id: what the backend calls it.
        kind: "segmentation", "interactive" or "classification".
        labels: names of the label numbers 1, 2, ...; empty where the model knows none (clicks).
    """

    id: str
    kind: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """What a person drew on a frame, in its pixels: x to the right, y down, (0, 0) the middle of the first pixel.

    Attributes:
        positive, negative: points inside and outside of the structure.
        box: x0, y0, x1, y1 around it, or None.
        scribbles: polylines inside of it; ``negative_scribbles`` outside.
        label: the label number that is drawn.
    """

    positive: tuple[Point, ...] = ()
    negative: tuple[Point, ...] = ()
    box: Box | None = None
    scribbles: tuple[tuple[Point, ...], ...] = ()
    negative_scribbles: tuple[tuple[Point, ...], ...] = ()
    label: int = 1

    @property
    def empty(self) -> bool:
        return not (self.positive or self.negative or self.box or self.scribbles or self.negative_scribbles)


@dataclass(frozen=True)
class Result:
    """What a model says of a frame.

    Attributes:
        mask: (H, W) uint8 label numbers in the order of the model's labels, 0 background.
        confidence: 0 to 1, or None where the model says none.
        model: id of the model, with its version where it is known.
        info: further values, such as the class of a classification or the time it took.
        unfamiliarity: above 1 for a frame unlike those that the model was made for; None where the model does not say.
    """

    mask: NDArray[np.uint8]
    confidence: float | None = None
    model: str = ""
    info: dict[str, Any] = field(default_factory=dict)
    unfamiliarity: float | None = None


class Cancel:
    """The wish to stop, given by one thread and asked for by another."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Errors: Cancelled."""
        if self._event.is_set():
            raise Cancelled

    def wait(self, seconds: float) -> bool:
        """Sleep until then or until it is cancelled; whether it is."""
        return self._event.wait(seconds)

    def cancel(self) -> None:
        """Once; listeners are called in the thread that cancels, and have to be quick."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            listeners = list(self._listeners)
        for listener in listeners:
            self._tell(listener)

    def connect(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when it is cancelled; at once when it was."""
        with self._lock:
            if not self._event.is_set():
                self._listeners.append(listener)
                return
        self._tell(listener)

    def disconnect(self, listener: Callable[[], None]) -> None:
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    @staticmethod
    def _tell(listener: Callable[[], None]) -> None:
        try:
            listener()
        except Exception:
            logger.exception("A listener of a cancel failed.")


@runtime_checkable
class Backend(Protocol):
    """Called from one worker thread at a time, never from the GUI's; each call may take long and heeds ``cancel``.

    Errors of each call: Cancelled; SegmentError, with what to do.
    """

    name: str

    def models(self, cancel: Cancel) -> list[Model]:
        """What is offered now."""
        ...

    def segment(self, frame: Frame, model: str, cancel: Cancel) -> Result:
        """The mask of a frame. Args: model: id of a segmentation model."""
        ...

    def refine(
        self, frame: Frame, prompts: Prompts, previous: NDArray[np.uint8] | None, model: str, cancel: Cancel
    ) -> Result:
        """The mask of one label from prompts.

        Args:
            previous: (H, W) uint8, the label numbers so far; the result differs from it in ``prompts.label`` only.
        """
        ...

    def propagate(
        self,
        frames: Sequence[Frame],
        mask: NDArray[np.uint8],
        model: str,
        cancel: Cancel,
        on_result: Callable[[int, Result], None],
    ) -> str:
        """Carry a mask on through frames.

        Args:
            frames: the one that ``mask`` belongs to, then those to carry it to, in this order (backward as well).
            on_result: told the index in the cine and the result of each frame, in the thread of this call.

        Returns: why it stopped; "" when it went through.
        """
        ...

    def close(self) -> None:
        """Give up what is held; waits for nothing."""
        ...
