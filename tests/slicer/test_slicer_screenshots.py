"""The pictures of the documentation, taken from the panel: set SONODISTILL_SCREENSHOTS=1 to write them anew."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.harness import EXTENSION, Panel

KEPT = EXTENSION / "Screenshots"


@pytest.fixture
def module(module: Panel) -> Panel:
    module.widget.parent.resize(560, 1500)
    return module


def picture(module: Panel, folder: Path, name: str, *sections: str) -> np.ndarray:
    """(H, W, 3) of the sections, one below the other, written as a small PNG."""
    import cv2
    from PySide6 import QtGui, QtWidgets

    shown = {section: getattr(module.ui, section) for section in sections}
    for other, widget in vars(module.ui).items():
        if other.endswith("Section"):
            widget.collapsed = other not in shown
    module.idle()
    QtWidgets.QApplication.processEvents()
    parts = []
    for widget in shown.values():
        image = widget.grab().toImage().convertToFormat(QtGui.QImage.Format.Format_RGB888)
        values = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
        parts.append(values[:, : image.width() * 3].reshape(image.height(), image.width(), 3).copy())
    whole = np.concatenate(parts)
    folder.mkdir(exist_ok=True)
    small = cv2.imencode(".png", whole[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1]
    (folder / name).write_bytes(small.tobytes())
    return whole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return KEPT if os.environ.get("SONODISTILL_SCREENSHOTS") else tmp_path / "Screenshots"


def drawn(image: np.ndarray) -> bool:
    """Whether something is on it: text, fields, colours."""
    return image.shape[0] > 100 and image.shape[1] > 400 and len(np.unique(image.reshape(-1, 3), axis=0)) > 30


def has(image: np.ndarray, code: str) -> bool:
    """Whether a colour like #009E73 is on it."""
    colour = [int(code[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(image.astype(int) - colour).sum(2) == 0).any())


def test_source(module: Panel, folder: Path) -> None:
    from pydicom import examples

    module.ui.sourceEdit.text = str(examples.get_path("ybr_color"))
    module.ui.openButton.click()
    module.idle(20)
    module.ui.sourceEdit.text = "cine.dcm"
    image = picture(module, folder, "source.png", "sourceSection")
    assert drawn(image)
    assert (folder / "source.png").stat().st_size < 100_000


def test_segment(module: Panel, folder: Path) -> None:
    from qt_shim.backend import Threshold
    from UltrasoundSegmentWidgets.strip import COLOURS

    module.cine()
    module.connect(Threshold(confidences=(0.95, 0.9, 0.55, 0.9)))
    module.parameters.labels, module.parameters.annotator = "cavity", "anna"
    module.desk.go(0)
    for index in (*range(8), 30):
        module.desk.go(index)
        module.ui.segmentButton.click()
        module.idle()
    for index in range(8):
        module.desk.go(index)
        (module.ui.skipButton if index == 4 else module.ui.acceptButton).click()
    module.parameters.propagateCount = 10
    module.desk.go(30)
    module.ui.forwardButton.click()
    module.idle()
    module.parameters.scope = type(module.parameters.scope).RANGE
    module.parameters.firstFrame, module.parameters.lastFrame = 9, 24
    module.ui.segmentButton.click()
    module.idle()
    module.desk.go(12)
    module.ui.includeButton.click()
    node = module.widget.segment.prompt_nodes.node("include")
    node.AddControlPointWorld(*(module.desk.cine.frame(12).ijk_to_ras @ [150, 130, 0, 1])[:3])
    module.idle()
    image = picture(module, folder, "segment.png", "backendSection", "segmentSection")
    assert all(has(image, code) for code in COLOURS.values())


def test_measurements(module: Panel, folder: Path) -> None:
    from qt_shim.backend import Threshold

    module.cine()
    module.connect(Threshold())
    module.parameters.labels = "cavity"
    module.ui.segmentButton.click()
    module.idle()
    module.ui.measureSection.collapsed = False
    module.widget.measure.show()
    module.ui.exportEdit.text = "labels"
    image = picture(module, folder, "measurements.png", "measureSection", "learningSection", "exchangeSection")
    assert drawn(image)
    assert "mm²" in module.ui.measureLabel.text
