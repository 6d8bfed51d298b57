"""How unsure a model is of each frame, from kept features: an ensemble of small heads, fitted in closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.acquire.pool import Floats, Rows

MEMBERS = 5
_MOST_FRAMES = 1000  # labelled, that a fit reads
_RIDGE = 1e-2  # of the mean of the diagonal
_CHUNK = 256  # frames scored at a time


def cell_targets(mask: NDArray[np.uint8], labels: int, grid: tuple[int, int]) -> Floats:
    """(gh * gw, labels) float32 in [0, 1]: how much of each cell of a frame each label number of its mask covers."""
    planes = [(mask == number).astype(np.float32) for number in range(1, labels + 1)]
    covered = [cv2.resize(plane, grid[::-1], interpolation=cv2.INTER_AREA).ravel() for plane in planes]
    return np.stack(covered, axis=1).astype(np.float32)


class Ensemble:
    """Ridge regressions of the labels' share of a cell on its features, each on a bootstrap sample of groups.

    Args:
        weights: (K, C + 1, L) float32, the last row being the constant.
    """

    def __init__(self, weights: Floats) -> None:
        self._weights = weights

    @classmethod
    def fit(
        cls,
        maps: NDArray[np.floating],
        targets: Floats,
        groups: Sequence[str],
        *,
        members: int = MEMBERS,
        seed: int = 0,
    ) -> Ensemble:
        """Fit it to labelled frames; a second or so for 1,000, of which more are not read.

        Args:
            maps: (n, cells, C) features.
            targets: (n, cells, L) of :func:`cell_targets`.
            groups: patient or file of each frame; frames of one are drawn together.
            members: K.
            seed: of the bootstrap.
        """
        generator = np.random.default_rng(seed)
        rows: Rows = np.arange(len(maps))
        if len(rows) > _MOST_FRAMES:
            rows = np.sort(generator.choice(rows, _MOST_FRAMES, replace=False))
        _, group = np.unique(np.asarray([groups[row] for row in rows.tolist()]), return_inverse=True)
        count = int(group.max()) + 1
        weights = []
        for _ in range(members):
            drawn = np.bincount(generator.integers(count, size=count), minlength=count)[group.ravel()]
            weights.append(_ridge(maps, targets, rows[drawn > 0], drawn[drawn > 0]))
        return cls(np.stack(weights))

    def predict(self, maps: NDArray[np.floating]) -> Floats:
        """(n, cells, C) features to (K, n, cells, L) float32 in [0, 1]."""
        features = np.asarray(maps, np.float32)
        members, inputs, labels = self._weights.shape
        flat = self._weights[:, :-1].transpose(1, 0, 2).reshape(inputs - 1, members * labels)
        said = (features.reshape(-1, inputs - 1) @ flat).reshape(*features.shape[:2], members, labels)
        return np.clip(said.transpose(2, 0, 1, 3) + self._weights[:, -1][:, None, None], 0, 1)

    def score(self, maps: NDArray[np.floating]) -> Floats:
        """(n, cells, C) features to (n,) float32 in [0, 1]: how far the members disagree, mean over cells and labels.

        It is the entropy of the members' mean less the mean of their entropies, in bits (BALD: Houlsby et al. 2011):
        what more labels could settle. The entropy itself is high wherever a border runs through a cell, which none can.
        """
        scored = np.empty(len(maps), np.float32)
        for start in range(0, len(maps), _CHUNK):
            said = self.predict(maps[start : start + _CHUNK])
            apart = _entropy(said.mean(axis=0)) - _entropy(said).mean(axis=0)
            scored[start : start + _CHUNK] = np.maximum(apart, 0).mean(axis=(1, 2))
        return scored


def _entropy(p: Floats) -> Floats:
    """Of a yes or no of probability p, in bits."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def _ridge(maps: NDArray[np.floating], targets: Floats, rows: Rows, counts: NDArray[np.int64]) -> Floats:
    """(C + 1, L): each row counted so many times; the constant is not shrunk."""
    inputs, labels = maps.shape[2] + 1, targets.shape[2]
    gram, product = np.zeros((inputs, inputs)), np.zeros((inputs, labels))
    for part, times in _parts(rows, counts):
        features = np.asarray(maps[part], np.float32)
        design = np.concatenate([features, np.ones((*features.shape[:2], 1), np.float32)], axis=2)
        weighted = design * times[:, None, None].astype(np.float32)
        gram += weighted.reshape(-1, inputs).T @ design.reshape(-1, inputs)
        product += weighted.reshape(-1, inputs).T @ targets[part].reshape(-1, labels)
    strength = np.full(inputs, _RIDGE * np.trace(gram[:-1, :-1]) / max(inputs - 1, 1) + 1e-6)
    strength[-1] = 1e-6
    return np.linalg.solve(gram + np.diag(strength), product).astype(np.float32)


def _parts(rows: Rows, counts: NDArray[np.int64]) -> Iterator[tuple[Rows, NDArray[np.int64]]]:
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK], counts[start : start + _CHUNK]
