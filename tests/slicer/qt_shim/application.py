"""Puts the stand-ins where a scripted module imports them from, and makes the module's widget as Slicer would."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PySide6 import QtCore, QtWidgets

from . import parameters, pythonqt, widgets


class Application:
    """slicer.app, as far as a module asks for it."""

    applicationName = "Slicer"

    def __init__(self, logic: Any, temporary: Path) -> None:
        self._logic, self.temporaryPath = logic, str(temporary)
        self.started: list[Callable[[], None]] = []
        self.cursors = 0
        self.majorVersion, self.minorVersion = 5, 12
        self.window = sys.modules["qt"].QMainWindow()
        self.window.setObjectName("qSlicerMainWindow")

    def connect(self, signature: str, function: Callable[..., Any]) -> bool:
        if signature != "startupCompleted()":
            return False
        self.started.append(function)
        return True

    def applicationLogic(self) -> Any:
        return self._logic

    def moduleManager(self) -> Any:
        return SimpleNamespace(connect=lambda *_: True, disconnect=lambda *_: True)

    def topLevelWidgets(self) -> list[Any]:
        return [self.window]

    def layoutManager(self) -> None:
        return None

    def testingEnabled(self) -> bool:
        return True

    def setOverrideCursor(self, _: Any) -> None:
        self.cursors += 1

    def restoreOverrideCursor(self) -> None:
        self.cursors -= 1

    def processEvents(self, *_: Any) -> None:
        QtWidgets.QApplication.processEvents()


class ScriptedLoadableModule:
    def __init__(self, parent: Any) -> None:
        self.parent, self.moduleName = parent, type(self).__name__

    def getDefaultModuleDocumentationLink(self) -> str:
        return ""


class ScriptedLoadableModuleWidget:
    def __init__(self, parent: Any = None) -> None:
        import slicer

        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        if parent is None:
            parent = slicer.qMRMLWidget()
            parent.setLayout(QtWidgets.QVBoxLayout())
            parent.setMRMLScene(slicer.mrmlScene)
        self.parent = parent
        self.layout = parent.layout()

    def resourcePath(self, filename: str) -> str:
        import slicer

        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self) -> None:
        pass

    def cleanup(self) -> None:
        pass


class ScriptedLoadableModuleLogic:
    def __init__(self, parent: Any = None) -> None:
        self.moduleName = type(self).__name__.removesuffix("Logic")

    def getParameterNode(self) -> Any:
        import slicer

        scene = slicer.mrmlScene
        node = scene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = scene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
            node.UnRegister(None)
            node.SetSingletonTag(self.moduleName)
            node = scene.AddNode(node)
        node.SetAttribute("ModuleName", self.moduleName)
        return node


class ScriptedLoadableModuleTest:
    messageDelay = 0

    def delayDisplay(self, *_: Any, **__: Any) -> None:
        pass


def _modules(slicer: Any) -> dict[str, types.ModuleType]:
    base = types.ModuleType("slicer.ScriptedLoadableModule")
    for kind in (
        ScriptedLoadableModule,
        ScriptedLoadableModuleWidget,
        ScriptedLoadableModuleLogic,
        ScriptedLoadableModuleTest,
    ):
        setattr(base, kind.__name__, kind)
    i18n = types.ModuleType("slicer.i18n")
    i18n.tr = lambda text: text  # type: ignore[attr-defined]
    i18n.translate = lambda context, text: text  # type: ignore[attr-defined]
    wrapper = types.ModuleType("slicer.parameterNodeWrapper")
    for name in ("parameterNodeWrapper", "WithinRange", "Choice"):
        setattr(wrapper, name, getattr(parameters, name))
    return {
        "qt": pythonqt.module(),
        "ctk": widgets.modules(),
        "slicer.ScriptedLoadableModule": base,
        "slicer.i18n": i18n,
        "slicer.parameterNodeWrapper": wrapper,
    }


@contextlib.contextmanager
def installed(slicer: Any, module_folders: list[Path], temporary: Path) -> Iterator[Application]:
    """While inside, scripted modules of these folders can be imported; ``slicer.mrmlScene`` has to be set before."""
    QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
    QtCore.QCoreApplication.setAttribute(QtCore.Qt.ApplicationAttribute.AA_DontUseNativeDialogs)
    before = set(sys.modules)
    made = _modules(slicer)
    logic = slicer.vtkSlicerApplicationLogic()
    logic.SetMRMLScene(slicer.mrmlScene)
    sys.modules.update(made)
    application = Application(logic, temporary)
    extra = {"app": application, "qMRMLWidget": widgets.qMRMLWidget, "qMRMLNodeComboBox": widgets.qMRMLNodeComboBox}
    extra |= {name.split(".")[1]: m for name, m in made.items() if name.startswith("slicer.")}
    old = {name: getattr(slicer, name, None) for name in extra}
    for name, value in extra.items():
        setattr(slicer, name, value)
    for folder in module_folders:
        sys.path.insert(0, str(folder))
        setattr(slicer.modules, folder.name.lower(), SimpleNamespace(path=str(folder / f"{folder.name}.py")))
    try:
        yield application
    finally:
        for folder in module_folders:
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if name in made or any(name.split(".")[0].startswith(f.name) for f in module_folders):
                del sys.modules[name]
        for name in made:
            sys.modules.pop(name, None)
        for name, value in old.items():
            if value is None:
                delattr(slicer, name)
            else:
                setattr(slicer, name, value)


def make_widget(name: str) -> Any:
    """The widget of a scripted module, set up, as when its panel is shown first."""
    import slicer

    module = importlib.import_module(name)
    widget = getattr(module, f"{name}Widget")(None)
    widget.setup()
    widget.parent.setMRMLScene(slicer.mrmlScene)
    return widget
