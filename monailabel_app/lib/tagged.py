"""The labels of what a client means by an image, by MONAI Label's tags."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lib.saved import of_tag, tag_of
from lib.targets import Target
from sonodistill.annotate.errors import UnknownIdError
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import LabelRow


class Tagged:
    """Looks into a store of labels."""

    def __init__(self, labels: LabelStore) -> None:
        self._labels = labels

    def all(self, target: Target, tag: str) -> list[LabelRow]:
        """Every label of a tag, the best of each frame first."""
        return [row for row in self._of(target) if of_tag(row, tag)]

    def rows(self, target: Target, tag: str) -> dict[int, LabelRow]:
        """Position -> the best label of a tag."""
        positions = {frame: at for at, frame in enumerate(target.frames)}
        found: dict[int, LabelRow] = {}
        for row in self.all(target, tag):
            found.setdefault(positions[row.frame], row)
        return found

    def own(self, target: Target, annotator: str) -> list[LabelRow]:
        """The labels of an annotator."""
        return [row for row in self._of(target) if row.annotator == annotator]

    def tags(self, target: Target) -> list[str]:
        """Those that any label has."""
        return list(dict.fromkeys(tag for row in self._of(target) if (tag := tag_of(row))))

    def mask(self, row: LabelRow) -> NDArray[np.uint8]:
        """(H, W) of a label that has one. Errors: UnknownIdError when it was taken back meanwhile."""
        label = self._labels.get(row.frame, row.annotator)
        if label is None or label.mask is None:
            raise UnknownIdError(f"the label of {row.frame} was taken back")
        return label.mask

    def _of(self, target: Target) -> list[LabelRow]:
        if len(target) == 1:
            return self._labels.rows(frame=target.frames[0])
        frames = set(target.frames)
        rows = [row for item in target.items for row in self._labels.rows(item=item.id)]
        return [row for row in rows if row.frame in frames]
