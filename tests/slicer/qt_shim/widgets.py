"""Stand-ins for the widgets of CTK and Slicer that a .ui of ours names: real Qt with their properties and signals."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore, QtWidgets

from .pythonqt import STAND_INS, PythonQtMixin, PythonSignal, pythonqt

_Widget: Any = pythonqt(QtWidgets.QWidget)


class ctkCollapsibleButton(_Widget):
    """A heading that shows or hides what is below it."""

    python_signals = ("contentsCollapsed(bool)",)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.contentsCollapsed = PythonSignal()
        self._button = QtWidgets.QToolButton(self)
        self._button.setToolButtonStyle(QtCore.Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._button.setAutoRaise(True)
        self._button.clicked.connect(lambda: self._set(not self._collapsed))
        font = self._button.font()
        font.setBold(True)
        self._button.setFont(font)
        self._collapsed = False
        self._set(False)
        self.setContentsMargins(0, self._button.sizeHint().height() + 4, 0, 0)

    def _set(self, collapsed: bool) -> None:
        changed, self._collapsed = collapsed != self._collapsed, collapsed
        arrow = QtCore.Qt.ArrowType
        self._button.setArrowType(arrow.RightArrow if collapsed else arrow.DownArrow)
        # What is below keeps its own visibility, as with CTK's: it is out of sight, not hidden.
        self.setMaximumHeight(self._button.sizeHint().height() + 4 if collapsed else 16777215)
        if changed:
            self.contentsCollapsed.emit(collapsed)

    text = QtCore.Property(str, lambda s: s._button.text(), lambda s, v: (s._button.setText(v), s._button.adjustSize()))
    collapsed = QtCore.Property(bool, lambda s: s._collapsed, lambda s, v: s._set(v))


class ctkPathLineEdit(_Widget):
    """A path and a button to choose it."""

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.currentPathChanged = PythonSignal()
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QLineEdit(self)
        self._edit.textChanged.connect(self.currentPathChanged.emit)
        row.addWidget(self._edit)
        button = QtWidgets.QToolButton(self)
        button.setText("...")
        row.addWidget(button)

    currentPath = QtCore.Property(str, lambda s: s._edit.text(), lambda s, v: s._edit.setText(v))


class qMRMLWidget(_Widget):
    """A widget that knows the scene."""

    python_signals = ("mrmlSceneChanged(vtkMRMLScene*)",)

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.mrmlSceneChanged = PythonSignal()
        self._scene: Any = None
        self.isEntered = True

    def mrmlScene(self) -> Any:
        return self._scene

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)


class qMRMLNodeComboBox(qMRMLWidget):
    """Nodes of the scene of given classes; the chosen one is None until somebody chooses (noneEnabled)."""

    python_signals = (*qMRMLWidget.python_signals, "currentNodeChanged(vtkMRMLNode*)")

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self.currentNodeChanged = PythonSignal()
        self._types: list[str] = []
        self._nodes: list[Any] = []
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox(self)
        self._combo.currentIndexChanged.connect(lambda _: self.currentNodeChanged.emit(self.currentNode()))
        row.addWidget(self._combo)

    nodeTypes = QtCore.Property("QStringList", lambda s: s._types, lambda s, v: s._retype(v))

    def _retype(self, types: list[str]) -> None:
        self._types = list(types)
        self._fill()

    def setMRMLScene(self, scene: Any) -> None:
        super().setMRMLScene(scene)
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
                scene.AddObserver(event, lambda *_: self._fill())
        self._fill()

    def _fill(self) -> None:
        chosen = self.currentNode()
        scene = self._scene
        count = scene.GetNumberOfNodes() if scene else 0
        nodes = [scene.GetNthNode(i) for i in range(count)]
        self._nodes = [n for n in nodes if any(n.IsA(t) for t in self._types) and not n.GetHideFromEditors()]
        self._combo.blockSignals(True)
        self._combo.clear()
        self._combo.addItem("None")
        for node in self._nodes:
            self._combo.addItem(node.GetName())
        self._combo.setCurrentIndex(self._nodes.index(chosen) + 1 if chosen in self._nodes else 0)
        self._combo.blockSignals(False)
        if chosen is not None and chosen not in self._nodes:
            self.currentNodeChanged.emit(None)

    def currentNode(self) -> Any:
        index = self._combo.currentIndex() - 1
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    def setCurrentNode(self, node: Any) -> None:
        if node is not None and node not in self._nodes:
            self._fill()
        self._combo.setCurrentIndex(self._nodes.index(node) + 1 if node in self._nodes else 0)


def modules() -> types.ModuleType:
    """The module ``ctk``; registers every stand-in with the loader of .ui files."""
    ctk = types.ModuleType("ctk")
    for kind in (ctkCollapsibleButton, ctkPathLineEdit):
        setattr(ctk, kind.__name__, kind)
    STAND_INS.update({k.__name__: k for k in (ctkCollapsibleButton, ctkPathLineEdit, qMRMLWidget, qMRMLNodeComboBox)})
    return ctk


__all__ = ["PythonQtMixin", "ctkCollapsibleButton", "ctkPathLineEdit", "modules", "qMRMLNodeComboBox", "qMRMLWidget"]
