"""The list of labels of a cine: one name and one segment id for each label number, the same in every frame."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.masks import pixels

MAX_LABELS = 255

_KEY = "SonoDistill.labels"
_COLOURS = ((0.90, 0.25, 0.20), (0.20, 0.70, 0.90), (0.95, 0.75, 0.10), (0.45, 0.80, 0.35), (0.75, 0.45, 0.90))


class SegmentList:
    """Labels of a sequence of masks, kept as an attribute of it.

    Segments deleted, added or renamed in one frame alone would shift the table of all: the list
    decides, not the frames.
    """

    def __init__(self, sequence: Any) -> None:
        self._sequence = sequence

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for _, name in self._pairs())

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(segment_id for segment_id, _ in self._pairs())

    def add(self, name: str, segment_id: str | None = None) -> int:
        """The number of a new label. Errors: SegmentError."""
        pairs = self._pairs()
        self._check(name, [each for _, each in pairs])
        taken = {each for each, _ in pairs}
        number = len(pairs) + 1
        while segment_id is None or segment_id in taken:
            segment_id, number = f"SonoDistill_{number}", number + 1
        self._keep([*pairs, (segment_id, name)])
        return len(pairs) + 1

    def rename(self, number: int, name: str) -> None:
        """Errors: SegmentError."""
        pairs = self._pairs()
        self._check(name, [each for place, (_, each) in enumerate(pairs, 1) if place != number])
        self._keep([(each, name if place == number else old) for place, (each, old) in enumerate(pairs, 1)])

    def complete(self, segmentation: Any, grid: Any) -> bool:
        """Give a vtkSegmentation the segments that it lacks, empty, in the order of the list; whether any was missing.

        What it has besides stays.
        """
        missing = False
        for place, (segment_id, name) in enumerate(self._pairs()):
            segment = segmentation.GetSegment(segment_id)
            if segment is None:
                missing = True
                segment = slicer.vtkSegment()
                segment.SetName(name)
                segment.SetColor(*_COLOURS[place % len(_COLOURS)])
                segment.SetLabelValue(place + 1)
                segment.AddRepresentation(pixels.BINARY, pixels.to_image(np.zeros((1, 1), np.uint8), grid))
                segmentation.AddSegment(segment, segment_id)
                segmentation.SetSegmentIndex(segment_id, place)
            elif segment.GetName() != name:
                segment.SetName(name)
        return missing

    def _pairs(self) -> list[tuple[str, str]]:
        try:
            found = json.loads(self._sequence.GetAttribute(_KEY) or "[]")
            return [(str(segment_id), str(name)) for segment_id, name in found]
        except (ValueError, TypeError):
            raise SegmentError(
                f"The list of labels of {self._sequence.GetName()} cannot be read: remove that sequence from the scene."
            ) from None

    def _keep(self, pairs: list[tuple[str, str]]) -> None:
        self._sequence.SetAttribute(_KEY, json.dumps(pairs))

    @staticmethod
    def _check(name: str, others: list[str]) -> None:
        if not isinstance(name, str) or not name.strip() or len(name) > 64 or not name.isprintable():
            raise SegmentError(f"{str(name)[:64]!r} is no name of a label: use 1 to 64 printable characters.")
        if name in others:
            raise SegmentError(f"There is a label {name!r} already: choose another name.")
        if len(others) >= MAX_LABELS:
            raise SegmentError(f"A frame has {MAX_LABELS} labels at most.")
