"""Splits by group: whole groups, stratified, the same for the same data, written as files that prove themselves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonodistill.errors import DatasetError
from sonodistill.files import write_text
from sonodistill_training.corpus.labelled import SPLITS

_FORMAT, _VERSION = "sonodistill split", 1


@dataclass(frozen=True, slots=True)
class Split:
    """What a split file says.

    Attributes:
        members: of each split, sorted: names of groups or of files.
        about: how it was made.
        sha256: of the content.
    """

    members: dict[str, list[str]]
    about: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def assignment(self) -> dict[str, str]:
        """The split of each member."""
        return {member: split for split, members in self.members.items() for member in members}

    @property
    def counts(self) -> dict[str, int]:
        """Members in each split."""
        return {split: len(members) for split, members in self.members.items()}


def split_groups(
    groups: Sequence[str],
    labels: Sequence[str],
    fractions: Sequence[float] = (0.7, 0.2, 0.1),
    seed: int = 0,
    *,
    datasets: Sequence[str] | None = None,
) -> dict[str, str]:
    """Give every group a split, so that the shares of frames are as near to ``fractions`` as whole groups allow.

    Stratified by the data set and the majority label of each group; what one stratum is off by, the next makes up for.
    The result follows from the frames and the seed alone, not from their order. Adding frames may move groups: that is
    why a split is written to a file once.

    Args:
        groups: of each frame.
        labels: of each frame, "" for none.
        fractions: of the frames in train, validation and test.
        datasets: of each frame; by default all are of one.

    Raises:
        DatasetError: fractions that are negative or do not add up to 1.
    """
    check_fractions(fractions)
    kinds = list(zip(datasets or [""] * len(groups), labels, strict=True))
    of_group: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for group, kind in zip(groups, kinds, strict=True):
        of_group[group][kind] += 1
    strata: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for group, count in of_group.items():
        majority = min(count, key=lambda kind: (-count[kind], kind))
        strata[majority][group] = count.total()
    assignment: dict[str, str] = {}
    owed = [0.0] * len(SPLITS)
    for _, sizes in sorted(strata.items()):
        need = [fraction * sum(sizes.values()) + rest for fraction, rest in zip(fractions, owed, strict=True)]
        dealt = deal(sizes, need, seed)
        assignment |= dealt
        for group, split in dealt.items():
            need[SPLITS.index(split)] -= sizes[group]
        owed = need
    return assignment


def check_fractions(fractions: Sequence[float]) -> None:
    """Three shares of a whole.

    Raises:
        DatasetError: they are negative, not three, or do not add up to 1.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:
        shares = ", ".join(f"{fraction:g}" for fraction in fractions)
        raise DatasetError(f"the shares {shares} do not divide a whole", remedy="give three that add up to 1")


def deal(sizes: Mapping[str, int], need: Sequence[float], seed: int) -> dict[str, str]:
    """Give each group a split so that about ``need`` frames come together in train, validation and test.

    The largest groups first, each to a split with room for all of it, drawn by how much room there is (a hash of seed
    and name is the dice); where none has room, to the one that lacks most.
    """
    left = list(need)
    dealt = {}
    for group in sorted(sizes, key=lambda group: (-sizes[group], _draw(seed, group))):
        room = [lack if lack >= sizes[group] else 0.0 for lack in left]
        if any(room):
            point, chosen = _draw(seed + 1, group) * sum(room), 0
            while point >= room[chosen] and chosen < len(room) - 1:
                point -= room[chosen]
                chosen += 1
        else:
            chosen = left.index(max(left))
        dealt[group] = SPLITS[chosen]
        left[chosen] -= sizes[group]
    return dealt


def write_split(path: str | Path, assignment: Mapping[str, str], about: Mapping[str, Any] | None = None) -> Split:
    """Write which split each member is in as JSON, with the SHA-256 of the content.

    Args:
        assignment: "train", "validation" or "test" of each member.
        about: how it was made; anything JSON can hold.
    """
    content: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "about": dict(about or {})}
    content["members"] = {name: sorted(m for m, split in assignment.items() if split == name) for name in SPLITS}
    unknown = sorted(set(assignment.values()) - set(SPLITS))
    if unknown:
        raise ValueError(f"splits are {SPLITS}, not {unknown}")
    digest = _digest(content)
    write_text(path, json.dumps({"sha256": digest, **content}, indent=1, ensure_ascii=False) + "\n")
    return Split(content["members"], content["about"], digest)


def read_split(path: str | Path) -> Split:
    """Read a file that ``write_split`` wrote.

    Raises:
        DatasetError: it is no split file, or its content is not what it was written with.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stated, found = content.pop("sha256"), (content["format"], content["version"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"is no split file ({error})", path=path, remedy="write it again") from None
    if found != (_FORMAT, _VERSION):
        raise DatasetError(f"is {found}, not {(_FORMAT, _VERSION)}", path=path, remedy="write it with this release")
    if (actual := _digest(content)) != stated:
        raise DatasetError(
            f"was changed after it was written: its SHA-256 is {actual[:12]}..., the file states {str(stated)[:12]}...",
            path=path,
            remedy="restore the file; results on another split need a file of their own",
        )
    return Split(content["members"], content["about"], stated)


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _draw(seed: int, name: str) -> float:
    """In [0, 1), from the hash of seed and name."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "big") / 2**64
