"""Backend: a MONAI Label server or a model on this computer; nothing is asked of either before Connect is pressed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _
from UltrasoundSegmentLib.backends.model import INTERACTIVE, SEGMENTATION, Cancel
from UltrasoundSegmentLib.errors import Cancelled, SegmentError

from . import packages
from .choices import BackendKind
from .panel import Panel, browse, coloured


class BackendPanel(Panel):
    """Connects, says what is connected, and lets go."""

    def setup(self) -> None:
        ui = self.ui
        self._job = None
        self._given: tuple[str, str] = ("", "")  # the token that was given last, and to which server
        browse(ui.certificateBrowse, ui.certificateEdit, _("Certificate"), "PEM (*.pem *.crt *.cer)")
        browse(ui.localModelBrowse, ui.localModelEdit, _("Model"), "Models (*.onnx *.xml)")
        self.on(ui.connectButton, "clicked()", self.connect)
        self.on(ui.disconnectButton, "clicked()", self.disconnect)
        self.on(ui.packagesButton, "clicked()", self.check_packages)
        self.on(ui.backendCombo, "currentIndexChanged(int)", self.show_kind)
        self.desk.models_changed.connect(self.show)
        self.show_kind()
        self.show()

    def connect(self) -> None:
        """Ask the backend for its models, beside the GUI."""
        name, made = self._maker()
        self.disconnect()
        self.ui.connectButton.enabled = False
        self.ui.disconnectButton.enabled = True
        self.ui.backendLabel.text = _("Connecting to {name}...").format(name=name)

        def work(cancel: Cancel, _: object) -> tuple[Any, list[Any]]:
            backend = made(cancel)
            try:
                return backend, backend.models(cancel)
            except BaseException:
                backend.close()
                raise

        def connected(answer: tuple[Any, list[Any]]) -> None:
            self._job = None
            self.desk.set_backend(*answer)

        def failed(error: Exception) -> None:
            if isinstance(error, Cancelled):
                return
            self._job = None
            self.show()
            lacking = _(" Press Packages... to install it.") if hasattr(error, "requirement") else ""
            self.ui.backendLabel.text = coloured(str(error) + lacking, True)

        self._job = self.desk.jobs.submit(work, connected, failed, group="connect")

    def _maker(self) -> tuple[str, Callable[[Cancel], Any]]:
        """What to call the backend, and how to make it in the worker."""
        p = self.parameters
        if p.backendKind is BackendKind.LOCAL:
            from UltrasoundSegmentLib.backends.local import LocalBackend, model_file

            path = model_file(p.localModel.strip())
            if path is None:
                raise SegmentError(_("No model file is chosen: choose an exported model (.onnx or .xml)."))
            return path.name, lambda _: LocalBackend(path)
        from UltrasoundSegmentLib.backends.client import Client
        from UltrasoundSegmentLib.backends.stock import open_server

        if not p.serverUrl.strip():
            raise SegmentError(_("No server is named: type the address of a MONAI Label server."))
        certificate = p.certificate.strip()
        if certificate and not Path(certificate).is_file():
            raise SegmentError(_("There is no certificate “{path}”.").format(path=certificate))
        token = self.ui.tokenEdit.text
        client = Client(p.serverUrl, token=token, annotator=p.annotator, ca_file=certificate)
        if token and token == self._given[0] and client.url != self._given[1]:
            # The address is also one of a scene that was opened meanwhile.
            self.ui.tokenEdit.text, self._given = "", ("", "")
            raise SegmentError(_("The token is of another server: type the one of {url}.").format(url=client.url))
        self._given = token, client.url
        return client.url, lambda cancel: open_server(client, cancel)

    def disconnect(self) -> None:
        """Stop what is asked, and forget the backend; what it made stays."""
        if self._job is not None:
            self.desk.jobs.cancel(self._job)
            self._job = None
        if self.desk.backend is not None:
            self.desk.set_backend(None, [])
        self.show()

    def check_packages(self) -> None:
        """Say what local models lack, and install it where the user agrees."""
        self.tell(packages.ensure())

    def show_kind(self) -> None:
        """Only the fields of the chosen kind can be set."""
        server = self.ui.backendCombo.currentIndex <= 0
        for widget in (self.ui.serverEdit, self.ui.tokenEdit, self.ui.certificateEdit, self.ui.certificateBrowse):
            widget.enabled = server
        for widget in (self.ui.localModelEdit, self.ui.localModelBrowse, self.ui.packagesButton):
            widget.enabled = not server

    def show(self) -> None:
        ui, desk = self.ui, self.desk
        ui.connectButton.enabled = desk.backend is None
        ui.disconnectButton.enabled = desk.backend is not None
        if desk.backend is None:
            ui.backendLabel.text = _("Not connected. Nothing is sent.")
            return
        counts = len(desk.models_of(SEGMENTATION)), len(desk.models_of(INTERACTIVE))
        text = _("{name}: {models} segmentation, {clicks} interactive models. Frames are sent when you segment.")
        if self.ui.backendCombo.currentIndex == list(BackendKind).index(BackendKind.LOCAL):
            text = _("{name}: {models} segmentation, {clicks} interactive models, on this computer.")
        ui.backendLabel.text = coloured(text.format(name=desk.backend.name, models=counts[0], clicks=counts[1]), False)
