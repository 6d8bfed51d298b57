"""Segment: models on frames, prompts with live refinement, propagation, and the progress of all of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from slicer.i18n import tr as _
from UltrasoundSegmentLib.backends.model import INTERACTIVE, SEGMENTATION, Prompts
from UltrasoundSegmentLib.errors import SegmentError

from .choices import Scope
from .panel import Panel
from .prompts import TOOLS, PromptNodes

PROGRESS_AFTER_S = 0.5
"""What ends sooner shows no progress bar, which would only flash."""


class SegmentPanel(Panel):
    """Runs models on frames, and sends prompts as they are drawn."""

    def setup(self) -> None:
        ui, desk = self.ui, self.desk
        self.prompt_nodes = PromptNodes()
        self.prompt_nodes.changed.connect(lambda _: self.guarded(self.drawn)())
        self._busy_since: float | None = None
        self._browser: Any = None
        self._frame = -1
        self.tools = dict(
            zip(
                TOOLS,
                (ui.includeButton, ui.excludeButton, ui.boxButton, ui.scribbleButton, ui.eraseButton),
                strict=True,
            )
        )
        for tool, button in self.tools.items():
            self.on(button, "clicked()", self._tool(tool))
        for button, action in (
            (ui.segmentButton, self.segment),
            (ui.wholeVolumeButton, self.segment_volume),
            (ui.cancelButton, self.cancel),
            (ui.refineButton, self.refine),
            (ui.clearPromptsButton, self.clear_prompts),
            (ui.undoPromptsButton, self.undo_prompts),
            (ui.backwardButton, lambda: self.propagate(-1)),
            (ui.forwardButton, lambda: self.propagate(1)),
        ):
            self.on(button, "clicked()", action)
        self.on(ui.modelCombo, "activated(int)", self.choose_model)
        self.on(ui.annotatorEdit, "textChanged(QString)", lambda: desk.set_annotator(ui.annotatorEdit.text.strip()))
        desk.cine_changed.connect(self.show_cine)
        desk.frame_changed.connect(self.show_frame)
        desk.models_changed.connect(self.show_models)
        desk.busy.connect(self.busy)
        desk.progress.connect(self.progress)
        desk.failed.connect(self.failed)
        desk.said.connect(self.tell)
        self.show_cine()
        self.show_models()

    # Names and numbers.

    def label(self) -> int:
        """Number of the chosen structure, from 1."""
        return max(self.ui.labelCombo.currentIndex, 0) + 1

    def model(self, kind: str) -> str:
        """Id of the chosen model, or, where that is of another kind, of the first of this kind.

        Errors: SegmentError where the backend offers none.
        """
        offered = [model.id for model in self.desk.models_of(kind)]
        if not offered:
            raise SegmentError(
                _("No interactive model is connected: connect a backend that has one.")
                if kind == INTERACTIVE
                else _("No segmentation model is connected: press Connect in Backend.")
            )
        chosen = self.parameters.model
        return chosen if chosen in offered else offered[0]

    def indices(self) -> list[int]:
        """Frames of the chosen scope."""
        cine, p = self.desk.the_cine(), self.parameters
        if p.scope is Scope.FRAME:
            return [cine.selected]
        if p.scope is Scope.ALL:
            return list(range(cine.count))
        first, last = sorted((p.firstFrame, p.lastFrame or cine.count))
        if first > cine.count:
            raise SegmentError(_("The cine has frames 1 to {last}.").format(last=cine.count))
        return list(range(first - 1, min(last, cine.count)))

    def session(self, also: tuple[str, ...] = ()) -> Any:
        """The session, with the structures of the field and of a model; where neither names any, there is one."""
        names = list(dict.fromkeys([*self.labels(), *also]))
        if not names and self.desk.store is None:
            names = [_("structure")]
        return self.desk.the_session(names)

    # What the buttons do.

    def segment(self) -> None:
        model = self.model(SEGMENTATION)
        offered = next(m for m in self.desk.models if m.id == model)
        self.session(offered.labels).segment(self.indices(), model)

    def segment_volume(self) -> None:
        """The chosen volume as a whole, by a server's model for volumes: a 3-D segmentation of its own."""
        volume, model = self.parameters.volume, self.model(SEGMENTATION)
        if volume is None:
            raise SegmentError(_("No volume is chosen: choose one in Source."))
        offered = next(m for m in self.desk.models if m.id == model)
        self.desk.segment_volume(
            volume, offered, lambda node: self.tell(_("{name} is there.").format(name=node.GetName()))
        )

    def cancel(self) -> None:
        self.desk.cancel()

    def _tool(self, tool: str) -> Callable[[], None]:
        def choose() -> None:
            on = self.tools[tool].checked
            for button in self.tools.values():
                button.checked = False
            self.tools[tool].checked = on
            self.prompt_nodes.stop()
            if on:
                self.desk.the_cine()
                self.prompt_nodes.place(tool)

        return choose

    def drawn(self) -> None:
        """A prompt was placed, moved or removed; half a box or half a line asks nothing yet."""
        if self.parameters.live and self.desk.models_of(INTERACTIVE) and not self.prompts().empty:
            self.refine()

    def prompts(self) -> Prompts:
        """What is drawn on the frame on display."""
        cine = self.desk.the_cine()
        return self.prompt_nodes.prompts(cine.ijk_to_world(cine.selected), self.label())

    def refine(self) -> None:
        cine = self.desk.the_cine()
        index, model = cine.selected, self.model(INTERACTIVE)
        prompts = self.prompts()
        if prompts.empty:
            raise SegmentError(_("Draw a prompt first: a point, a box or a scribble on the frame."))
        self.session().refine(index, prompts, model)

    def clear_prompts(self) -> None:
        """Take the prompts away; the mask that they made stays."""
        if self.desk.session is not None:
            self.desk.session.end_prompts()
        self.prompt_nodes.clear()
        self.prompt_nodes.stop()
        for button in self.tools.values():
            button.checked = False

    def undo_prompts(self) -> None:
        """Take the prompts away, and what they drew."""
        if self.desk.session is not None:
            self.desk.session.end_prompts(undo=True)
        self.clear_prompts()

    def propagate(self, direction: int) -> None:
        session, model = self.session(), self.model(INTERACTIVE)
        session.propagate(self.desk.cine.selected, self.parameters.propagateCount, direction, model)

    def choose_model(self) -> None:
        self.parameters.model = self.ui.modelCombo.currentText

    # What is shown.

    def show_cine(self) -> None:
        """Another cine, or other masks of it."""
        browser = self.desk.cine.browser if self.desk.cine else None
        if browser is not self._browser:
            self._browser = browser
            self.clear_prompts()
        self.show_labels()

    def show_frame(self, index: int) -> None:
        """Prompts belong to the frame they were drawn on."""
        if index != self._frame:
            self._frame = index
            if any(self.prompt_nodes.node(tool) for tool in TOOLS):
                self.clear_prompts()

    def show_labels(self) -> None:
        """Structures of the masks, then those only typed."""
        store = self.desk.store
        kept = list(store.labels) if store else []
        shown = kept + [name for name in (self.labels() if self.parameters else []) if name not in kept]
        combo, before = self.ui.labelCombo, self.ui.labelCombo.currentText
        combo.clear()
        combo.addItems(shown)
        combo.currentIndex = shown.index(before) if before in (kept or shown) else (0 if shown else -1)

    def show_models(self) -> None:
        combo, ids = self.ui.modelCombo, [model.id for model in self.desk.models]
        combo.clear()
        combo.addItems(ids)
        chosen = self.parameters.model if self.parameters else ""
        if ids:
            combo.currentIndex = ids.index(chosen) if chosen in ids else 0

    def busy(self, on: bool) -> None:
        self._busy_since = time.monotonic() if on else None
        if not on:
            self.ui.progressBar.visible = self.ui.cancelButton.visible = False

    def tick(self) -> None:
        """Called by the panel's timer: what takes long shows its progress, and how to stop it."""
        late = self._busy_since is not None and time.monotonic() - self._busy_since > PROGRESS_AFTER_S
        if late and not self.ui.progressBar.visible:
            self.ui.progressBar.visible = self.ui.cancelButton.visible = True

    def progress(self, done: int, total: int, text: str) -> None:
        bar = self.ui.progressBar
        bar.setRange(0, max(total, 0))
        bar.value = done
        bar.setFormat(f"{text} {done}/{total}" if total else text)

    def close(self) -> None:
        self.prompt_nodes.close()
