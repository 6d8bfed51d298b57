"""The strip along the frame slider: one bar a frame, its height and colour the state of its mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _
from UltrasoundSegmentLib.signal import Signal

COLOURS = {
    "empty": "#DDDDDD",
    "predicted": "#56B4E9",
    "propagated": "#E69F00",
    "edited": "#CC79A7",
    "accepted": "#009E73",
    "skipped": "#555555",
}
"""Told apart by people of any colour vision (Okabe and Ito's palette), and by their heights."""

HEIGHTS = {"empty": 0.15, "skipped": 0.3, "predicted": 0.45, "propagated": 0.6, "edited": 0.8, "accepted": 1.0}

_ORDER = ("empty", "accepted", "skipped", "edited", "propagated", "predicted")
"""Where many frames share a pixel, the last of these is shown: what still wants a look."""


def names() -> dict[str, str]:
    """What the states are called."""
    return {
        "empty": _("empty"),
        "predicted": _("predicted"),
        "propagated": _("propagated"),
        "edited": _("edited"),
        "accepted": _("accepted"),
        "skipped": _("skipped"),
    }


def legend() -> str:
    """Rich text: each colour and its name."""
    shown = names()
    parts = [f'<span style="color:{COLOURS[s]}">&#9608;</span>&nbsp;{shown[s]}' for s in COLOURS]
    return " &nbsp; ".join(parts)


class StatusStrip(qt.QWidget):
    """Shows the state of every frame; a click goes to it.

    Attributes:
        chosen: Signal(index), the user clicked on a frame.
        describe: gives the text of a frame's tooltip.
    """

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        qt.QWidget.__init__(self, parent)
        self.chosen = Signal()
        self.describe: Callable[[int], str] = lambda _: ""
        self._statuses: list[str] = []
        self._selected = -1
        self.setMinimumHeight(22)
        self.setMaximumHeight(22)
        self.setMouseTracking(True)
        self.setAccessibleName(_("State of the frames"))

    def setStatuses(self, statuses: Sequence[str]) -> None:
        self._statuses = list(statuses)
        self.update()

    def setStatus(self, index: int, status: str) -> None:
        if 0 <= index < len(self._statuses) and self._statuses[index] != status:
            self._statuses[index] = status
            self.update()

    def setSelected(self, index: int) -> None:
        if index != self._selected:
            self._selected = index
            self.update()

    def statusAt(self, index: int) -> str:
        return self._statuses[index]

    def frameAt(self, x: int) -> int | None:
        """Frame at a horizontal position in pixels."""
        count, width = len(self._statuses), max(self.width, 1)
        return min(max(int(x * count / width), 0), count - 1) if count else None

    def mousePressEvent(self, event: qt.QMouseEvent) -> None:
        index = self.frameAt(event.pos().x())
        if index is not None:
            self.chosen.emit(index)

    def mouseMoveEvent(self, event: qt.QMouseEvent) -> None:
        index = self.frameAt(event.pos().x())
        if index is None:
            return
        self.setToolTip(self.describe(index))
        if event.buttons() & qt.Qt.LeftButton:
            self.chosen.emit(index)

    def paintEvent(self, _event: qt.QPaintEvent) -> None:
        painter = qt.QPainter(self)
        width, height, count = self.width, self.height, len(self._statuses)
        painter.fillRect(0, 0, width, height, qt.QColor("#FFFFFF"))
        columns = min(count, width)
        for column in range(columns):
            first, last = column * count // columns, max((column + 1) * count // columns, column * count // columns + 1)
            status = max(self._statuses[first:last], key=_ORDER.index)
            left, right = column * width // columns, (column + 1) * width // columns
            gap = 1 if right - left > 3 else 0
            tall = max(round(HEIGHTS[status] * height), 2)
            painter.fillRect(left, height - tall, right - left - gap, tall, qt.QColor(COLOURS[status]))
        if 0 <= self._selected < count:
            left, right = self._selected * width // count, (self._selected + 1) * width // count
            painter.setPen(qt.QColor("#000000"))
            painter.drawRect(left, 0, max(right - left - 1, 2), height - 1)
        painter.end()
