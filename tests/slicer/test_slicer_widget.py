"""The panel on the real MRML core: every parameter bound both ways, and what the buttons do."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.backend import Threshold
from qt_shim.harness import Panel

OTHER: dict[str, Any] = {
    "sourceFile": "clip.dcm",
    "sweepKind": "ROTATIONAL",
    "sweepCount": 90,
    "sweepStepMm": 1.5,
    "rulerLengthMm": 25.0,
    "backendKind": "LOCAL",
    "serverUrl": "https://us.example.org",
    "certificate": "ca.pem",
    "localModel": "model.onnx",
    "labels": "left, right",
    "model": "segmentation",
    "scope": "ALL",
    "firstFrame": 3,
    "lastFrame": 9,
    "live": False,
    "propagateCount": 12,
    "annotator": "anna",
    "exportForm": "DICOM_SEG",
    "exportFolder": "out",
    "exportDrafts": True,
    "importFile": "seg.dcm",
}
"""Another value for each parameter that is no node."""
NODES = {
    "browser": None,
    "volume": "vtkMRMLScalarVolumeNode",
    "plane": "vtkMRMLMarkupsPlaneNode",
    "axis": "vtkMRMLMarkupsLineNode",
}


def widget_of(module: Panel, name: str) -> Any:
    return next(w for w in vars(module.ui).values() if w.property("SlicerParameterName") == name)


def shown(widget: Any) -> Any:
    for attribute in ("checked", "value", "currentText", "text"):
        if attribute == "checked" and widget.className() != "QCheckBox":
            continue
        if hasattr(widget, attribute):
            return getattr(widget, attribute)
    raise AssertionError(widget)


def test_the_table_of_parameters_is_complete(module: Panel) -> None:
    assert set(OTHER) | set(NODES) == set(type(module.parameters).allParameters)


def test_every_parameter_shows_on_its_widget_and_the_widget_sets_it(module: Panel) -> None:
    for name, other in OTHER.items():
        widget, before = widget_of(module, name), getattr(module.parameters, name)
        shown_before, kind = shown(widget), type(before)
        value = kind[other] if isinstance(other, str) and kind is not str else other
        assert value != before, name
        setattr(module.parameters, name, value)
        assert shown(widget) != shown_before, name
        if widget.className() == "QCheckBox":
            widget.click()
        elif widget.className() == "QComboBox":
            widget.currentIndex = list(kind).index(before)
        elif widget.className() == "QLineEdit":
            widget.text = before
        else:
            widget.value = before
        assert getattr(module.parameters, name) == before, name
        assert shown(widget) == shown_before, name


@pytest.mark.parametrize("name", NODES)
def test_a_node_shows_in_its_selector_and_the_selector_sets_it(module: Panel, scene: Any, name: str) -> None:
    selector = widget_of(module, name)
    node = module.cine(2).browser if name == "browser" else scene.AddNewNodeByClass(NODES[name])
    setattr(module.parameters, name, None)
    assert selector.currentNode() is None
    setattr(module.parameters, name, node)
    assert selector.currentNode() is node
    selector.setCurrentNode(None)
    assert getattr(module.parameters, name) is None


def test_a_signal_that_does_not_exist_is_noticed(module: Panel, capfd: pytest.CaptureFixture[str]) -> None:
    from UltrasoundSegmentWidgets.panel import wire

    assert module.ui.acceptButton.connect("nosuch()", print) is False
    with pytest.raises(RuntimeError, match="acceptButton has no signal nosuch"):
        wire(module.ui.acceptButton, "nosuch()", print)


def test_calibration_and_frame_time_are_shown_with_their_source(module: Panel) -> None:
    module.cine(4)
    assert "0.5 x 0.5 mm (volume geometry)" in module.ui.calibrationLabel.text
    assert module.ui.timeLabel.text == "40 ms (sequence index)"


def test_a_missing_calibration_is_a_warning_in_colour_until_a_ruler_is_drawn(module: Panel, scene: Any) -> None:
    from UltrasoundSegmentLib.frames.build import Facts, build_cine
    from UltrasoundSegmentWidgets.panel import WARNING

    images = ((np.full((60, 80), 90, np.uint8), np.diag([-1.0, -1.0, 1.0, 1.0])) for _ in range(2))
    module.parameters.browser = build_cine(scene, "unknown", images, None, Facts()).browser
    assert WARNING in module.ui.calibrationLabel.text
    assert WARNING in module.ui.timeLabel.text
    module.ui.rulerApplyButton.click()
    assert "Draw the ruler first" in module.ui.messageLabel.text
    module.ui.rulerButton.click()
    line = module.widget.source.marks.node("ruler")
    line.AddControlPointWorld(-10, -20, 0)
    line.AddControlPointWorld(-10, -40, 0)
    module.parameters.rulerLengthMm = 5.0
    module.ui.rulerApplyButton.click()
    assert module.ui.messageLabel.text == ""
    assert "0.25 x 0.25 mm (ruler)" in module.ui.calibrationLabel.text
    assert module.desk.cine.calibration.spacing_mm == pytest.approx((0.25, 0.25))
    module.ui.rulerClearButton.click()
    assert module.desk.cine.calibration.spacing_mm is None


def test_a_region_is_drawn_and_taken_back(module: Panel) -> None:
    cine = module.cine(2)
    module.ui.regionButton.click()
    roi = module.widget.source.marks.node("region")
    first, last = (cine.frame(0).ijk_to_ras @ [x, y, 0, 1] for x, y in ((40, 30), (200, 190)))
    roi.SetCenterWorld(*((first + last) / 2)[:3])
    roi.SetSizeWorld(*np.abs(last - first)[:2], 1.0)
    module.ui.regionApplyButton.click()
    assert cine.region == (40, 30, 201, 191)
    assert module.ui.regionLabel.text == "40, 30 to 201, 191"
    module.ui.regionClearButton.click()
    assert cine.region is None


def test_nothing_is_contacted_before_connect_is_pressed(module: Panel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        module.ui.serverEdit.text = f"http://127.0.0.1:{listening.getsockname()[1]}"
        module.ui.tokenEdit.text = "secret"
        module.cine(2)
        module.ui.segmentButton.click()
        module.ui.nextSampleButton.click()
        module.idle()
        with pytest.raises(TimeoutError):
            listening.accept()
        assert "Nothing is sent" in module.ui.backendLabel.text
        module.ui.connectButton.click()
        listening.settimeout(5)
        connection, _ = listening.accept()
        assert b"Authorization: Bearer secret" in connection.recv(4096)
        assert module.ui.disconnectButton.enabled
        module.ui.disconnectButton.click()
        connection.close()
        module.idle()
    assert "Nothing is sent" in module.ui.backendLabel.text
    assert module.ui.connectButton.enabled


def test_a_server_that_is_not_there_is_said(module: Panel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    module.ui.serverEdit.text = f"http://127.0.0.1:{port}"
    module.ui.connectButton.click()
    module.idle()
    assert "does not answer" in module.ui.backendLabel.text
    assert module.ui.connectButton.enabled


def test_the_token_is_not_saved_with_the_scene(module: Panel, scene: Any, tmp_path: Path) -> None:
    module.ui.tokenEdit.text = "very-secret-token"
    module.ui.serverEdit.text = "https://us.example.org"
    module.cine(2)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Commit()
    saved = (tmp_path / "scene.mrml").read_text(encoding="utf-8")
    assert "us.example.org" in saved
    assert "very-secret-token" not in saved


def test_one_frame_is_segmented_and_the_strip_shows_it(module: Panel) -> None:
    module.cine(6)
    module.connect(Threshold())
    module.ui.labelsEdit.text = "cavity"
    module.desk.go(2)
    module.ui.segmentButton.click()
    module.run(lambda: module.widget.review.strip.statusAt(2) == "predicted")
    assert [module.widget.review.strip.statusAt(i) for i in (0, 1, 3)] == ["empty"] * 3
    assert "predicted, confidence 0.90" in module.ui.frameLabel.text
    assert module.desk.store.labels == ("cavity",)
    assert not module.ui.progressBar.visible


def test_frames_that_the_model_was_not_made_for_are_told_and_marked_until_they_are_drawn(module: Panel) -> None:
    from UltrasoundSegmentLib.masks.status import Status
    from UltrasoundSegmentWidgets.panel import WARNING

    words = "unlike the frames this model was made for"
    module.cine(6)
    module.connect(Threshold(unfamiliarities=(0.4, 1.7, 1.0, None, 2.5, 0.2)))
    module.parameters.scope = type(module.parameters.scope).ALL
    module.ui.segmentButton.click()
    module.idle()
    assert f"2 frames are {words}: 2, 5." in module.ui.messageLabel.text
    for index in range(6):
        module.desk.go(index)
        shown = module.ui.frameLabel.text
        assert (words in shown) == (WARNING in shown) == (index in (1, 4)), shown
        assert (words in module.widget.review.strip.describe(index)) == (index in (1, 4))
    module.desk.go(1)
    module.ui.acceptButton.click()  # the person's decision does not make the frame another
    module.desk.go(1)
    assert "accepted" in module.ui.frameLabel.text and words in module.ui.frameLabel.text
    store = module.desk.store
    store.write(4, store.mask(4), Status.EDITED, annotator="anna")
    assert store.unfamiliarity(4) is None and not module.widget.review.unlike(4)
    module.desk.go(4)
    assert words not in module.ui.frameLabel.text


def test_a_warning_is_saved_with_the_scene_and_comes_back_when_prompts_are_undone(module: Panel) -> None:
    from UltrasoundSegmentLib.masks.store import MaskStore

    module.cine(3)
    module.connect(Threshold(unfamiliarities=(3.0,)))
    module.ui.segmentButton.click()
    module.idle()
    assert MaskStore.of(module.desk.cine).unfamiliarity(0) == 3.0  # it lies in the scene, and nowhere else
    module.draw("include", (40, 30))
    module.idle()
    assert module.desk.store.info(0)["status"].value == "edited" and module.desk.store.unfamiliarity(0) is None
    module.ui.undoPromptsButton.click()
    assert module.desk.store.unfamiliarity(0) == 3.0


def test_a_range_is_segmented_and_what_a_person_accepted_stays(module: Panel) -> None:
    module.cine(8)
    module.connect(Threshold())
    module.parameters.labels, module.parameters.annotator = "cavity", "anna"
    module.desk.go(3)
    module.ui.acceptButton.click()
    assert module.desk.cine.selected == 4
    module.parameters.scope = type(module.parameters.scope).RANGE
    module.parameters.firstFrame, module.parameters.lastFrame = 3, 6
    module.ui.segmentButton.click()
    module.idle()
    statuses = [status.value for status in module.desk.store.statuses()]
    assert statuses == ["empty", "empty", "predicted", "accepted", "predicted", "predicted", "empty", "empty"]
    assert not module.desk.store.mask(3).any()
    assert module.desk.store.info(3)["annotator"] == "anna"


def test_progress_appears_only_after_a_while_and_cancel_stops(module: Panel) -> None:
    module.cine(30)
    slow = Threshold(pause_s=0.1)
    module.connect(slow)
    module.parameters.scope = type(module.parameters.scope).ALL
    module.ui.segmentButton.click()
    module.run(lambda: slow.asked.count("segment") >= 2)
    assert not module.ui.progressBar.visible
    module.run(lambda: module.ui.progressBar.visible and module.ui.progressBar.value > 0)
    module.ui.cancelButton.click()
    module.idle(2)
    assert not module.ui.progressBar.visible
    assert slow.asked.count("segment") < 30
    assert module.desk.store.statuses()[-1].value == "empty"


def test_the_next_uncertain_frame_is_shown_and_skipped(module: Panel) -> None:
    module.cine(6)
    module.connect(Threshold(confidences=(0.95, 0.9, 0.4, 0.9, 0.3, 0.9)))
    module.parameters.scope = type(module.parameters.scope).ALL
    module.ui.segmentButton.click()
    module.idle()
    module.ui.uncertainButton.click()
    assert module.desk.cine.selected == 2
    module.ui.skipButton.click()
    assert module.widget.review.strip.statusAt(2) == "skipped"
    module.ui.uncertainButton.click()
    assert module.desk.cine.selected == 4
    module.ui.previousButton.click()
    assert module.desk.cine.selected == 3
    module.ui.nextButton.click()
    assert module.desk.cine.selected == 4
