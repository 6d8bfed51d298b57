"""Active learning: the next frame worth labelling, the label sent back, training and versions of the model."""

from __future__ import annotations

from typing import Any

from slicer.i18n import tr as _
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.learning import Learning

from .panel import Panel, coloured
from .source import show_volume


class LearningPanel(Panel):
    """Everything here is asked of the connected server, and only when a button is pressed."""

    def setup(self) -> None:
        ui = self.ui
        self.learning: Learning | None = None
        self._versions: list[tuple[str, int]] = []
        for button, action in (
            (ui.nextSampleButton, self.next_sample),
            (ui.submitButton, self.submit),
            (ui.unsentButton, self.send_unsent),
            (ui.trainButton, self.train),
            (ui.stopTrainingButton, self.stop),
            (ui.useVersionButton, self.use_version),
            (ui.rollbackButton, self.rollback),
            (ui.refreshButton, self.refresh),
        ):
            self.on(button, "clicked()", action)
        self.desk.backend_changed.connect(self.backend_changed)
        self.desk.cine_changed.connect(self.show_unsent)
        self.backend_changed()

    def backend_changed(self) -> None:
        """Only a server learns."""
        ui, client = self.ui, getattr(self.desk.backend, "client", None)
        if self.learning is not None:
            self.learning.cancel()
            self.learning.training.close()
        self.learning = None
        if client is not None and hasattr(self.desk.backend, "bind"):
            self.learning = Learning(client, self.desk.jobs, connection=self.desk.connection)
            self.learning.opened.connect(self.opened)
            self.learning.sent.connect(self.sent)
            self.learning.unsent_changed.connect(lambda _: self.show_unsent())
            self.learning.failed.connect(self.failed)
            self.learning.progress.connect(
                lambda done, total, text: self.say(f"{text} {done}/{total}" if total else text)
            )
            training = self.learning.training
            training.progress.connect(self.training)
            training.ended.connect(self.ended)
            training.versions.connect(self.show_versions)
        for button in (ui.nextSampleButton, ui.submitButton, ui.trainButton, ui.rollbackButton, ui.refreshButton):
            button.enabled = self.learning is not None
        ui.useVersionButton.enabled = self.learning is not None
        ui.stopTrainingButton.enabled = False
        ui.trainingBar.visible = False
        ui.versionCombo.clear()
        self.show_unsent()
        self.say("" if self.learning else _("Connect to a SonoDistill server to learn from labels."))

    def the_learning(self) -> Learning:
        """Errors: SegmentError without a server."""
        if self.learning is None:
            raise SegmentError(_("No SonoDistill server is connected: press Connect in Backend."))
        return self.learning

    def say(self, text: str, warn: bool = False) -> None:
        self.ui.learningLabel.text = coloured(text, warn) if text else ""

    def failed(self, error: Exception) -> None:
        self.say(str(error), True)

    def next_sample(self) -> None:
        """Open the item of the frame that the server wants labelled, at that frame."""
        self.say(_("Asking for the next frame..."))
        self.the_learning().next_sample()

    def opened(self, cine: Any, _store: Any, index: int) -> None:
        """The server's choice is in the scene."""
        if self.parameters is None:  # the user is in another module: it is in the scene, and chosen there
            return
        self.parameters.browser = cine.browser
        self.desk.use(cine.browser)
        self.desk.go(index)
        show_volume(cine.proxy())
        text = _("Label frame {number} of {name}, accept it, and submit the label.")
        self.say(text.format(number=index + 1, name=cine.name))

    def submit(self) -> None:
        """Send the label of the frame on display."""
        cine, store = self.desk.the_cine(), self.desk.store
        if store is None:
            raise SegmentError(_("There is no label yet: segment or draw this frame first."))
        self.the_learning().submit(store, cine.selected)
        self.say(_("Sending the label..."))

    def send_unsent(self) -> None:
        """Send what could not be sent before."""
        if self.desk.store is not None:
            self.the_learning().send_unsent(self.desk.store)

    def sent(self, index: int) -> None:
        self.say(_("The server has the label of frame {number}.").format(number=index + 1))

    def show_unsent(self) -> None:
        """How many labels wait, and a button for them."""
        cine = self.desk.cine
        count = len(self.learning.unsent(cine)) if self.learning is not None and cine is not None else 0
        self.ui.unsentButton.enabled = count > 0
        self.ui.unsentButton.text = _("Send {count} unsent").format(count=count) if count else _("None unsent")

    def train(self) -> None:
        self.say(_("Asking the server to train..."))
        self.the_learning().training.start()

    def training(self, epoch: int, epochs: int, text: str) -> None:
        """A training goes on."""
        ui = self.ui
        ui.trainingBar.setRange(0, epochs)
        ui.trainingBar.value = epoch
        ui.trainingBar.visible = True
        ui.stopTrainingButton.enabled, ui.trainButton.enabled = True, False
        self.say(_("Training: {text}").format(text=text))

    def ended(self, said: dict[str, Any]) -> None:
        """It is over: the server's models may be others now."""
        self.ui.trainingBar.visible = False
        self.ui.stopTrainingButton.enabled, self.ui.trainButton.enabled = False, self.learning is not None
        state, reason = str(said.get("state", "")), str(said.get("error") or said.get("reason") or "")
        self.say(_("Training {state}. {reason}").format(state=state, reason=reason), state == "failed")
        if self.learning is not None:
            self.refresh()
            self.desk.fetch_models()

    def show_versions(self, said: dict[str, Any]) -> None:
        """Fill the list: model, number, the metric it was judged by; the one in use is chosen."""
        combo, self._versions = self.ui.versionCombo, []
        combo.clear()
        for model, known in sorted(said.items()):
            if not isinstance(known, dict):
                continue
            for version in known.get("versions", []):
                number = version.get("number") if isinstance(version, dict) else version
                metric = version.get("metric") if isinstance(version, dict) else None
                used = number == known.get("current")
                text = f"{model} {number}" + (f", {metric:.3f}" if isinstance(metric, float) else "")
                self._versions.append((model, number))
                combo.addItem(text + (_(" (in use)") if used else ""))
                if used:
                    combo.currentIndex = len(self._versions) - 1
        if not self._versions:
            self.say(_("The server has no trained version yet."))

    def stop(self) -> None:
        self.the_learning().training.stop()

    def refresh(self) -> None:
        self.the_learning().training.fetch_versions()

    def rollback(self) -> None:
        """Back to the version before the one in use."""
        chosen = self._chosen()
        self.the_learning().training.rollback(chosen[0] if chosen else "segmentation")

    def use_version(self) -> None:
        """Use the version that is chosen in the list."""
        chosen = self._chosen()
        if chosen is None:
            raise SegmentError(_("No version is chosen: press Refresh, and choose one."))
        self.the_learning().training.promote(*chosen)

    def _chosen(self) -> tuple[str, int] | None:
        index = self.ui.versionCombo.currentIndex
        return self._versions[index] if 0 <= index < len(self._versions) else None

    def close(self) -> None:
        if self.learning is not None:
            self.learning.cancel()
            self.learning.training.close()
