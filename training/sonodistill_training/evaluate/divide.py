"""Which frames train, choose and test, and which of the training frames are labelled."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill_training.corpus.labelled import SPLITS
from sonodistill_training.corpus.paper_splits import paper_split
from sonodistill_training.corpus.splits import split_groups
from sonodistill_training.evaluate.data import LabelledSet

_PAPER_SPLITS = {
    ("busi", "segmentation"): "busi-segmentation",
    ("busi", "classification"): "busi-classification",
    ("ddti", "segmentation"): "ddti",
}
WAYS = ("auto", "index", "paper", "seed")


@dataclass(frozen=True)
class Division:
    """Rows of a :class:`LabelledSet` in each split, and how they came there.

    Attributes:
        train, validation, test: row numbers, ascending.
        way: "index", "paper" or "seed <n>".
        sha256: of the data and the division.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    way: str
    sha256: str


def divide(data: LabelledSet, task: str, way: str = "auto", seed: int = 0) -> Division:
    """Divide the frames that the task can use: those with a mask, or those with a label.

    Args:
        way: "index" takes the data set's own splits (where it has none for validation, a fifth of the training groups
            is dealt to it), "paper" the splits made for paper A's evaluation sets, "seed" 70/20/10 by group, stratified
            by label; "auto" is the first of these that covers every frame.
        seed: of what is dealt.

    Raises:
        DatasetError: an empty split, a group in two splits, frames that the split does not know.
        BundleConfigError: another way.
    """
    if way not in WAYS:
        raise BundleConfigError(f"no way to split is called {way}", remedy=f"choose one of {', '.join(WAYS)}")
    usable = [row for row in range(len(data)) if _is_usable(data, row, task)]
    if not usable:
        missing = "mask" if task == "segmentation" else "label"
        raise DatasetError(f"{data.name} has no frame with a {missing}", remedy=f"{task} needs one for each frame")
    if way == "auto":
        way = _first_way(data, task, usable)
    if way == "index":
        splits = [data.given[row] for row in usable]
        _require_known(data, usable, splits, "its index names no split of")
        if "validation" not in splits:
            splits, way = _with_validation(data, usable, splits, seed), f"index, validation by seed {seed}"
    elif way == "paper":
        splits = _paper(data, task, usable)
    else:
        groups = [data.groups[row] for row in usable]
        assignment = split_groups(groups, [data.labels[row] for row in usable], seed=seed)
        splits, way = [assignment[group] for group in groups], f"seed {seed}"
    _require_whole_groups(data, usable, splits)
    found = {name: np.array([r for r, s in zip(usable, splits, strict=True) if s == name], np.int64) for name in SPLITS}
    for name, rows in found.items():
        if not len(rows):
            raise DatasetError(
                f"{data.name} has no frame for {task} in the {name} split",
                remedy="give the frames other splits, or --split seed",
            )
    digest = hashlib.sha256(f"{data.sha256} {task}".encode())
    for rows in found.values():
        digest.update(rows.tobytes() + b"|")
    return Division(found["train"], found["validation"], found["test"], way, digest.hexdigest())


def _is_usable(data: LabelledSet, row: int, task: str) -> bool:
    return data.truths[row] is not None if task == "segmentation" else bool(data.labels[row])


def _first_way(data: LabelledSet, task: str, usable: Sequence[int]) -> str:
    given = {data.given[row] for row in usable}
    if "" not in given and {"train", "test"} <= given:
        return "index"
    known = (data.name, task) in _PAPER_SPLITS and all(s for s in _paper_assignment(data, task, usable))
    return "paper" if known else "seed"


def _with_validation(data: LabelledSet, usable: Sequence[int], splits: Sequence[str], seed: int) -> list[str]:
    """A fifth of the training frames, by whole groups, moved to validation."""
    rows = [row for row, split in zip(usable, splits, strict=True) if split == "train"]
    groups, labels = [data.groups[row] for row in rows], [data.labels[row] for row in rows]
    dealt = split_groups(groups, labels, (0.8, 0.2, 0.0), seed)
    return [dealt[data.groups[row]] if s == "train" else s for row, s in zip(usable, splits, strict=True)]


def _paper(data: LabelledSet, task: str, usable: Sequence[int]) -> list[str]:
    if (data.name, task) not in _PAPER_SPLITS:
        known = ", ".join(f"{name} ({of})" for name, of in _PAPER_SPLITS)
        raise DatasetError(f"there is no paper split of {data.name} for {task}", remedy=f"there are: {known}")
    splits = _paper_assignment(data, task, usable)
    _require_known(data, usable, splits, "the paper's split does not know")
    return splits


def _paper_assignment(data: LabelledSet, task: str, usable: Sequence[int]) -> list[str]:
    known = {_plain(name): split for name, split in paper_split(_PAPER_SPLITS[data.name, task]).assignment.items()}
    return [known.get(_plain(data.files[row]), "") for row in usable]


def _plain(file: str) -> str:
    """ "benign (1).png" and "images/benign_1.jpg" are one picture under the names of two copies of BUSI."""
    stem = file.rpartition("/")[2].rpartition(".")[0]
    return re.sub(r"\W+", "_", stem).strip("_").lower()


def _require_known(data: LabelledSet, usable: Sequence[int], splits: Sequence[str], what: str) -> None:
    unknown = [data.files[row] for row, split in zip(usable, splits, strict=True) if not split]
    if unknown:
        raise DatasetError(f"{data.name}: {what} {len(unknown)} frames ({unknown[0]} ...)", remedy="use --split seed")


def _require_whole_groups(data: LabelledSet, usable: Sequence[int], splits: Sequence[str]) -> None:
    of_group: dict[str, set[str]] = defaultdict(set)
    for row, split in zip(usable, splits, strict=True):
        of_group[data.groups[row]].add(split)
    divided = sorted(group for group, where in of_group.items() if len(where) > 1)
    if divided:
        where = " and ".join(sorted(of_group[divided[0]]))
        raise DatasetError(
            f"{data.name}: the group {divided[0]} is in {where}, and {len(divided) - 1} more groups are divided",
            remedy="a patient belongs to one split: mend the index, or use --split seed",
        )


def labelled_part(data: LabelledSet, rows: NDArray[np.int64], fraction: float, draw: int = 0) -> NDArray[np.int64]:
    """A ``fraction`` of the rows, by whole groups, each label keeping its share as nearly as it can.

    Of one draw, a smaller fraction is part of every larger one.

    Raises:
        BundleConfigError: a fraction that is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise BundleConfigError(f"a fraction of {fraction:g}", remedy="give one above 0, up to 1")
    wanted = max(1, round(fraction * len(rows)))
    taken: list[int] = []
    for members in _order(data, rows, draw):
        # The group that crosses the number is taken where that is nearer to it than leaving it out.
        if taken and len(taken) + len(members) - wanted > wanted - len(taken):
            break
        taken += members
    return np.array(sorted(taken), np.int64)


def few_shots(data: LabelledSet, rows: NDArray[np.int64], shots: int, draw: int = 0) -> NDArray[np.int64]:
    """``shots`` of the rows, from as many groups as there are, spread over the labels (paper B: 5 draws of 20).

    Raises:
        BundleConfigError: none, or more than there are.
    """
    if not 1 <= shots <= len(rows):
        raise BundleConfigError(f"{shots} shots of {len(rows)} training frames", remedy="give 1 or more, and not more")
    groups = _order(data, rows, draw)
    # The first frame of each group, then the second of each: a patient with a long cine does not fill the shots.
    depth = max(len(members) for members in groups)
    turns = [members[turn] for turn in range(depth) for members in groups if turn < len(members)]
    return np.array(sorted(turns[:shots]), np.int64)


def _order(data: LabelledSet, rows: NDArray[np.int64], draw: int) -> list[list[int]]:
    """The groups' rows in the order in which they get labels."""
    members: dict[str, list[int]] = defaultdict(list)
    for row in rows.tolist():
        members[data.groups[row]].append(row)
    by_label: dict[str, list[str]] = defaultdict(list)
    for group in sorted(members):
        found = [data.labels[row] for row in members[group]]
        by_label[max(sorted(set(found)), key=found.count)].append(group)
    generator = np.random.default_rng(draw)
    places: list[tuple[bool, float, str]] = []
    for _, groups in sorted(by_label.items()):
        ranks = generator.permutation(len(groups)).tolist()
        # Laid out evenly over (0, 1), every label has its share wherever the row is cut; first of all one of each.
        places += [(rank > 0, (rank + 0.5) / len(groups), group) for rank, group in zip(ranks, groups, strict=True)]
    return [generator.permutation(members[group]).tolist() for _, _, group in sorted(places)]
