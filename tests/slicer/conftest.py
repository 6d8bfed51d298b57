"""A stand-in for the Slicer application around the real MRML core: a scene with the logics that a module relies on."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # no window on anybody's screen, and none needed
LIBRARY = Path(__file__).resolve().parents[2] / "slicer_extension" / "UltrasoundSegment"
if str(LIBRARY) not in sys.path:
    sys.path.insert(0, str(LIBRARY))

_LOGICS = {
    "subjecthierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "volumes": "vtkSlicerVolumesLogic",
    "segmentations": "vtkSlicerSegmentationsModuleLogic",
    "markups": "vtkSlicerMarkupsLogic",
    "tables": "vtkSlicerTablesLogic",
    "plots": "vtkSlicerPlotsLogic",
    "sequences": "vtkSlicerSequencesLogic",
}
"""Class by the name of the module, in the order of loading."""


def new_scene(slicer: Any, cache: str | Path) -> tuple[Any, dict[str, Any]]:
    """A scene as the application sets it up, and the logics by the name of their module, which keep it running.

    The sequences' logic is among them: it shows a browser's selected item on the proxy nodes. In the folder ``cache``
    scene files (.mrb) are unpacked when they are read.
    """
    scene = slicer.vtkMRMLScene()
    caches, files = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
    caches.SetRemoteCacheDirectory(str(cache))
    files.SetCacheManager(caches)
    scene.SetCacheManager(caches)
    scene.SetDataIOManager(files)
    application = slicer.vtkSlicerApplicationLogic()
    application.SetMRMLScene(scene)
    logics: dict[str, Any] = {"application": application}
    for name, kind in _LOGICS.items():
        logic = getattr(slicer, kind)()
        if hasattr(logic, "SetMRMLApplicationLogic"):
            logic.SetMRMLApplicationLogic(application)
        logic.SetMRMLScene(scene)
        application.SetModuleLogic(name.capitalize(), logic)
        logics[name] = logic
    scene.AddNewNodeByClass("vtkMRMLSelectionNode")
    return scene, logics


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty scene of the real MRML core, which is also ``slicer.mrmlScene``; ``slicer.modules`` has the logics.

    Skips where slicer-core is not installed.
    """
    slicer = pytest.importorskip("slicer", reason="needs slicer-core: pip install slicer-core")
    if not hasattr(slicer, "vtkMRMLScene"):
        pytest.skip("another package of the name slicer is installed: pip install slicer-core")
    folder = tempfile.TemporaryDirectory()
    # Each logic of segmentations registers its rules with the process, which slow every segmentation down.
    factory = slicer.vtkSegmentationConverterFactory.GetInstance()
    before = len(factory.GetConverterRules())
    scene, logics = new_scene(slicer, folder.name)
    modules = SimpleNamespace(
        **{name: SimpleNamespace(logic=lambda logic=logic: logic) for name, logic in logics.items()}
    )
    monkeypatch.setattr(slicer, "mrmlScene", scene, raising=False)
    monkeypatch.setattr(slicer, "modules", modules, raising=False)
    yield scene
    scene.Clear(True)
    for logic in reversed(list(logics.values())):
        logic.SetMRMLScene(None)
    for rule in factory.GetConverterRules()[before:]:
        factory.UnregisterConverterRule(rule)
    folder.cleanup()


@pytest.fixture
def module(scene: Any, tmp_path: Path) -> Iterator[Any]:
    """The module's panel on the scene, a ``Panel``."""
    pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")
    from qt_shim.harness import panel

    with panel(scene, tmp_path) as made:
        yield made
