"""Long work on the scene in short pieces: MRML belongs to the GUI's thread, which may not be kept waiting."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import qt
from UltrasoundSegmentLib.errors import SegmentError

logger = logging.getLogger(__name__)

PIECE_S = 0.02


class Tasks:
    """Runs one generator at a time, some of it at each turn of the event loop."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._work: Iterator[Any] | None = None
        self._done: Callable[[], None] | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(0)
        self._timer.connect("timeout()", self._piece)

    @property
    def busy(self) -> bool:
        return self._work is not None

    def start(self, work: Iterator[Any], what: str, done: Callable[[], None] | None = None) -> None:
        """Begin; what was under way is dropped.

        Args:
            work: yields wherever it may be interrupted.
            what: for the log.
            done: called when it went through.
        """
        logger.debug("%s", what)
        self._work, self._done = work, done
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()
        work, self._work = self._work, None
        if work is not None and hasattr(work, "close"):
            work.close()

    def _piece(self) -> None:
        until = time.monotonic() + PIECE_S
        try:
            while self._work is not None and time.monotonic() < until:
                next(self._work)
        except StopIteration:
            self._timer.stop()
            self._work = None
            if self._done is not None:
                self._done()
        except Exception as error:
            self._timer.stop()
            self._work = None
            if not isinstance(error, SegmentError):
                logger.exception("A piece of work failed.")
            self._failed(error)
