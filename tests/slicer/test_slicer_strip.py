"""The strip along the slider: what it paints, where a click goes, and that nobody needs to tell its colours apart."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.harness import Panel


def strip_of(module: Panel, statuses: list[str], width: int = 400) -> Any:
    strip = module.widget.review.strip
    strip.setStatuses(statuses)
    strip.setSelected(-1)
    strip.resize(width, 22)
    return strip


def colours(strip: Any, x: int) -> list[str]:
    """Of a column, from the top to the bottom."""
    image = strip.grab().toImage()
    return [image.pixelColor(x, y).name().upper() for y in range(image.height())]


def test_each_frame_is_a_bar_of_its_colour_and_height(module: Panel) -> None:
    from UltrasoundSegmentWidgets.strip import COLOURS, HEIGHTS

    states = list(COLOURS)
    strip = strip_of(module, states, 600)
    for number, state in enumerate(states):
        column = colours(strip, number * 100 + 50)
        assert column[-1] == COLOURS[state]
        assert column.count(COLOURS[state]) == pytest.approx(HEIGHTS[state] * 22, abs=1)


def test_states_differ_in_height_and_in_lightness_for_every_colour_vision(module: Panel) -> None:
    """Simulated for protanopia, deuteranopia and tritanopia (Machado 2009): neighbours in meaning stay apart."""
    import numpy as np
    from UltrasoundSegmentWidgets.strip import COLOURS, HEIGHTS

    matrices = {
        "all": np.eye(3),
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
        "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
    }
    for matrix in matrices.values():
        seen = {}
        for state, code in COLOURS.items():
            rgb = np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)])
            linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
            seen[state] = np.clip(np.array(matrix) @ linear, 0, 1) ** (1 / 2.2)
        for one in COLOURS:
            for other in COLOURS:
                if one < other:
                    apart = np.linalg.norm(seen[one] - seen[other])
                    assert apart > 0.25 or abs(HEIGHTS[one] - HEIGHTS[other]) > 0.15, (one, other, apart)
    assert len(set(HEIGHTS.values())) == len(HEIGHTS)


def test_where_frames_share_a_pixel_what_wants_a_look_is_shown(module: Panel) -> None:
    from UltrasoundSegmentWidgets.strip import COLOURS

    states = ["accepted"] * 1000
    states[500] = "predicted"
    strip = strip_of(module, states, 100)
    assert colours(strip, 50)[-1] == COLOURS["predicted"]
    assert colours(strip, 20)[-1] == COLOURS["accepted"]


def test_a_click_goes_to_the_frame_and_its_tooltip_tells_of_it(module: Panel) -> None:
    QtCore = pytest.importorskip("PySide6.QtCore")
    mouse = pytest.importorskip("PySide6.QtTest").QTest
    module.cine(10)
    strip = module.widget.review.strip
    strip.resize(400, 22)
    mouse.mouseClick(strip, QtCore.Qt.MouseButton.LeftButton, pos=QtCore.QPoint(330, 10))
    assert module.desk.cine.selected == 8
    mouse.mouseMove(strip, QtCore.QPoint(50, 10))
    module.run(lambda: "Frame 2 of 10" in strip.toolTip)


def test_the_legend_names_every_state(module: Panel) -> None:
    from UltrasoundSegmentWidgets.strip import COLOURS

    text = module.widget.review.legend.text
    assert all(state in text and colour in text for state, colour in COLOURS.items())


def test_an_empty_strip_is_painted_and_clicked_without_harm(module: Panel) -> None:
    strip = strip_of(module, [])
    assert strip.frameAt(10) is None
    assert colours(strip, 10)[0] == "#FFFFFF"
