"""What embeddings go by, anatomy or data set, how many directions they span, and how alike two encoders' are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import DatasetError
from sonodistill_training.monitor.features import require_at_least, require_finite
from sonodistill_training.monitor.health import rankme

METRIC = "cosine"
"""Of the neighbours and of the silhouette, as in DINO's kNN probe; embeddings are not centred."""
NEIGHBOURS = 10
_ROWS = 512  # of the similarity matrix that lie in memory at a time
_SAME = 1e-12  # similarities that differ by less are equal: the rounding of a scalar product
_MIB = 64  # of distances that the silhouette holds

Embeddings = NDArray[np.float64]
"""(N, C), a row a frame."""


@dataclass(frozen=True, slots=True)
class Purity:
    """The share of a frame's nearest neighbours that have its label, mean over frames.

    Attributes:
        value: measured.
        chance: of neighbours drawn at random from the same candidates.
    """

    value: float
    chance: float

    @property
    def excess(self) -> float:
        """What is beyond chance."""
        return self.value - self.chance


def knn_purity(
    embeddings: Embeddings, labels: Sequence[str], groups: Sequence[str], neighbours: int = NEIGHBOURS
) -> Purity:
    """How often the nearest neighbours of a frame, by cosine and among the frames of other groups, have its label.

    Frames as near as the last neighbour share its place, so that nothing depends on the order of the frames: of
    embeddings that are all equal the value is the chance level. There is no interval: to resample frames and leave
    them their neighbours makes one that is far too narrow.

    Args:
        embeddings: (N, C).
        labels: of each frame: its anatomy, or its data set.
        groups: patient, case or video of each; a frame's own never counts.
        neighbours: of each frame.

    Raises:
        NotFiniteError: a feature is not a finite number.
        DatasetError: a frame has fewer than ``neighbours`` frames of other groups, or the arguments differ in length.
    """
    from sklearn.preprocessing import normalize

    require_neighbours(groups, neighbours)
    classes, patients = _codes(embeddings, labels), _codes(embeddings, groups)
    rows = normalize(require_finite(embeddings))  # a row of zeros stays, at cosine 0 to all
    found, chance = [], []
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        candidate = patients[part, None] != patients[None]  # (B, N)
        same = candidate & (classes[part, None] == classes[None])
        similarity = np.where(candidate, rows[part] @ rows.T, -np.inf)
        last = -np.partition(-similarity, neighbours - 1, axis=1)[:, neighbours - 1, None]
        nearer = similarity > last + _SAME
        level = np.abs(similarity - last) <= _SAME
        free = neighbours - nearer.sum(axis=1)
        found.append(((nearer & same).sum(axis=1) + free * (level & same).sum(axis=1) / level.sum(axis=1)) / neighbours)
        chance.append(same.sum(axis=1) / candidate.sum(axis=1))
    return Purity(float(np.concatenate(found).mean()), float(np.concatenate(chance).mean()))


def require_neighbours(groups: Sequence[str], neighbours: int) -> None:
    """Raise DatasetError when a frame has fewer than ``neighbours`` frames of other groups."""
    require_at_least(1, neighbours=neighbours)
    candidates = _candidates(groups)
    if candidates < neighbours:
        raise DatasetError(
            f"{len(groups)} frames, of which one has only {candidates} of other groups; {neighbours} neighbours are "
            "asked for",
            remedy="give more frames, or fewer neighbours",
        )


def require_datasets(datasets: Sequence[str]) -> None:
    """Raise DatasetError unless the frames are of two data sets or more."""
    found = set(datasets)
    if len(found) < 2:
        raise DatasetError(
            f"all frames are of one data set, {', '.join(found) or 'none'}",
            remedy="give frames of two or more: there is nothing to tell apart",
        )


def scanner_shortcut(
    embeddings: Embeddings,
    datasets: Sequence[str],
    anatomies: Sequence[str],
    groups: Sequence[str],
    neighbours: int = NEIGHBOURS,
) -> dict[str, Purity | None]:
    """Purity by data set among the frames of one anatomy, for each anatomy: beyond chance, the scanner is what is seen.

    None where an anatomy comes from one data set alone, or a frame of it has fewer than ``neighbours`` candidates:
    there it cannot be measured.

    Raises:
        NotFiniteError, DatasetError: as :func:`knn_purity` raises them.
    """
    sets, patients = np.array(datasets), np.array(groups)
    found: dict[str, Purity | None] = {}
    for anatomy in sorted(set(anatomies)):
        rows = np.array(anatomies) == anatomy
        measurable = len(set(sets[rows])) > 1 and _candidates(patients[rows].tolist()) >= neighbours
        parts = (embeddings[rows], sets[rows].tolist(), patients[rows].tolist())
        found[anatomy] = knn_purity(*parts, neighbours) if measurable else None
    return found


def silhouette(embeddings: Embeddings, labels: Sequence[str]) -> float | None:
    """Mean silhouette by cosine distance, from -1 to 1 (Rousseeuw 1987). None for a single label.

    A frame's own group counts here, as the measure has it: of videos, look at :func:`knn_purity` instead.

    Raises:
        NotFiniteError: a feature is not a finite number.
        DatasetError: the arguments differ in length.
    """
    from sklearn import config_context
    from sklearn.metrics import silhouette_score

    classes = _codes(embeddings, labels)
    if not 1 < len(np.unique(classes)) < len(classes):
        return None
    with config_context(working_memory=_MIB):
        return float(silhouette_score(require_finite(embeddings), classes, metric=METRIC))


def linear_cka(first: Embeddings, second: Embeddings, debiased: bool = False) -> float | None:
    """Linear centred kernel alignment of two encoders' embeddings of the same frames (Kornblith et al. 2019, Eq. 2).

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X X', L = Y Y'; 1 for embeddings equal up to rotation and one
    scale. The plain estimate approaches 1 for unrelated embeddings of few frames and many channels; with ``debiased``,
    HSIC is estimated without bias (Song et al. 2012, Eq. 5), and unrelated embeddings have 0 (slightly below it, too).
    Computed from the (C, C') products, so that no (N, N) matrix is needed.

    Args:
        first: (N, C). second: (N, C'), the same frames in the same order.
        debiased: which estimate.

    Returns:
        None where an encoder's embeddings do not vary.

    Raises:
        NotFiniteError: a feature is not a finite number.
        DatasetError: other numbers of frames, or fewer than four.
    """
    if len(first) != len(second) or len(first) < 4:
        raise DatasetError(
            f"embeddings of {len(first)} and of {len(second)} frames", remedy="embed the same frames, four or more"
        )
    x, y = _centred(first), _centred(second)
    if x is None or y is None:
        return None
    own = _hsic(x, x, debiased) * _hsic(y, y, debiased)
    return float(_hsic(x, y, debiased) / np.sqrt(own)) if own > 0 else None


def cka_matrix(embeddings: Mapping[str, Embeddings], debiased: bool = False) -> dict[str, dict[str, float | None]]:
    """:func:`linear_cka` of every two encoders."""
    names = list(embeddings)
    found: dict[str, dict[str, float | None]] = {name: {} for name in names}
    for place, one in enumerate(names):
        for other in names[place:]:
            found[one][other] = found[other][one] = linear_cka(embeddings[one], embeddings[other], debiased)
    return {one: {other: found[one][other] for other in names} for one in names}


def numbers(
    embeddings: Embeddings,
    datasets: Sequence[str],
    anatomies: Sequence[str],
    groups: Sequence[str],
    neighbours: int = NEIGHBOURS,
) -> dict[str, Any]:
    """Everything that is told of one encoder's (N, C) embeddings, as plain JSON.

    Returns:
        ``channels``; ``rankme``; ``silhouette`` and ``purity`` by "anatomy" and by "dataset" (by anatomy None where
        there is one anatomy); ``shortcut``: the mean excess over the anatomies where it can be measured, or None, and
        ``shortcut_by_anatomy``.

    Raises:
        NotFiniteError: a feature is not a finite number.
        DatasetError: one data set only, or fewer frames than neighbours.
    """
    require_datasets(datasets)
    several = len(set(anatomies)) > 1
    by_anatomy = knn_purity(embeddings, anatomies, groups, neighbours) if several else None
    shortcuts = scanner_shortcut(embeddings, datasets, anatomies, groups, neighbours)
    excesses = [purity.excess for purity in shortcuts.values() if purity is not None]
    return {
        "channels": embeddings.shape[1],
        "rankme": rankme(embeddings),
        "silhouette": {"anatomy": silhouette(embeddings, anatomies), "dataset": silhouette(embeddings, datasets)},
        "purity": {
            "anatomy": _plain(by_anatomy),
            "dataset": _plain(knn_purity(embeddings, datasets, groups, neighbours)),
        },
        "shortcut": float(np.mean(excesses)) if excesses else None,
        "shortcut_by_anatomy": {name: _plain(purity) for name, purity in shortcuts.items()},
    }


def _plain(purity: Purity | None) -> dict[str, float] | None:
    return None if purity is None else asdict(purity)


def _candidates(groups: Sequence[str]) -> int:
    """How many frames of other groups a frame of the largest group has."""
    return len(groups) - max(Counter(groups).values(), default=0)


def _codes(embeddings: Embeddings, names: Sequence[str]) -> NDArray[np.int64]:
    if embeddings.ndim != 2 or len(embeddings) != len(names):
        raise DatasetError(
            f"embeddings of shape {embeddings.shape} and {len(names)} labels or groups", remedy="give one a frame"
        )
    return np.unique(np.array(names), return_inverse=True)[1]


def _centred(embeddings: Embeddings) -> Embeddings | None:
    """Columns of mean 0, of length 1 together; None where what is left is the rounding of float32."""
    centred = require_finite(embeddings) - embeddings.mean(axis=0)
    length = np.linalg.norm(centred)
    if length <= np.finfo(np.float32).eps * np.linalg.norm(embeddings):
        return None
    return centred / length


def _hsic(x: Embeddings, y: Embeddings, debiased: bool) -> float:
    """HSIC of the linear kernels of centred (N, C) and (N, C').

    Song et al.'s Eq. 5 with the kernels' diagonals left out becomes, for centred rows, a sum over their squared
    lengths: 1' K~ 1 = -sum |x|^2, and 1' K~ L~ 1 = sum |x|^2 |y|^2.
    """
    n = len(x)
    cross = float((np.square(x.T @ y)).sum())
    if not debiased:
        return cross / (n - 1) ** 2
    lengths_x, lengths_y = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    products = float(lengths_x @ lengths_y)
    sums = float(lengths_x.sum() * lengths_y.sum())
    return (cross - products * n / (n - 2) + sums / ((n - 1) * (n - 2))) / (n * (n - 3))
