"""The splits of paper A's evaluation sets as far as the paper tells them, for whoever has the data."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from sonodistill_training.corpus.labelled import SPLITS
from sonodistill_training.corpus.splits import Split, deal, read_split, split_groups

NAMES = ("busi-classification", "busi-segmentation", "ddti")

BUSI_CLASSIFICATION = {"normal": (93, 13, 27), "benign": (306, 43, 88), "malignant": (147, 21, 42)}
"""Train, validation and test of each class. Nearly all accuracies in the paper are multiples of 1/157: the test images
that are left of each class when int(0.8 n) of its n images are taken out. The paper does not say how many of those are
for validation; here int(0.1 n)."""

BUSI_SEGMENTATION = {"normal": (93, 27, 13), "benign": (306, 87, 44), "malignant": (147, 42, 21)}
"""70/20/10 of all 780 images ("analogous to DDTI"), 546/156/78, and of each class as near as whole images allow."""

DDTI_FRACTIONS = (0.7, 0.2, 0.1)
"""Of the 480 images of 390 cases as published, by case. The paper's 445/127/65 of 637 images cannot be had from them:
474 images have outlines, 665 in all, 8 of which are cut off in the file. A repackaging of DDTI in common use has one
nodule a picture, 637 pictures and new numbers, so cases are lost; 445 and 127 are what int(0.7 n) and int(0.2 n) give
on it by picture. No case is divided here."""

_FOLDER = Path(__file__).parent
_SEED = 0


def paper_split(name: str) -> Split:
    """File names, as the data sets are published ("benign (1).png", "106_2.jpg"), in train, validation and test.

    Near-duplicate images, of which both sets have many, are never divided between splits, and in DDTI all images of a
    case stay together. BUSI publishes no patients. Pictures that BUSI holds under two classes are for training.

    Args:
        name: "busi-classification", "busi-segmentation" or "ddti".

    Raises:
        ValueError: another name.
        DatasetError: the file that comes with the package was changed.
    """
    if name not in NAMES:
        raise ValueError(f"splits are {', '.join(NAMES)}, not {name}")
    return read_split(_FOLDER / f"{name}.json")


def make_paper_split(name: str) -> dict[str, str]:
    """The split of each file from ``sources.json`` (what the sets hold, and their near-duplicates): how it was made."""
    sources = json.loads((_FOLDER / "sources.json").read_text(encoding="utf-8"))
    if name == "ddti":
        return _ddti(sources["ddti"])
    return _busi(sources["busi"], BUSI_CLASSIFICATION if name == "busi-classification" else BUSI_SEGMENTATION)


def _busi(source: dict[str, Any], wanted: dict[str, tuple[int, int, int]]) -> dict[str, str]:
    files = {f"{kind} ({i}).png": kind for kind, n in source["classes"].items() for i in range(1, n + 1)}
    group = {file: file for file in files} | {file: alike[0] for alike in source["near_duplicates"] for file in alike}
    members: dict[str, list[str]] = defaultdict(list)
    for file, first in group.items():
        members[first].append(file)
    of_two = {first for first, alike in members.items() if len({files[file] for file in alike}) > 1}
    split = dict.fromkeys(of_two, SPLITS[0])
    for kind, counts in wanted.items():
        taken = sum(files[file] == kind for first in of_two for file in members[first])
        sizes = {first: len(members[first]) for first in members if files[first] == kind and first not in of_two}
        split |= deal(sizes, (counts[0] - taken, *counts[1:]), _SEED)
    return {file: split[first] for file, first in group.items()}


def _ddti(source: dict[str, Any]) -> dict[str, str]:
    case_of = {file: case for case, known in source["cases"].items() for file in known["files"]}
    joined = {case: case for case in source["cases"]}
    for alike in source["near_duplicates"]:
        cases = {joined[case_of[file]] for file in alike}
        joined = {case: min(cases, key=int) if first in cases else first for case, first in joined.items()}
    groups = [joined[case] for case in case_of.values()]
    split = split_groups(groups, [source["cases"][case]["tirads"] for case in case_of.values()], DDTI_FRACTIONS, _SEED)
    return {file: split[joined[case]] for file, case in case_of.items()}
