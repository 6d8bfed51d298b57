"""Qt as PythonQt shows it, over PySide6: properties are attributes, and ``connect`` takes the text of a signature."""

from __future__ import annotations

import inspect
import sys
import types
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

_MODULES = (QtWidgets, QtGui, QtCore)
STAND_INS: dict[str, type] = {}
"""Classes of CTK and Slicer that a .ui may name, by name; their modules fill it."""


class PythonSignal:
    """A signal of a stand-in. PySide's own takes a reference too many from what Python emits."""

    def __init__(self) -> None:
        self._listeners: list[Callable[..., Any]] = []

    def connect(self, function: Callable[..., Any]) -> None:
        self._listeners.append(function)

    def disconnect(self, function: Callable[..., Any]) -> None:
        self._listeners.remove(function)

    def emit(self, *arguments: Any) -> None:
        for function in list(self._listeners):
            function(*arguments)


def _arity(function: Callable[..., Any]) -> int:
    """How many positional arguments it takes at most; PythonQt passes no more than that."""
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return 99
    return sum(k in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for k in kinds)


class PythonQtMixin:
    """What PythonQt adds to every QObject."""

    python_signals: tuple[str, ...] = ()
    """Signatures of signals that a stand-in offers under their C++ names."""

    def __getattribute__(self, name: str) -> Any:
        # PySide finds its own static connect before that of a subclass.
        if name in ("connect", "disconnect"):
            return types.MethodType(getattr(PythonQtMixin, name), self)
        return super().__getattribute__(name)

    @property
    def name(self) -> str:
        return self.objectName  # type: ignore[attr-defined,no-any-return]

    @name.setter
    def name(self, value: str) -> None:
        self.setObjectName(value)  # type: ignore[attr-defined]

    def _signal(self, signature: str) -> Any:
        normal = QtCore.QMetaObject.normalizedSignature(signature).data().decode()
        known = self.metaObject().indexOfSignal(normal) >= 0 or normal in self.python_signals  # type: ignore[attr-defined]
        return getattr(self, normal.split("(")[0]) if known else None

    def connect(self, signature: str, function: Callable[..., Any]) -> bool:
        """As PythonQt: an unknown signal is a warning on the console and False, no exception."""
        signal = self._signal(signature)
        if signal is None:
            sys.stderr.write(f"QObject::connect: No such signal {type(self).__name__}::{signature}\n")
            return False
        inside = signature[signature.index("(") + 1 : signature.rindex(")")].strip()
        count = min(len(inside.split(",")) if inside else 0, _arity(function))

        def call(*arguments: Any) -> None:
            function(*arguments[:count])

        signal.connect(call)
        self.__dict__.setdefault("_connected", {})[signature, function] = call
        return True

    def disconnect(self, signature: str, function: Callable[..., Any]) -> bool:
        call = self.__dict__.get("_connected", {}).pop((signature, function), None)
        if call is None:
            return False
        self._signal(signature).disconnect(call)
        return True

    def className(self) -> str:
        return type(self).__name__


def _attribute(name: str) -> property:
    def read(self: Any) -> Any:
        return QtCore.QObject.property(self, name)

    def write(self: Any, value: Any) -> None:
        meta = self.metaObject()
        declared = meta.property(meta.indexOfProperty(name))
        if not declared.isWritable():
            raise AttributeError(f"{name} of {type(self).__name__} cannot be set")
        QtCore.QObject.setProperty(self, name, value)

    return property(read, write)


def pythonqt(kind: type) -> type:
    """A subclass of the same name whose Qt properties are attributes, as in PythonQt: ``edit.text``, not ``text()``."""
    meta = kind.staticMetaObject  # type: ignore[attr-defined]
    names = {meta.property(i).name() for i in range(meta.propertyCount())}
    if issubclass(kind, QtWidgets.QProgressBar):
        names.discard("text")  # a virtual function as well, which Qt would look for here to find its value
    body: dict[str, Any] = {n: _attribute(n) for n in names}
    body["__module__"] = "qt"
    return type(kind.__name__, (PythonQtMixin, kind), body)


class UiLoader(QtUiTools.QUiLoader):
    """Loads a .ui with the classes of here.

    What Qt's loader cannot do for stand-ins is done here: connections from the top's mrmlSceneChanged to setMRMLScene
    (any other raises), and enumerated properties, which are left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self._made: list[QtWidgets.QWidget] = []

    def createWidget(self, kind: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> QtWidgets.QWidget:
        made = STAND_INS.get(kind) or getattr(sys.modules["qt"], kind)
        widget = made(parent)
        widget.setObjectName(name)
        self._made.append(widget)  # else PySide forgets of which class it was
        return widget  # type: ignore[no-any-return]

    def load(self, file: QtCore.QFile) -> QtWidgets.QWidget:
        tree = ET.fromstring(bytes(file.readAll().data()))
        connections = tree.find("connections")
        found = list(connections) if connections is not None else []
        if connections is not None:
            connections.clear()
        for widget in tree.iter("widget"):
            if widget.get("class") in STAND_INS:
                for given in [p for p in widget.findall("property") if p.find("set") is not None]:
                    widget.remove(given)
        buffer = QtCore.QBuffer()
        buffer.setData(ET.tostring(tree))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        top = super().load(buffer)
        by_name = {w.objectName: w for w in self._made}
        for connection in found:
            sender, receiver = (by_name.get(connection.findtext(end, "")) for end in ("sender", "receiver"))
            if sender is None or receiver is None or connection.findtext("slot") != "setMRMLScene(vtkMRMLScene*)":
                raise AssertionError(f"this connection leads nowhere: {ET.tostring(connection)!r}")
            assert sender.connect(connection.findtext("signal", ""), receiver.setMRMLScene)
        top.kept = self._made
        return top


def module() -> types.ModuleType:
    """The module ``qt``: every class of Qt's three modules, QObjects in PythonQt's manner, made when asked for."""
    qt = types.ModuleType("qt")

    def find(name: str) -> Any:
        for source in _MODULES:
            if hasattr(source, name):
                value = getattr(source, name)
                wrap = isinstance(value, type) and issubclass(value, QtCore.QObject)
                made = pythonqt(value) if wrap else value
                setattr(qt, name, made)
                return made
        raise AttributeError(f"module 'qt' has no attribute {name!r}")

    qt.__getattr__ = find  # type: ignore[method-assign]
    qt.QUiLoader = UiLoader  # type: ignore[attr-defined]
    qt.QFile = QtCore.QFile  # type: ignore[attr-defined]
    return qt
