"""The ensemble that says how unsure a model is, kept up to the labels."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from sonodistill.annotate.acquire.features import GRID
from sonodistill.annotate.acquire.pool import Floats
from sonodistill.annotate.acquire.store import EmbeddingStore
from sonodistill.annotate.acquire.uncertainty import Ensemble, cell_targets
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Item, LabelRow, Status

DRAWN = (Status.ACCEPTED, Status.EDITED)
"""What the ensemble learns from: what people drew or accepted."""

_FEWEST = 5  # labelled frames for a fit
_PAUSE = 2.0  # seconds between fits, or three times what the last one took


class Learner:
    """Fits the ensemble when labels changed.

    Args:
        labels: the store.
        seed: of the bootstrap.

    Attributes:
        ensemble: the latest, None before there are five labelled frames, one of them with a structure.
        labelled: frames that it was fitted to.
        frames: with a drawn label, as of the last look.
    """

    def __init__(self, labels: LabelStore, seed: int) -> None:
        self._labels, self._seed = labels, seed
        self._rows: dict[FrameId, LabelRow] = {}
        self._targets: dict[int, Floats] = {}
        self._revision, self._fitted = -1, (-1, -1)
        self._again = 0.0
        self.ensemble: Ensemble | None = None
        self.labelled = 0

    @property
    def frames(self) -> frozenset[FrameId]:
        return frozenset(self._rows)

    def look(self) -> None:
        """See what is labelled now."""
        revision = self._labels.revision()
        if revision == self._revision:
            return
        rows: dict[FrameId, LabelRow] = {}
        for row in self._labels.rows(status=DRAWN):
            if row.shape is not None:
                rows.setdefault(row.frame, row)  # the best of each frame comes first
        self._rows, self._revision = rows, revision

    def forget(self) -> None:
        """Fit anew: the features are others."""
        self.ensemble, self.labelled, self._fitted, self._again = None, 0, (-1, -1), 0.0

    def fit(self, store: EmbeddingStore, items: Mapping[str, Item]) -> None:
        """Fit the ensemble if labels changed and it is time.

        Args:
            store: of the features.
            items: for the groups.
        """
        there = [row for frame, row in self._rows.items() if frame in store.rows]
        # Labelled frames that are not embedded yet count when they are.
        wanted = self._revision, len(there)
        if self._fitted == wanted or time.monotonic() < self._again:
            return
        began = time.monotonic()
        if len(there) < _FEWEST or not any(row.pixels for row in there):
            self.ensemble, self.labelled = None, 0
        else:
            targets = np.stack([self._target(row) for row in there])
            groups = [_group(items.get(row.frame.item), row.frame) for row in there]
            maps = store.maps([store.rows[row.frame] for row in there])
            self.ensemble, self.labelled = Ensemble.fit(maps, targets, groups, seed=self._seed), len(there)
            used = {row.revision for row in there}
            self._targets = {key: value for key, value in self._targets.items() if key in used}
        self._again = time.monotonic() + max(_PAUSE, 3 * (time.monotonic() - began))
        self._fitted = wanted

    def _target(self, row: LabelRow) -> Floats:
        """(cells, labels), from memory where the label is as it was."""
        found = self._targets.get(row.revision)
        if found is None:
            label = self._labels.get(row.frame, row.annotator)
            mask = np.zeros((GRID, GRID), np.uint8) if label is None or label.mask is None else label.mask
            found = self._targets[row.revision] = cell_targets(mask, len(self._labels.names), (GRID, GRID))
        return found


def _group(item: Item | None, frame: FrameId) -> str:
    return (item.group if item else "") or frame.item
