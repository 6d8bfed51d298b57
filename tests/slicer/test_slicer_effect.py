"""The Segment Editor effect: registered, set up, clicks to prompts, Apply as one undoable change."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.harness import EXTENSION, Panel, panel

SOURCE = EXTENSION / "SegmentEditorUltrasound" / "SegmentEditorUltrasoundLib" / "SegmentEditorEffect.py"


class ScriptedEffect:
    """qSlicerSegmentEditorScriptedEffect, as far as the effect asks for it."""

    def __init__(self, volume: Any) -> None:
        self.volume = volume
        self.parameters: dict[str, Any] = {}
        self.options: list[Any] = []
        self.calls: list[Any] = []

    def setParameterDefault(self, name: str, value: Any) -> None:
        self.parameters.setdefault(name, value)

    def setParameter(self, name: str, value: Any) -> None:
        self.parameters[name] = value

    def integerParameter(self, name: str) -> int:
        return int(self.parameters[name])

    def addOptionsWidget(self, widget: Any) -> None:
        self.options.append(widget)

    def parameterSetNode(self) -> Any:
        return SimpleNamespace(GetSourceVolumeNode=lambda: self.volume)

    def defaultModifierLabelmap(self) -> Any:
        import slicer

        labelmap = slicer.vtkOrientedImageData()
        labelmap.SetDimensions(*self.volume.GetImageData().GetDimensions())
        labelmap.AllocateScalars(3, 1)
        labelmap.GetPointData().GetScalars().Fill(0)
        return labelmap

    def saveStateForUndo(self) -> None:
        self.calls.append("saveStateForUndo")

    def modifySelectedSegmentByLabelmap(self, labelmap: Any, mode: int) -> None:
        from vtk.util.numpy_support import vtk_to_numpy

        columns, rows, _ = labelmap.GetDimensions()
        values = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(rows, columns).copy()
        self.calls.append(("modify", mode, values))


@pytest.fixture
def module(scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panel]:
    import slicer

    base = types.ModuleType("SegmentEditorEffects")

    class AbstractScriptedSegmentEditorEffect:
        def __init__(self, scriptedEffect: Any) -> None:
            self.scriptedEffect = scriptedEffect

    base.AbstractScriptedSegmentEditorEffect = AbstractScriptedSegmentEditorEffect
    monkeypatch.setitem(sys.modules, "SegmentEditorEffects", base)
    monkeypatch.setattr(
        slicer, "qSlicerSegmentEditorAbstractEffect", SimpleNamespace(ModificationModeSet=0), raising=False
    )
    with panel(scene, tmp_path) as made:
        slicer.modules.ultrasoundsegment.widgetRepresentation = lambda: SimpleNamespace(self=lambda: made.widget)
        yield made


@pytest.fixture
def effect(module: Panel) -> Any:
    from SegmentEditorUltrasoundLib.SegmentEditorEffect import SegmentEditorEffect

    cine = module.cine(2)
    made = SegmentEditorEffect(ScriptedEffect(cine.proxy()))
    made.setupOptionsFrame()
    made.setMRMLDefaults()
    made.updateGUIFromMRML()
    made.activate()
    return made


def ras_of(module: Panel, x: float, y: float) -> tuple[float, float, float]:
    return tuple((module.desk.cine.frame(0).ijk_to_ras @ [x, y, 0, 1])[:3])


def test_the_hidden_module_registers_the_effect(module: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    from SegmentEditorUltrasound import SegmentEditorUltrasound

    registered: list[str] = []

    class Scripted:
        def __init__(self, parent: Any) -> None:
            self.source = ""

        def setPythonSource(self, path: str) -> None:
            self.source = path

        def self(self) -> Any:
            return SimpleNamespace(register=lambda: registered.append(self.source))

    effects = types.ModuleType("qSlicerSegmentationsEditorEffectsPythonQt")
    effects.qSlicerSegmentEditorScriptedEffect = Scripted
    monkeypatch.setitem(sys.modules, effects.__name__, effects)
    before = len(module.application.started)
    hidden = SegmentEditorUltrasound(SimpleNamespace(path=str(SOURCE)))
    assert hidden.parent.hidden is True
    module.application.started[before]()
    assert registered == [SOURCE.as_posix()]


def test_options_are_set_up_and_bound_to_the_parameters(effect: Any) -> None:
    assert effect.scriptedEffect.name == "Ultrasound prompts"
    assert len(effect.scriptedEffect.options) == 6
    assert effect.liveCheck.checked
    effect.liveCheck.click()
    assert effect.scriptedEffect.integerParameter("Ultrasound.Live") == 0
    effect.scriptedEffect.setParameter("Ultrasound.Live", 1)
    effect.updateGUIFromMRML()
    assert effect.liveCheck.checked
    assert not effect.icon().isNull()
    assert "Apply" in effect.helpText()


def test_a_click_without_a_backend_says_what_to_do(module: Panel, effect: Any) -> None:
    effect.click(ras_of(module, 160, 130), inside=True)
    assert "connect a backend in Ultrasound Segment" in effect.stateLabel.text
    assert not effect.applyButton.enabled


def test_clicks_become_prompts_and_apply_is_one_undoable_change(module: Panel, effect: Any) -> None:
    from qt_shim.backend import Threshold, dark

    asked = Threshold()
    module.connect(asked)
    effect.click(ras_of(module, 160, 130), inside=True)
    module.idle()
    effect.click(ras_of(module, 40, 50), inside=False)
    module.idle()
    np.testing.assert_allclose(asked.prompts[-1].positive, [(160, 130)], atol=1e-6)
    np.testing.assert_allclose(asked.prompts[-1].negative, [(40, 50)], atol=1e-6)
    assert effect.applyButton.enabled
    assert effect.scriptedEffect.calls == []
    effect.applyButton.click()
    first, (name, mode, values) = effect.scriptedEffect.calls
    assert (first, name, mode) == ("saveStateForUndo", "modify", 0)
    np.testing.assert_array_equal(values, dark(module.desk.cine.frame(0).image))
    assert not effect.applyButton.enabled


def test_points_are_taken_back_and_cleared(module: Panel, effect: Any) -> None:
    from qt_shim.backend import Threshold

    asked = Threshold()
    module.connect(asked)
    effect.click(ras_of(module, 160, 130), inside=True)
    effect.click(ras_of(module, 40, 50), inside=False)
    module.idle()
    effect.undoButton.click()
    module.idle()
    assert asked.prompts[-1].negative == ()
    effect.undoButton.click()
    assert effect.clicks.positive == []
    assert not effect.applyButton.enabled


def test_a_point_beside_the_image_and_an_image_of_many_slices_are_refused(module: Panel, effect: Any) -> None:
    from qt_shim.backend import Threshold

    import slicer

    module.connect(Threshold())
    effect.click(ras_of(module, 1000, 130), inside=True)
    assert "beside the image" in effect.stateLabel.text
    effect.clear()
    effect.scriptedEffect.volume = slicer.util.addVolumeFromArray(np.zeros((4, 20, 30), np.uint8))
    effect.click((0.0, 0.0, 0.0), inside=True)
    assert "slice it into frames" in effect.stateLabel.text


def test_colour_and_deep_images_become_gray_frames(module: Panel) -> None:
    from UltrasoundSegmentWidgets.effect import frame_of

    colour = np.zeros((1, 4, 5, 3), np.uint8)
    colour[..., 1] = 200
    assert frame_of(colour, np.eye(4)).image.dtype == np.uint8
    deep = frame_of(np.arange(20, dtype=np.int16).reshape(1, 4, 5) * 100, np.eye(4)).image
    assert (deep.min(), deep.max()) == (0, 255)
    assert frame_of(np.full((1, 4, 5), 7.0), np.eye(4)).image.shape == (4, 5)


def test_the_effect_is_loaded_as_slicer_loads_it(module: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """qSlicerSegmentEditorScriptedEffect runs the file as a module of its folder's name, which is no package then."""
    alone = types.ModuleType(SOURCE.parent.name)
    monkeypatch.setitem(sys.modules, alone.__name__, alone)
    exec(compile(SOURCE.read_text(encoding="utf-8"), str(SOURCE), "exec", dont_inherit=True), alone.__dict__)
    assert alone.SegmentEditorEffect(ScriptedEffect(None)).helpText()


def test_the_module_is_read_before_python_knows_it_by_its_name(module: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types of the parameters are real ones, not names to be looked up in a module that may still be empty."""
    monkeypatch.setitem(sys.modules, "UltrasoundSegment", types.ModuleType("UltrasoundSegment"))
    source = EXTENSION / "UltrasoundSegment" / "UltrasoundSegment.py"
    space: dict[str, Any] = {"__name__": "UltrasoundSegment", "__file__": str(source)}
    exec(compile(source.read_text(encoding="utf-8"), str(source), "exec", dont_inherit=True), space)
    types_of = space["UltrasoundSegmentParameterNode"].__annotations__
    assert not any(isinstance(each, str) for each in types_of.values())
