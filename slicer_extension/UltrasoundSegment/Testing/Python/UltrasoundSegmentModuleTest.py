"""Runs the module's own steps in Slicer, by ctest; the same function runs on the MRML core alone in tests/slicer."""

from __future__ import annotations

import unittest

import slicer


class UltrasoundSegmentModuleTest(unittest.TestCase):
    """In a Slicer that has the extension."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def test_the_module_is_there(self) -> None:
        self.assertIn("UltrasoundSegment", slicer.util.moduleNames())

    def test_a_cine_is_drawn_on_and_measured(self) -> None:
        from UltrasoundSegment import UltrasoundSegmentLogic
        from UltrasoundSegmentWidgets.self_test import draw_and_measure

        draw_and_measure(self, UltrasoundSegmentLogic())

    def test_the_panel_opens(self) -> None:
        slicer.util.selectModule("UltrasoundSegment")
        widget = slicer.modules.ultrasoundsegment.widgetRepresentation().self()
        self.assertIsNotNone(widget.parameters())
        self.assertFalse(widget.ui.disconnectButton.enabled)
