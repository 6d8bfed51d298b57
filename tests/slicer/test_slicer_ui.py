"""The .ui file and the sources agree: classes, parameters, names of widgets, tooltips, and what may be imported."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "slicer_extension" / "UltrasoundSegment"
UI = MODULE / "Resources" / "UI" / "UltrasoundSegment.ui"
MAIN = MODULE / "UltrasoundSegment.py"
WIDGETS = sorted((MODULE / "UltrasoundSegmentWidgets").glob("*.py"))
LIBRARY = sorted((MODULE / "UltrasoundSegmentLib").rglob("*.py"))
EFFECT = sorted((MODULE.parent / "SegmentEditorUltrasound").rglob("*.py"))

QT = {"QCheckBox", "QComboBox", "QDoubleSpinBox", "QLabel", "QLineEdit", "QProgressBar", "QPushButton", "QSlider"}
QT |= {"QSpinBox", "QToolButton", "QWidget"}
SLICER = {"ctkCollapsibleButton", "qMRMLNodeComboBox", "qMRMLWidget"}
REMOVED = {"imp", "cgi", "cgitb", "distutils", "asyncore", "asynchat", "smtpd", "pipes", "telnetlib", "crypt"}
"""Modules that Python 3.12 or 3.13 has no more."""


def widgets() -> dict[str, ET.Element]:
    return {w.get("name", ""): w for w in ET.parse(UI).iter("widget")}


def prop(widget: ET.Element, name: str) -> str | None:
    for given in widget.findall("property"):
        if given.get("name") == name:
            return "".join(given.itertext()).strip()
    return None


def fields() -> list[str]:
    """Names of the fields of the parameter node, from the source."""
    for node in ast.walk(ast.parse(MAIN.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name.endswith("ParameterNode"):
            return [part.target.id for part in node.body if isinstance(part, ast.AnnAssign)]
    raise AssertionError("no parameter node")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module or "")
    return found


def test_every_class_of_the_ui_is_one_that_slicer_offers() -> None:
    found = {w.get("class") for w in widgets().values()}
    assert found <= QT | SLICER
    declared = {c.findtext("class") for c in ET.parse(UI).iter("customwidget")}
    assert declared == found & SLICER


def test_names_of_widgets_are_unique() -> None:
    names = [w.get("name") for w in ET.parse(UI).iter("widget")]
    assert len(names) == len(set(names))


def test_every_parameter_has_one_widget_and_every_named_parameter_exists() -> None:
    named = [prop(w, "SlicerParameterName") for w in widgets().values()]
    named = [name for name in named if name]
    assert sorted(named) == sorted(fields())


def test_parameters_do_not_hold_the_token() -> None:
    assert not [name for name in fields() if "token" in name.lower() or "password" in name.lower()]
    assert prop(widgets()["tokenEdit"], "SlicerParameterName") is None
    assert (prop(widgets()["tokenEdit"], "echoMode") or "").endswith("Password")


@pytest.mark.parametrize("path", [MAIN, *WIDGETS], ids=lambda p: p.name)
def test_every_widget_that_the_sources_name_exists(path: Path) -> None:
    used = set(re.findall(r"\bui\.(\w+)", path.read_text(encoding="utf-8")))
    assert used <= set(widgets()) - {""}


def test_every_widget_is_used() -> None:
    sources = "".join(p.read_text(encoding="utf-8") for p in [MAIN, *WIDGETS])
    idle = [
        name
        for name, w in widgets().items()
        if w.get("class") not in {"QLabel", "ctkCollapsibleButton", "qMRMLWidget"}
        and name not in sources
        and not prop(w, "SlicerParameterName")
    ]
    assert not idle


def test_what_can_be_set_or_pressed_says_what_it_does() -> None:
    silent = [
        name
        for name, w in widgets().items()
        if w.get("class") not in {"QLabel", "QWidget", "QProgressBar", *SLICER - {"qMRMLNodeComboBox"}}
        and not prop(w, "toolTip")
    ]
    assert not silent


def test_labels_belong_to_the_field_beside_them() -> None:
    names = widgets()
    buddies = [prop(w, "buddy") for name, w in names.items() if name.endswith("_")]
    assert buddies
    assert all(buddy in names for buddy in buddies)


def test_the_scene_reaches_every_selector() -> None:
    selectors = {name for name, w in widgets().items() if w.get("class") == "qMRMLNodeComboBox"}
    connected = {
        c.findtext("receiver")
        for c in ET.parse(UI).iter("connection")
        if c.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)" and c.findtext("sender") == "UltrasoundSegment"
    }
    assert selectors == connected


def test_the_module_file_is_short() -> None:
    assert len(MAIN.read_text(encoding="utf-8").splitlines()) < 300


@pytest.mark.parametrize("path", [MAIN, *WIDGETS, *LIBRARY, *EFFECT], ids=lambda p: str(p.relative_to(MODULE.parent)))
def test_nothing_is_imported_that_newer_python_or_qt_lack(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)}
    assert not roots & REMOVED
    assert roots - {"slicer"} <= set(sys.stdlib_module_names) | {
        "numpy", "vtk", "requests", "pydicom", "SimpleITK", "sonodistill", "qt", "ctk", "SampleData", "onnxruntime",
        "openvino", "SegmentEditorEffects", "qSlicerSegmentationsEditorEffectsPythonQt", "UltrasoundSegmentLib",
        "UltrasoundSegmentWidgets", "SegmentEditorUltrasoundLib", "cv2", "highdicom", "PIL", "av",
        "UltrasoundSegment",
    }  # fmt: skip
    assert "QTextCodec" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: str(p.relative_to(MODULE)))
def test_the_library_knows_no_qt(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path)} & {"qt", "ctk", "PySide6", "PythonQt"}
    assert not [
        name for name in imports(path) if "ScriptedLoadableModule" in name or "UltrasoundSegmentWidgets" in name
    ]


def test_texts_that_the_panel_shows_are_translated() -> None:
    """A string that is assigned to a text or a tooltip goes through the translation, or has no letters."""
    raw = []
    for path in WIDGETS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                names = [t.attr for t in node.targets if isinstance(t, ast.Attribute)]
                if {"text", "toolTip"} & set(names) and any(c.isalpha() for c in node.value.value):
                    raw.append(f"{path.name}:{node.lineno}")
    assert not raw
