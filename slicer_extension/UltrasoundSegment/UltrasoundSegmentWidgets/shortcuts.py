"""Keys of the review, while the module is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

KEYS = {"A": "acceptButton", "S": "skipButton", "U": "uncertainButton", "Left": "previousButton", "Right": "nextButton"}
"""Key and the button it presses; Esc is Cancel."""


class Shortcuts:
    """Installed by ``on``, taken away by ``off``: other modules have keys of their own."""

    def __init__(self, window: Any, ui: Any) -> None:
        self._window, self._ui = window, ui
        self._installed: list[Any] = []

    def on(self) -> None:
        if self._installed or self._window is None:
            return
        for key, name in {**KEYS, "Esc": "cancelButton"}.items():
            shortcut = qt.QShortcut(self._window)
            shortcut.setKey(qt.QKeySequence(key))
            shortcut.connect("activated()", self._press(name))
            self._installed.append(shortcut)

    def off(self) -> None:
        for shortcut in self._installed:
            shortcut.setEnabled(False)
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._installed = []

    def _press(self, name: str) -> Callable[[], None]:
        return lambda: getattr(self._ui, name).click()
