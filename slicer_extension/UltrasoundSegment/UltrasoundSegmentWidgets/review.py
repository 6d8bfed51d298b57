"""Review: the strip and the slider of the frames, and the decisions of the person who looks."""

from __future__ import annotations

from typing import Any

import qt
from slicer.i18n import tr as _

from .panel import Panel, coloured
from .strip import StatusStrip, legend, names


class ReviewPanel(Panel):
    """Shows where every frame stands, goes from one to another, and keeps what is accepted or skipped."""

    def setup(self) -> None:
        ui, desk = self.ui, self.desk
        self._strip()
        for button, action in (
            (ui.previousButton, lambda: self.step(-1)),
            (ui.nextButton, lambda: self.step(1)),
            (ui.acceptButton, self.accept),
            (ui.skipButton, self.skip),
            (ui.uncertainButton, self.next_uncertain),
        ):
            self.on(button, "clicked()", action)
        self.on(ui.frameSlider, "valueChanged(int)", lambda: desk.cine and desk.go(ui.frameSlider.value))
        desk.cine_changed.connect(self.show_cine)
        desk.frame_changed.connect(self.show_frame)
        desk.mask_changed.connect(self.show_mask)
        self.show_cine()

    def _strip(self) -> None:
        box = qt.QVBoxLayout(self.ui.stripFrame)
        box.setContentsMargins(0, 0, 0, 0)
        self.strip = StatusStrip(self.ui.stripFrame)
        self.strip.chosen.connect(lambda index: self.desk.go(index))
        self.strip.describe = self.describe
        box.addWidget(self.strip)
        self.legend = qt.QLabel(self.ui.stripFrame)
        self.legend.setText(legend())
        box.addWidget(self.legend)
        self.ui.stripFrame.setMinimumHeight(box.minimumSize().height())

    def session(self) -> Any:
        """The session; where there are no masks yet, they are made with the structures of the field, or with one."""
        return self.desk.the_session(self.labels() or ([] if self.desk.store else [_("structure")]))

    def step(self, by: int) -> None:
        self.desk.go(self.desk.the_cine().selected + by)

    def accept(self) -> None:
        index = self.desk.the_cine().selected
        self.session().accept(index)
        self.step(1)

    def skip(self) -> None:
        index = self.desk.the_cine().selected
        self.session().skip(index)
        self.step(1)

    def next_uncertain(self) -> None:
        index = self.session().next_uncertain(self.desk.the_cine().selected)
        if index is None:
            self.tell(_("No frame waits for a decision."))
        else:
            self.desk.go(index)

    def show_cine(self) -> None:
        desk, ui = self.desk, self.ui
        count = desk.cine.count if desk.cine else 0
        self.strip.setStatuses([s.value for s in desk.store.statuses()] if desk.store else ["empty"] * count)
        blocked = ui.frameSlider.blockSignals(True)
        ui.frameSlider.setRange(0, max(count - 1, 0))
        ui.frameSlider.blockSignals(blocked)
        self.show_frame(desk.cine.selected if desk.cine else -1)

    def show_frame(self, index: int) -> None:
        ui, cine = self.ui, self.desk.cine
        self.strip.setSelected(index)
        if cine is None:
            ui.frameLabel.text = ""
            return
        blocked = ui.frameSlider.blockSignals(True)
        ui.frameSlider.value = index
        ui.frameSlider.blockSignals(blocked)
        self._say(index)

    def show_mask(self, index: int) -> None:
        store = self.desk.store
        self.strip.setStatus(index, store.status(index).value)
        if self.desk.cine and index == self.desk.cine.selected:
            self._say(index)

    def _say(self, index: int) -> None:
        """The line of the frame on display, in the colour of warnings where its model was not made for it."""
        text = self.describe(index)
        self.ui.frameLabel.text = coloured(text, warn=True) if self.unlike(index) else text

    def unlike(self, index: int) -> bool:
        """Whether the model of a frame's mask says that the frame is unlike those that it was made for."""
        cine, store = self.desk.cine, self.desk.store
        if cine is None or store is None or not 0 <= index < cine.count:
            return False
        return (store.unfamiliarity(index) or 0) > 1

    def describe(self, index: int) -> str:
        """Number, time, state and confidence of a frame, and whether the model was made for it."""
        cine, store = self.desk.cine, self.desk.store
        if cine is None or not 0 <= index < cine.count:
            return ""
        parts = [_("Frame {number} of {count}").format(number=index + 1, count=cine.count)]
        moment = cine.time(index)
        if moment is not None:
            parts.append(f"{moment:.3f} s")
        if store is not None:
            info = store.info(index)
            parts.append(names()[info["status"].value])
            if info["confidence"] is not None:
                parts.append(_("confidence {value:.2f}").format(value=info["confidence"]))
            if info["annotator"]:
                parts.append(info["annotator"])
            if self.unlike(index):
                parts.append(_("unlike the frames this model was made for"))
        return ", ".join(parts)
