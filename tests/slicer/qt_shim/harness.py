"""The panel of the module on the real MRML core, with helpers that let its event loop run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtWidgets

from .application import installed, make_widget

EXTENSION = Path(__file__).resolve().parents[3] / "slicer_extension"
MODULES = [EXTENSION / "UltrasoundSegment", EXTENSION / "SegmentEditorUltrasound"]
LIMIT_S = 0.05


class Panel:
    """The widget of the module, its application, and its event loop."""

    def __init__(self, widget: Any, application: Any) -> None:
        self.widget, self.application = widget, application
        self.ui, self.desk = widget.ui, widget.desk

    @property
    def parameters(self) -> Any:
        return self.widget.parameters()

    def draw(self, tool: str, *points: tuple[float, float]) -> None:
        """Place points of a prompt at pixels of the frame on display."""
        getattr(self.ui, f"{tool}Button").click()
        node = self.widget.segment.prompt_nodes.node(tool)
        cine = self.desk.cine
        for x, y in points:
            ras = cine.frame(cine.selected).ijk_to_ras @ [x, y, 0, 1]
            node.AddControlPointWorld(*ras[:3])

    def cine(self, frames: int | None = None) -> Any:
        """The synthetic cine, opened as the user would; its first frames."""
        from UltrasoundSegmentLib.frames.cine import Cine
        from UltrasoundSegmentWidgets import sample_data

        if frames is not None:
            before, sample_data.FRAMES = sample_data.FRAMES, frames
        try:
            images = sample_data.make_cine()
        finally:
            if frames is not None:
                sample_data.FRAMES = before
        self.parameters.browser = Cine.of_sequence(images).browser
        return self.desk.cine

    def connect(self, backend: Any) -> None:
        """A backend that answered, as after Connect."""
        self.desk.set_backend(backend, backend.models(None))

    def run(self, until: Callable[[], bool], seconds: float = 10.0) -> None:
        """Let the event loop run until something holds."""
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, f"not within {seconds} s; the panel says: {self.ui.messageLabel.text!r}"
            QtWidgets.QApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, 5)
            time.sleep(0.001)

    def idle(self, seconds: float = 10.0) -> None:
        """Let it run until nothing is under way."""
        self.run(lambda: not self.desk.jobs.busy, seconds)


@contextmanager
def panel(scene: Any, temporary: Path) -> Iterator[Panel]:
    """The panel of UltrasoundSegment, shown and entered; ended in the end."""
    import slicer

    with installed(slicer, MODULES, temporary) as application:
        widget = make_widget("UltrasoundSegment")
        widget.parent.resize(520, 1100)
        widget.parent.show()
        widget.enter()
        made = Panel(widget, application)
        try:
            yield made
        finally:
            widget.exit()
            widget.cleanup()
            made.desk.jobs.join(5)
            widget.parent.close()


class Watchdog:
    """Measures how long the GUI thread is away from its event loop: a timer of 0 ms notes the gaps between its turns.

    Attributes:
        longest: seconds of the longest gap by the thread's processor time, which other programs do not lengthen.
        longest_wall: by the clock, which tells of waiting as well.
    """

    def __init__(self) -> None:
        self.longest = self.longest_wall = 0.0
        self._timer = QtCore.QTimer()
        self._timer.setInterval(0)
        self._timer.timeout.connect(self._turn)
        self._last: tuple[float, float] | None = None

    def _turn(self) -> None:
        now = time.thread_time(), time.perf_counter()
        if self._last is not None:
            self.longest = max(self.longest, now[0] - self._last[0])
            self.longest_wall = max(self.longest_wall, now[1] - self._last[1])
        self._last = time.thread_time(), time.perf_counter()

    def __enter__(self) -> Watchdog:
        self._timer.start()
        QtWidgets.QApplication.processEvents()
        self.longest = self.longest_wall = 0.0
        self._last = time.thread_time(), time.perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self._turn()
        self._timer.stop()
