"""A stand-in for slicer.parameterNodeWrapper: typed fields on a real vtkMRMLScriptedModuleNode, bound to widgets."""

from __future__ import annotations

import enum
import pathlib
import typing
from dataclasses import dataclass
from typing import Annotated, Any

import vtk

PROPERTY = "SlicerParameterName"


@dataclass(frozen=True)
class WithinRange:
    minimum: float
    maximum: float


class Choice:
    def __init__(self, choices: list[Any]) -> None:
        self.choices = choices


def _split(hint: Any) -> tuple[type, tuple[Any, ...]]:
    if typing.get_origin(hint) is Annotated:
        base, *extra = typing.get_args(hint)
        return base, tuple(extra)
    return hint, ()


def _first(annotations: tuple[Any, ...], kind: type) -> Any:
    return next((a for a in annotations if isinstance(a, kind)), None)


class _Field:
    """One parameter: how it lies in the node, and what it may be."""

    def __init__(self, name: str, hint: Any, default: Any) -> None:
        self.name, (self.type, self.annotations) = name, _split(hint)
        self.is_node = self.type.__name__.startswith("vtkMRML")
        nothing = {bool: False, int: 0, float: 0.0, str: "", pathlib.Path: pathlib.Path()}.get(self.type)
        if issubclass(self.type, enum.Enum) and default is None:
            nothing = next(iter(self.type))
        self.default = nothing if default is None else default
        if not self.is_node and self.type not in (bool, int, float, str, pathlib.Path):
            assert issubclass(self.type, enum.Enum), f"{name}: no serializer for {self.type}"

    def read(self, node: Any) -> Any:
        if self.is_node:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if issubclass(self.type, enum.Enum):
            return self.type[text]
        return text == "True" if self.type is bool else self.type(text)

    def write(self, node: Any, value: Any) -> None:
        if self.is_node:
            if value is not None and not isinstance(value, self.type):
                raise TypeError(f"{self.name} is a {self.type.__name__}, not {value!r}")
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            return
        if self.type is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, self.type):
            raise TypeError(f"{self.name} is a {self.type.__name__}, not {value!r}")
        limits, choice = _first(self.annotations, WithinRange), _first(self.annotations, Choice)
        if limits and not limits.minimum <= value <= limits.maximum:
            raise ValueError(f"{self.name}: {value} is not within [{limits.minimum}, {limits.maximum}]")
        if choice and value not in choice.choices:
            raise ValueError(f"{self.name}: {value} is none of {choice.choices}")
        node.SetParameter(self.name, value.name if isinstance(value, enum.Enum) else str(value))


class _Connector:
    """A field and its widget. As upstream, it goes by the exact class of the widget and refuses others."""

    def __init__(self, field: _Field, widget: Any) -> None:
        import ctk
        import qt

        import slicer

        self.field, self.widget = field, widget
        kind, base = type(widget), field.type
        limits = _first(field.annotations, WithinRange)
        self.attribute, self.signal = "", ""
        self.items: list[Any] = []
        if base is bool and kind in (qt.QCheckBox, qt.QPushButton):
            self.attribute, self.signal = "checked", "toggled"
        elif (base is int and kind in (qt.QSpinBox, qt.QSlider)) or (base is float and kind is qt.QDoubleSpinBox):
            self.attribute, self.signal = "value", "valueChanged"
            big = 2**31 - 1 if base is int else float("inf")
            low, high = (limits.minimum, limits.maximum) if limits else (-big, big)
            widget.setRange(low, high)
        elif base is str and kind is qt.QLineEdit:
            self.attribute, self.signal = "text", "textChanged"
        elif base is pathlib.Path and kind is ctk.ctkPathLineEdit:
            self.attribute, self.signal = "currentPath", "currentPathChanged"
        elif kind is qt.QComboBox and isinstance(base, type) and issubclass(base, enum.Enum):
            label = getattr(base, "label", lambda e: e.name)
            self.items, self.signal = list(base), "currentIndexChanged"
            self._fill([label(e) for e in self.items])
        elif kind is qt.QComboBox and base in (int, float, str, bool):
            choice = _first(field.annotations, Choice)
            if choice is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            self.items, self.signal = choice.choices, "currentIndexChanged"
            self._fill([str(c) for c in self.items])
        elif field.is_node and kind is slicer.qMRMLNodeComboBox:
            widget.nodeTypes = [base.__name__]
            self.signal = "currentNodeChanged"
        else:
            raise RuntimeError(f"Unable to create GUI connector from datatype '{base}' to widget type '{kind}'")

    def _fill(self, labels: list[str]) -> None:
        self.widget.clear()
        for text in labels:
            self.widget.addItem(text)

    def read(self) -> Any:
        if self.field.is_node:
            return self.widget.currentNode()
        if self.items:
            return self.items[self.widget.currentIndex]
        return self.field.type(getattr(self.widget, self.attribute))

    def write(self, value: Any) -> None:
        if self.field.is_node:
            self.widget.setCurrentNode(value)
        elif self.items:
            self.widget.currentIndex = self.items.index(value)
        else:
            setattr(self.widget, self.attribute, str(value) if self.field.type is pathlib.Path else value)


class _Methods:
    """What the decorator gives to a class."""

    allParameters: dict[str, _Field]
    parameterNode: Any

    def __init__(self, node: Any) -> None:
        self.parameterNode = node
        self._guis: dict[int, list[tuple[_Connector, Any]]] = {}
        self._writing = False
        for field in self.allParameters.values():
            if not field.is_node and not node.GetParameter(field.name):
                field.write(node, field.default)

    def connectGui(self, gui: Any) -> int:
        found = {w.property(PROPERTY): w for w in vars(gui).values() if w.property(PROPERTY)}
        unknown = set(found) - set(self.allParameters)
        if unknown:
            raise ValueError(f"Cannot find a param with the given name: {unknown}")
        connectors = []
        for name, widget in found.items():
            connector = _Connector(self.allParameters[name], widget)
            connector.write(getattr(self, name))

            def changed(*_: Any, connector: _Connector = connector) -> None:
                if not self._writing:
                    setattr(self, connector.field.name, connector.read())

            getattr(widget, connector.signal).connect(changed)
            connectors.append((connector, changed))
        tag = len(self._guis)
        self._guis[tag] = connectors
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._show())
        return tag

    def disconnectGui(self, tag: int) -> None:
        for connector, changed in self._guis.pop(tag, []):
            getattr(connector.widget, connector.signal).disconnect(changed)

    def _show(self) -> None:
        if self._writing:
            return
        self._writing = True
        try:
            for connectors in self._guis.values():
                for connector, _ in connectors:
                    connector.write(getattr(self, connector.field.name))
        finally:
            self._writing = False

    def AddObserver(self, event: Any, callback: Any, priority: float = 0.0) -> int:
        return self.parameterNode.AddObserver(event, callback, priority)  # type: ignore[no-any-return]

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()  # type: ignore[no-any-return]

    def EndModify(self, before: int) -> None:
        self.parameterNode.EndModify(before)


def parameterNodeWrapper(kind: type) -> type:
    """Fields from the annotations; a name that upstream reserves is refused, as there."""
    fields = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if name in (
            "default",
            "isCached",
            "dataType",
            "getValue",
            "setValue",
            "connectGui",
            "Modified",
            "parameterNode",
        ):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
        field = _Field(name, hint, getattr(kind, name, None))
        fields[name] = field
        setattr(
            kind,
            name,
            property(
                lambda self, field=field: field.read(self.parameterNode),
                lambda self, value, field=field: field.write(self.parameterNode, value),
            ),
        )
    return type(kind.__name__, (kind, _Methods), {"allParameters": fields, "__module__": kind.__module__})
