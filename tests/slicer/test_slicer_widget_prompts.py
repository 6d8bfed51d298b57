"""The panel and prompts: drawn, sent as they are or at once, taken back, and carried on from frame to frame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.backend import Threshold
from qt_shim.harness import Panel


def test_points_are_sent_as_they_are_drawn_in_pixels_of_the_frame(module: Panel) -> None:
    module.cine(4)
    asked = Threshold()
    module.connect(asked)
    module.desk.go(1)
    module.draw("include", (160, 130))
    module.run(lambda: "refine" in asked.asked)
    module.idle()
    module.draw("exclude", (40, 50))
    module.run(lambda: len(asked.prompts) > 1)
    module.idle()
    last = asked.prompts[-1]
    np.testing.assert_allclose(last.positive, [(160, 130)], atol=1e-6)
    np.testing.assert_allclose(last.negative, [(40, 50)], atol=1e-6)
    assert module.widget.review.strip.statusAt(1) == "edited"
    assert module.desk.store.mask(1)[130, 160] == 1
    assert [module.desk.store.status(i).value for i in (0, 2, 3)] == ["empty"] * 3


def test_box_and_scribble_wait_for_refine_when_not_live(module: Panel) -> None:
    module.cine(3)
    asked = Threshold()
    module.connect(asked)
    module.ui.liveCheck.click()
    module.ui.refineButton.click()
    assert "Draw a prompt first" in module.ui.messageLabel.text
    module.draw("scribble", (150, 120), (160, 130), (170, 132))
    module.draw("erase", (20, 20), (30, 24))
    module.ui.boxButton.click()
    roi = module.widget.segment.prompt_nodes.node("box")
    frame = module.desk.cine.frame(0)
    first, last = (frame.ijk_to_ras @ [x, y, 0, 1] for x, y in ((100, 90), (220, 170)))
    roi.SetCenterWorld(*((first + last) / 2)[:3])
    roi.SetSizeWorld(*np.abs(last - first)[:2], 2.0)
    module.idle()
    assert not asked.prompts
    module.ui.refineButton.click()
    module.idle()
    assert asked.prompts[0].box == pytest.approx((100, 90, 220, 170), abs=1e-6)
    np.testing.assert_allclose(asked.prompts[0].scribbles[0], [(150, 120), (160, 130), (170, 132)], atol=1e-6)
    np.testing.assert_allclose(asked.prompts[0].negative_scribbles[0], [(20, 20), (30, 24)], atol=1e-6)


def test_half_a_scribble_asks_nothing_yet(module: Panel) -> None:
    module.cine(2)
    asked = Threshold()
    module.connect(asked)
    module.draw("scribble", (150, 120))
    module.idle()
    assert asked.prompts == []
    assert module.ui.messageLabel.text == ""


def test_prompts_are_taken_back_with_what_they_drew(module: Panel) -> None:
    module.cine(3)
    module.connect(Threshold())
    module.draw("include", (160, 130))
    module.idle()
    assert module.desk.store.status(0).value == "edited"
    module.ui.undoPromptsButton.click()
    module.idle()
    assert module.desk.store.status(0).value == "empty"
    assert not module.desk.store.mask(0).any()
    module.draw("include", (160, 130))
    module.idle()
    module.ui.clearPromptsButton.click()
    assert module.desk.store.status(0).value == "edited"
    assert module.widget.segment.prompt_nodes.node("include") is None


def test_prompts_belong_to_the_frame_they_were_drawn_on(module: Panel, scene: Any) -> None:
    module.cine(3)
    module.connect(Threshold())
    module.draw("include", (160, 130))
    module.idle()
    module.ui.nextButton.click()
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
    assert not module.ui.includeButton.checked
    assert module.desk.store.status(1).value == "empty"


def test_one_tool_at_a_time(module: Panel) -> None:
    module.cine(2)
    interaction = module.application.applicationLogic().GetInteractionNode()
    module.ui.includeButton.click()
    module.ui.excludeButton.click()
    assert not module.ui.includeButton.checked
    assert module.ui.excludeButton.checked
    module.ui.excludeButton.click()
    assert not module.ui.excludeButton.checked
    if interaction is not None:
        assert interaction.GetCurrentInteractionMode() == interaction.ViewTransform


def test_a_mask_is_propagated_both_ways_and_stops_at_a_label(module: Panel) -> None:
    module.cine(9)
    module.connect(Threshold())
    module.desk.go(8)
    module.ui.acceptButton.click()
    module.desk.go(4)
    module.ui.forwardButton.click()
    assert "no mask to carry on" in module.ui.messageLabel.text
    module.ui.segmentButton.click()
    module.idle()
    module.parameters.propagateCount = 2
    module.ui.backwardButton.click()
    module.idle()
    module.parameters.propagateCount = 30
    module.ui.forwardButton.click()
    module.idle()
    statuses = [status.value for status in module.desk.store.statuses()]
    assert statuses == ["empty"] * 2 + ["propagated"] * 2 + ["predicted"] + ["propagated"] * 3 + ["accepted"]
    assert "Stopped before frame 9" in module.ui.messageLabel.text
