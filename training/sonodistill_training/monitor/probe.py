"""How well classes can be told from an encoder's features while it is trained: k nearest neighbours or linear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill_training.corpus.labelled import read_labelled
from sonodistill_training.monitor.features import Item, embeddings, items_of, require_at_least, shrink

KINDS = ("knn", "linear")
TEMPERATURE = 0.07  # of the neighbours' votes, as in DINO
INVERSE_PENALTY = 0.01  # scikit-learn's C, small enough for a few hundred images of some thousand features

Standardised = tuple[NDArray[np.float64], NDArray[np.float64]]


class Probe:
    """``probe(encoder, device)`` is ``{"probe_accuracy": ..., "probe_macro_f1": ...}``.

    Each image is classified once, by a classifier fitted to the images of the other folds: standardised means of the
    last map. Folds are stratified by class and never divide a group; they follow from the seed alone.

    Args:
        data: a folder with an ``index.csv`` (see :func:`read_labelled`; rows without a label are left out), or
            ``(image, label)`` or ``(image, label, group)`` for each image: a path or (H, W) uint8.
        input_size: pixels of the square that each image is brought to, once.
        kind: "knn" (cosine, votes weighted by exp(similarity / 0.07) as in DINO) or "linear" (multinomial logistic
            regression, C = 0.01).
        neighbours: of "knn".
        folds: how often a classifier is fitted.
        limit: images at most, drawn so that the classes keep their shares.
        split: only the frames of this split of the folder: what chooses a checkpoint should not see the test split.
        seed: of the draw and of the folds.
        precision: of the encoder, as for ``use_bf16``.

    Raises:
        DatasetError: fewer than two classes, or a class with fewer groups than folds.
        UnreadableFileError, UnsupportedFormatError: an image cannot be read.
        BundleConfigError: a setting that cannot work.
    """

    def __init__(
        self,
        data: str | Path | Sequence[tuple[Any, ...]],
        input_size: int = 224,
        kind: str = "knn",
        neighbours: int = 20,
        folds: int = 5,
        limit: int = 1000,
        split: str | None = None,
        seed: int = 0,
        precision: str = "auto",
    ) -> None:
        if kind not in KINDS:
            raise BundleConfigError(f"unknown kind of probe {kind}", remedy=f"choose one of {', '.join(KINDS)}")
        require_at_least(1, neighbours=neighbours, limit=limit, input_size=input_size)
        require_at_least(2, folds=folds)
        self.kind, self.neighbours, self.precision = kind, neighbours, precision
        path = Path(data) if isinstance(data, (str, Path)) else None
        items = _labelled(path, split) if path else items_of(data)  # type: ignore[arg-type]
        items = [items[index] for index in spread([str(item.target) for item in items], limit, seed)]
        self.classes, self.labels = np.unique([str(item.target) for item in items], return_inverse=True)
        self.groups = np.array([item.group for item in items])
        self.folds = _folds(self.classes, self.labels, self.groups, folds, seed, path)
        self.images = shrink((item.image for item in items), input_size)

    def __call__(self, encoder: nn.Module, device: torch.device) -> dict[str, float]:
        """Accuracy and macro F1 over the images, each predicted by the fold that was not fitted to it.

        Raises:
            NotFiniteError: a feature is not a finite number.
        """
        from sklearn.metrics import f1_score  # a second to import, which a training without probes does not pay

        predicted = self.predicted(encoder, device)
        return {
            "probe_accuracy": float((predicted == self.labels).mean()),
            "probe_macro_f1": float(f1_score(self.labels, predicted, average="macro", zero_division=0.0)),
        }

    def predicted(self, encoder: nn.Module, device: torch.device) -> NDArray[np.int64]:
        """(images,) the number of each image's class in ``classes``, by the fold that was not fitted to it.

        Raises:
            NotFiniteError: a feature is not a finite number.
        """
        features = embeddings(encoder, self.images, device, self.precision)
        predicted = np.empty_like(self.labels)
        for train, held_out in self.folds:
            predicted[held_out] = self._predict(*standardise(features[train], features[held_out]), self.labels[train])
        return predicted

    def _predict(
        self, train: NDArray[np.float64], held_out: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The class number of each held-out row."""
        if self.kind == "knn":
            return knn(train, labels, held_out, self.neighbours)
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=INVERSE_PENALTY, max_iter=1000).fit(train, labels).predict(held_out)


def knn(
    train: NDArray[np.float64], labels: NDArray[np.int64], queries: NDArray[np.float64], neighbours: int
) -> NDArray[np.int64]:
    """The class of each query by the votes of its most similar training rows (see :func:`knn_votes`)."""
    return knn_votes(train, labels, queries, neighbours, int(labels.max()) + 1).argmax(axis=1)


def knn_votes(
    train: NDArray[np.float64],
    labels: NDArray[np.int64],
    queries: NDArray[np.float64],
    neighbours: int,
    classes: int,
) -> NDArray[np.float64]:
    """(M, classes): the share of each class among the votes of a query's most similar rows (DINO, appendix F.1).

    Args:
        train: (N, C). labels: (N,) class numbers from 0. queries: (M, C).
        neighbours: how many vote; all rows where there are fewer.
        classes: how many there are.
    """
    similarity = _unit(queries) @ _unit(train).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :neighbours]
    weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / TEMPERATURE)
    one_hot = np.eye(classes)[labels[nearest]]  # (M, k, classes)
    votes = np.einsum("mk,mkc->mc", weights, one_hot)
    return votes / votes.sum(axis=1, keepdims=True)


def standardise(train: NDArray[np.float64], held_out: NDArray[np.float64]) -> Standardised:
    """Both with the training part's mean taken off and divided by its standard deviation, where it has one."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    std = np.where(std > 0, std, 1.0)
    return (train - mean) / std, (held_out - mean) / std


def spread(labels: Sequence[str], limit: int, seed: int) -> list[int]:
    """Which ``limit`` items to take, in their order, so that each label keeps its share as nearly as it can."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    generator = np.random.default_rng(seed)
    places: list[tuple[float, int]] = []
    for _, indices in sorted(members.items()):
        order = generator.permutation(len(indices)).tolist()
        places += [((rank + 0.5) / len(indices), index) for rank, index in zip(order, indices, strict=True)]
    return sorted(index for _, index in sorted(places)[:limit])


def _labelled(folder: Path, split: str | None) -> list[Item]:
    frames = [frame for frame in read_labelled(folder) if frame.label and split in (None, frame.split)]
    return [Item(frame.image, frame.label, frame.group) for frame in frames]


def _folds(
    classes: NDArray[Any],
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    folds: int,
    seed: int,
    path: Path | None,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(training rows, held-out rows) of each fold."""
    from sklearn.model_selection import StratifiedGroupKFold

    if len(classes) < 2:
        found = f"only the class {classes[0]}" if len(classes) else "no labelled frame"
        raise DatasetError(f"{found}; a probe needs two classes", path=path, remedy="label frames of another class")
    counts = {name: len(set(groups[labels == number])) for number, name in enumerate(classes)}
    rarest = min(counts, key=lambda name: counts[name])
    if counts[rarest] < folds:
        raise DatasetError(
            f"the class {rarest} has {counts[rarest]} groups (or single images); {folds} folds need as many",
            path=path,
            remedy="give fewer folds, a larger limit, or more images of this class",
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    found_folds = list(splitter.split(labels, labels, groups))
    if any(len(np.unique(labels[train])) < len(classes) for train, _ in found_folds):
        raise DatasetError(
            "whole groups cannot be dealt so that every fold is fitted to every class",
            path=path,
            remedy="give another number of folds, or smaller groups",
        )
    return found_folds


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
