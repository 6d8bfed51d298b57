"""Long work in steps: all at once, stopped on the way, and beside the GUI in a thread."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")

from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.masks.steps import beside, finish


def test_work_beside_returns_what_it_made():
    main = threading.get_ident()
    assert finish(beside(lambda: threading.get_ident() != main)) is True


def test_what_it_raises_is_raised_to_who_waits():
    def work():
        raise SegmentError("the disk is full")

    with pytest.raises(SegmentError, match="disk is full"):
        finish(beside(work))


def test_the_gui_goes_on_while_it_works_and_a_stop_waits_for_it():
    going, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work():
        going.set()
        may_end.wait(10)
        ended.set()

    steps = beside(work)
    for _ in range(3):
        next(steps)
    assert going.is_set()
    assert not ended.is_set()
    may_end.set()
    steps.close()
    assert ended.is_set()
