"""The panel and the scene: frames and figures on display, keys, other modules, other cines, another scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.backend import Threshold
from qt_shim.harness import Panel


def test_the_selected_frame_is_the_browsers(module: Panel) -> None:
    cine = module.cine(5)
    cine.browser.SetSelectedItemNumber(3)
    assert module.ui.frameSlider.value == 3
    module.ui.frameSlider.value = 1
    assert cine.selected == 1
    assert "Frame 2 of 5, 0.040 s" in module.ui.frameLabel.text


def test_area_and_diameter_of_the_frame_are_in_millimetres(module: Panel) -> None:
    from UltrasoundSegmentLib.masks.status import Status

    module.cine(3)
    module.ui.measureSection.collapsed = False
    mask = np.zeros((240, 320), np.uint8)
    mask[100:140, 120:200] = 1
    module.desk.masks(["cavity"]).write(0, mask, Status.EDITED, annotator="anna")
    assert module.ui.measureLabel.text.startswith("800.0 mm²")
    module.desk.go(1)
    assert module.ui.measureLabel.text == "No mask."


def test_area_over_time_is_a_chart_of_the_frames_with_a_mask(module: Panel, scene: Any) -> None:
    module.cine(12)
    module.connect(Threshold())
    module.parameters.labels = "cavity"
    module.ui.plotButton.click()
    assert "no masks yet" in module.ui.messageLabel.text
    module.parameters.scope = type(module.parameters.scope).ALL
    module.ui.segmentButton.click()
    module.idle()
    module.desk.go(0)
    module.ui.skipButton.click()
    module.ui.plotButton.click()
    module.run(lambda: not module.widget.measure.tasks.busy)
    chart = module.widget.measure.chart
    assert chart.GetXAxisTitle() == "time (s)"
    assert chart.GetYAxisTitle() == "area (mm²)"
    series = scene.GetNodeByID(chart.GetNthPlotSeriesNodeID(0))
    table = series.GetTableNode().GetTable()
    assert table.GetNumberOfRows() == 11
    assert table.GetValue(0, 0).ToInt() == 2
    assert table.GetValue(0, 1).ToDouble() == pytest.approx(0.04)
    assert table.GetValue(0, 2).ToDouble() == pytest.approx(module.widget.measure.of_frame(1).area_mm2)


def test_keys_press_the_buttons_while_the_module_is_shown(module: Panel) -> None:
    module.cine(4)
    shortcuts = {s.key.toString(): s for s in module.widget.shortcuts._installed}
    assert set(shortcuts) == {"A", "S", "U", "Left", "Right", "Esc"}
    shortcuts["A"].activated.emit()
    shortcuts["S"].activated.emit()
    assert [s.value for s in module.desk.store.statuses()] == ["accepted", "skipped", "empty", "empty"]
    shortcuts["Left"].activated.emit()
    assert module.desk.cine.selected == 1
    module.widget.exit()
    assert not module.widget.shortcuts._installed
    module.widget.enter()
    assert len(module.widget.shortcuts._installed) == 6


def test_a_cine_is_chosen_in_the_selector_also_after_another_module_was_shown(module: Panel) -> None:
    first, second = module.cine(3), module.cine(5)
    module.widget.exit()
    module.widget.enter()
    module.ui.cineSelector.setCurrentNode(first.browser)
    assert module.desk.cine.count == 3
    module.ui.cineSelector.setCurrentNode(second.browser)
    assert module.desk.cine.count == 5
    module.ui.cineSelector.setCurrentNode(None)
    assert module.desk.cine is None


def test_a_sequence_without_images_is_refused_with_the_reason(module: Panel, scene: Any) -> None:
    module.cine(3)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode")
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    sequence.SetDataNodeAtValue(transform, "0")
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "tracker")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    module.ui.cineSelector.setCurrentNode(browser)
    assert "holds no sequence of images" in module.ui.messageLabel.text
    assert module.desk.cine is None
    assert module.ui.calibrationLabel.text == "No cine."
    module.cine(2)
    assert module.desk.cine.count == 2


def test_what_runs_goes_on_while_another_module_is_shown(module: Panel, caplog: pytest.LogCaptureFixture) -> None:
    module.cine(4)
    module.connect(Threshold(pause_s=0.02))
    module.parameters.scope = type(module.parameters.scope).ALL
    module.ui.segmentButton.click()
    module.widget.exit()
    module.desk.set_backend(module.desk.backend, module.desk.models)
    module.idle()
    module.desk.set_backend(None, [])
    module.widget.enter()
    assert module.desk.cine.count == 4
    assert "A listener failed" not in caplog.text


def test_the_scene_is_closed_and_another_opened(module: Panel, scene: Any) -> None:
    module.cine(4)
    module.connect(Threshold(pause_s=0.05))
    module.parameters.scope = type(module.parameters.scope).ALL
    module.ui.segmentButton.click()
    module.run(lambda: module.desk.session.is_busy)
    scene.Clear()
    module.idle()
    assert module.desk.cine is None
    assert module.ui.calibrationLabel.text == "No cine."
    cine = module.cine(3)
    assert module.desk.cine.browser is cine.browser
    module.ui.acceptButton.click()
    assert module.desk.store.status(0).value == "accepted"


def test_masks_are_there_again_after_another_cine_was_looked_at(module: Panel) -> None:
    first = module.cine(3)
    module.ui.acceptButton.click()
    module.cine(5)
    assert module.desk.store is None
    module.parameters.browser = first.browser
    assert [s.value for s in module.desk.store.statuses()] == ["accepted", "empty", "empty"]


def test_the_self_test_of_the_module_runs_on_the_core(module: Panel) -> None:
    import unittest

    from UltrasoundSegment import UltrasoundSegmentLogic
    from UltrasoundSegmentWidgets.self_test import draw_and_measure

    draw_and_measure(unittest.TestCase(), UltrasoundSegmentLogic())
