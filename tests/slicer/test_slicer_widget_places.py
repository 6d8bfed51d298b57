"""Prompts, regions and proposals land on the frame and the pixels they were meant for, and nothing else is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

import vtk
from qt_shim.harness import Panel
from test_slicer_effect import effect, module

__all__ = ["effect", "module"]


def asked() -> Any:
    from qt_shim.backend import Threshold

    class Kept(Threshold):
        """Keeps the images that it is given."""

        def __init__(self) -> None:
            super().__init__()
            self.images: list[np.ndarray] = []

        def refine(self, frame: Any, *rest: Any) -> Any:
            self.images.append(frame.image)
            return super().refine(frame, *rest)

    return Kept()


@pytest.fixture
def moved(module: Panel, scene: Any) -> Iterator[np.ndarray]:
    """A cine of three frames under a transform; (4, 4) from pixels to the world."""
    cine = module.cine(3)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    for row, value in enumerate((30.0, -20.0, 10.0)):
        matrix.SetElement(row, 3, value)
    transform.SetMatrixTransformToParent(matrix)
    cine.proxy().SetAndObserveTransformNodeID(transform.GetID())
    yield cine.ijk_to_world(0)


def place(matrix: np.ndarray, x: float, y: float) -> tuple[float, ...]:
    return tuple((matrix @ [x, y, 0, 1])[:3])


def test_points_and_a_region_on_a_moved_cine_are_those_pixels(module: Panel, moved: np.ndarray) -> None:
    segment, source = module.widget.segment, module.widget.source
    segment.prompt_nodes.create("include").AddControlPointWorld(*place(moved, 160, 130))
    np.testing.assert_allclose(segment.prompts().positive, [(160, 130)], atol=1e-6)
    region = source.marks.create("region")
    region.SetCenterWorld(*place(moved, 100, 80))
    region.SetSize(30.0, 20.0, 1.0)  # of half a millimetre each: 60 x 40 pixels
    source.apply_region()
    assert module.desk.cine.region == (70, 60, 131, 101)


def test_a_proposal_is_not_applied_to_another_frame(module: Panel, effect: Any) -> None:
    module.connect(asked())
    matrix = module.desk.cine.ijk_to_world(0)
    effect.click(place(matrix, 160, 130), inside=True)
    module.idle()
    assert effect.applyButton.enabled
    module.desk.go(1)
    effect.applyButton.click()
    assert effect.scriptedEffect.calls == []
    assert not effect.applyButton.enabled and "Another frame" in effect.stateLabel.text
    effect.click(place(matrix, 160, 130), inside=True)
    assert len(effect.clicks.positive) == 1


def test_an_answer_that_comes_after_the_points_were_cleared_is_dropped(module: Panel, effect: Any) -> None:
    module.connect(asked())
    effect.click(place(module.desk.cine.ijk_to_world(0), 160, 130), inside=True)
    effect.clear()
    module.idle()
    assert not effect.applyButton.enabled and effect.preview is None


def test_the_effect_sends_the_region_alone_and_puts_its_answer_back(module: Panel, effect: Any) -> None:
    from qt_shim.backend import dark

    backend = asked()
    module.connect(backend)
    cine = module.desk.cine
    cine.set_region((60, 40, 260, 220))
    effect.click(place(cine.ijk_to_world(0), 160, 130), inside=True)
    module.idle()
    inside = cine.frame(0).image[40:220, 60:260]
    np.testing.assert_array_equal(backend.images[-1], inside)
    np.testing.assert_allclose(backend.prompts[-1].positive, [(100, 90)], atol=1e-6)
    expected = np.zeros((240, 320), bool)
    expected[40:220, 60:260] = dark(inside) > 0
    np.testing.assert_array_equal(effect.preview, expected)


def test_an_image_is_not_taken_for_a_frame_of_the_server(module: Panel, effect: Any) -> None:
    import slicer

    backend = asked()
    module.connect(backend)
    backend.item = "an-item"
    effect.scriptedEffect.volume = slicer.util.addVolumeFromArray(np.zeros((1, 20, 30), np.uint8))
    effect.click((0.0, 0.0, 0.0), inside=True)
    module.idle()
    assert backend.images == [] and "of the server" in effect.stateLabel.text


def test_labels_are_sent_in_the_name_of_who_annotates_now(module: Panel) -> None:
    from UltrasoundSegmentLib.backends.client import Client
    from UltrasoundSegmentLib.backends.server import SonoDistillServer

    module.parameters.annotator = "anna"
    server = SonoDistillServer(Client("http://127.0.0.1:9", annotator="anna"))
    module.desk.set_backend(server, [])
    module.ui.annotatorEdit.text = "Ben B."
    assert server.client.annotator == "Ben-B"


def test_a_file_that_is_read_while_the_scene_is_closed_does_not_come_into_the_next(
    module: Panel, scene: Any, tmp_path: Path
) -> None:
    from pydicom import examples

    module.parameters.sourceFile = str(examples.get_path("ybr_color"))
    module.ui.openButton.click()
    scene.Clear(False)
    module.idle()
    assert scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode") == 0


def test_a_scribble_that_was_removed_is_no_prompt(module: Panel, scene: Any) -> None:
    cine, nodes = module.cine(2), module.widget.segment.prompt_nodes
    node = nodes.create("scribble")
    for x in (100, 120, 140):
        node.AddControlPointWorld(*place(cine.ijk_to_world(0), x, 90))
    assert len(module.widget.segment.prompts().scribbles) == 1
    scene.RemoveNode(node)
    assert module.widget.segment.prompts().empty


def test_a_token_is_not_given_to_the_server_of_another_scene(module: Panel) -> None:
    from UltrasoundSegmentLib.errors import SegmentError

    module.parameters.serverUrl = "http://127.0.0.1:9"
    module.ui.tokenEdit.text = "secret"
    module.widget.backend._maker()
    module.parameters.serverUrl = "https://elsewhere.example.org"  # as a scene that is opened sets it
    with pytest.raises(SegmentError, match="of another server"):
        module.widget.backend._maker()
    assert module.ui.tokenEdit.text == ""
