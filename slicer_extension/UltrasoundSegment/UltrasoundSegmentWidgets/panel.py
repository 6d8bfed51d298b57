"""A section of the panel: its widgets, its connections, and where its errors are shown."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _
from UltrasoundSegmentLib.errors import Cancelled, SegmentError

import slicer

if TYPE_CHECKING:
    from .desk import Desk

logger = logging.getLogger(__name__)

WARNING = "#B04A00"
"""Of text that warns; it begins with a sign as well, for those who cannot tell the colour."""


def wire(widget: Any, signature: str, function: Callable[..., Any]) -> None:
    """Connect a signal. PythonQt returns False for one that does not exist, which nobody would notice.

    Errors: RuntimeError.
    """
    if not widget.connect(signature, function):
        raise RuntimeError(f"{widget.objectName} has no signal {signature}")


def browse(button: Any, edit: Any, title: str, filters: str = "", *, folder: bool = False) -> None:
    """Let a button choose the file, or folder, whose path stands in a field."""

    def choose() -> None:
        if folder:
            path = qt.QFileDialog.getExistingDirectory(button, title, edit.text)
        else:
            path = qt.QFileDialog.getOpenFileName(button, title, edit.text, filters)
        path = path[0] if isinstance(path, tuple) else path
        if path:
            edit.text = path

    wire(button, "clicked()", choose)


def coloured(text: str, warn: bool) -> str:
    """Rich text, in the colour of warnings where it warns."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "<br>")
    return f'<span style="color:{WARNING}">⚠ {safe}</span>' if warn else safe


class Panel:
    """Knows the widgets by name, the parameters, and the desk where cine, masks and backend lie."""

    def __init__(self, ui: Any, desk: Desk, parameters: Callable[[], Any]) -> None:
        self.ui, self.desk, self._parameters = ui, desk, parameters
        self.setup()

    def setup(self) -> None:
        """Connect the widgets of this section."""

    @property
    def parameters(self) -> Any:
        """The parameter node in use; None while a scene is closed."""
        return self._parameters()

    def labels(self) -> list[str]:
        """Names of the structures, as typed."""
        found = [name.strip() for name in self.parameters.labels.split(",")]
        return list(dict.fromkeys(name for name in found if name))

    def on(self, widget: Any, signature: str, action: Callable[..., Any]) -> None:
        """Connect a signal to an action whose errors are shown."""
        wire(widget, signature, self.guarded(action))

    def guarded(self, action: Callable[..., Any]) -> Callable[[], None]:
        """The action, without arguments; what the user can mend is a line of text, anything else is Slicer's error."""

        def run() -> None:
            try:
                self.tell("")
                action()
            except Cancelled:
                self.tell(_("Stopped."))
            except SegmentError as error:
                self.tell(str(error), warn=True)
            except Exception as error:
                logger.exception("An action of the panel failed.")
                self.tell(str(error), warn=True)
                with slicer.util.tryWithErrorDisplay(_("This did not work.")):
                    raise

        return run

    def tell(self, text: str, warn: bool = False) -> None:
        """Show a line beneath the Segment section."""
        self.ui.messageLabel.text = coloured(text, warn) if text else ""

    def failed(self, error: Exception) -> None:
        """For jobs: show why one ended."""
        self.tell(str(error), warn=not isinstance(error, Cancelled))
