"""The module's own test: the same steps in Slicer, by ctest, and on the MRML core alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.masks.measure import measure
from UltrasoundSegmentLib.masks.status import Status

import slicer

from . import sample_data


def draw_and_measure(test: Any, logic: Any) -> None:
    """Open the synthetic cine, draw the ellipse it was made with on one frame, accept it, and compare the area.

    Args:
        test: unittest.TestCase, or anything with its ``assert...`` methods.
        logic: UltrasoundSegmentLogic.
    """
    desk = logic.desk
    desk.use(Cine.of_sequence(sample_data.make_cine(scene=slicer.mrmlScene)).browser)
    test.assertEqual(desk.cine.count, sample_data.FRAMES)
    test.assertAlmostEqual(desk.cine.calibration.spacing_mm[0], sample_data.SPACING_MM)
    test.assertAlmostEqual(desk.cine.calibration.frame_time_s, sample_data.FRAME_TIME_S)
    store = desk.masks(["cavity"])
    x, y, a, b = sample_data.ellipse(3)
    row, column = np.mgrid[: sample_data.ROWS, : sample_data.COLUMNS]
    mask = (((column - x) / a) ** 2 + ((row - y) / b) ** 2 < 1).astype(np.uint8)
    test.assertTrue(store.write(3, mask, Status.PREDICTED, confidence=0.9, model="self test"))
    desk.go(3)
    desk.session.accept(3)
    test.assertEqual(store.status(3), Status.ACCEPTED)
    test.assertEqual(store.status(4), Status.EMPTY)
    test.assertTrue(np.array_equal(store.mask(3), mask))
    test.assertFalse(store.mask(4).any())
    found = measure(store.mask(3) == 1, desk.cine.calibration.spacing_mm)
    true = math.pi * a * b * sample_data.SPACING_MM**2
    test.assertLess(abs(found.area_mm2 / true - 1), 0.02)
    desk.close()
