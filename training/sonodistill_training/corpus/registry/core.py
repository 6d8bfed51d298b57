"""What the registry says of a data set: the entry, its licence, its items, and the tree of files they are found in."""

from __future__ import annotations

import bisect
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sonodistill.errors import DatasetError

if TYPE_CHECKING:
    from sonodistill_training.corpus.registry.check import LayoutReport
    from sonodistill_training.corpus.registry.labels import Mask

_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Licence:
    """Terms of a data set as its source states them. None is "the source does not say", never a guess.

    Attributes:
        name: the licence's own name ("CC BY 4.0"), or "unknown".
        redistribution: whether copies may be passed on.
        commercial: whether commercial use is allowed.
        notice: where the terms are stated, and what a user has to do.
    """

    name: str
    redistribution: bool | None
    commercial: bool | None
    notice: str = ""


def cc_by(notice: str = "") -> Licence:
    return Licence("CC BY 4.0", True, True, notice)


def cc_by_nc_sa(notice: str = "") -> Licence:
    return Licence("CC BY-NC-SA 4.0", True, False, notice)


def unknown_licence(notice: str) -> Licence:
    return Licence("unknown", None, None, notice)


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a data set, as ``sonodistill.frames.read`` takes it, with what the source says about it.

    Attributes:
        file: image, DICOM, video or volume.
        group: patient, case or video, the unit never divided between splits; unique within the data set.
        label: the published class, or "".
        mask: the annotation, loaded when asked for, or None.
        split: the published split, or "".
        axis: the axis a volume is to be cut across, as ``read`` takes it.
        mm_per_pixel: pixel size stated outside the file (a CSV), or None.
        only: the frames of the file that belong to the data set, or None for all.
    """

    file: Path
    group: str
    label: str = ""
    mask: Mask | None = None
    split: str = ""
    axis: str | int | None = None
    mm_per_pixel: float | None = None
    only: frozenset[int] | None = None


@dataclass(slots=True)
class Findings:
    """What a rule finds: items, the files it accounts for (masks and tables too), and what should be there and is not.

    Paths are relative to the base of the tree, with slashes.
    """

    items: dict[str, Item] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)


class Rule(Protocol):
    """A part of a published layout. ``pattern`` matches whole paths below the data set's top folder."""

    pattern: str
    optional: bool

    def find(self, tree: Tree) -> Findings: ...


class Tree:
    """The files below a folder, relative with slashes, sorted; hidden files and what macOS and Windows add left out.

    Links that leave the folder are left out too.
    """

    def __init__(self, base: Path, files: Sequence[str]) -> None:
        self.base = base
        self.files = tuple(sorted(files))

    @classmethod
    def walk(cls, root: Path) -> Tree:
        """Errors: DatasetError when the folder is not there."""
        if not root.is_dir():
            raise DatasetError("there is no such folder", path=root, remedy="give the folder the data set lies in")
        home, found = root.resolve(), []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not _is_junk(name)]
            for name in names:
                file = Path(folder, name)
                if _is_junk(name) or (file.is_symlink() and not file.resolve().is_relative_to(home)):
                    continue
                found.append(file.relative_to(root).as_posix())
        return cls(root, found)

    def path(self, relative: str) -> Path:
        return self.base / relative

    def below(self, base: str) -> Tree:
        """The part of the tree under a folder ("" is all of it)."""
        if not base:
            return self
        return Tree(self.base / base, [name[len(base) + 1 :] for name in self.files if name.startswith(f"{base}/")])

    def get(self, relative: str) -> str | None:
        """The file of that relative path, case ignored, or None."""
        return self._by_lower.get(relative.strip("/").lower())

    def glob(self, pattern: str) -> list[str]:
        """Files that match a relative path in which ``*`` stands for anything within a name; case ignored."""
        head, *rest = pattern.strip("/").lower().split("*")
        if not rest:
            one = self.get(pattern)
            return [] if one is None else [one]
        names, found = self._lower, []
        at = bisect.bisect_left(names, head)
        while at < len(names) and names[at].startswith(head):
            if _continues(names[at][len(head) :], rest):
                found.append(self._by_lower[names[at]])
            at += 1
        return found

    @cached_property
    def _by_lower(self) -> dict[str, str]:
        return {name.lower(): name for name in self.files}

    @cached_property
    def _lower(self) -> list[str]:
        return sorted(self._by_lower)


@dataclass(frozen=True, slots=True)
class DataSet:
    """An entry of the registry.

    Attributes:
        key: short lower-case name for commands and files.
        name: the source's own name.
        anatomy, modality, size: in words (probe, scanner, stills or clips; how many images of how many patients).
        licence: its terms.
        url, doi, citation: where it lives ("" where there is no DOI), and how its authors ask to be cited.
        access: how to get it.
        layout: its folders in short, where they are described, and whether that was checked on the data itself.
        grouping: what ``Item.group`` is.
        adapter: the rules that turn the published layout into items; of two that match a file, the first takes it.
        published: counts the source states, by "items", "groups", "masks", "label:NAME" or "split:NAME".
        table1: its name in Table 1 of the distillation paper, or "".
        evaluation: only for evaluation, never for a corpus.
        notes: errors in the table or the data, and what else a user should know.
        structures: what the codes 1, 2 ... of its masks are, where an evaluation is to tell them apart.
        structure: what its masks show, where that is one thing; "" where it is several, or no mask is read.
    """

    key: str
    name: str
    anatomy: str
    modality: str
    size: str
    licence: Licence
    url: str
    doi: str
    citation: str
    access: str
    layout: str
    grouping: str
    adapter: tuple[Rule, ...]
    published: Mapping[str, int] = field(default_factory=dict)
    table1: str = ""
    evaluation: bool = False
    notes: str = ""
    structures: tuple[str, ...] = ()
    structure: str = ""

    def items(self, root: str | Path) -> list[Item]:
        """The data set's items, sorted by path. ``root`` is its top folder or one above it.

        Errors: DatasetError when the folder is not there or a part of the layout without which there is nothing to
            read is missing; ``check`` tells the rest.
        """
        tree = self.locate(root)
        found = self.find(tree)
        absent = [rule.pattern for rule in self.adapter if not rule.optional and not _matches(rule, tree)]
        if absent or not found.items:
            raise DatasetError(
                f"is not laid out as {self.name} is published: nothing matches {', '.join(absent) or 'its rules'}",
                path=Path(root),
                remedy=f"extract every archive; expected: {self.layout}; `sonodistill datasets check {self.key}` "
                "lists what is missing",
            )
        return [found.items[name] for name in sorted(found.items)]

    def check(self, root: str | Path) -> LayoutReport:
        """Compare a folder with the published layout.

        Errors: DatasetError when the folder is not there.
        """
        from sonodistill_training.corpus.registry.check import check

        return check(self, Path(root))

    def locate(self, root: str | Path) -> Tree:
        """The tree below the folder at or under ``root`` in which the most rules match, those that must match first,
        and then the most files."""
        whole = Tree.walk(Path(root))
        needed: Counter[str] = Counter()
        rules: Counter[str] = Counter()
        files: Counter[str] = Counter()
        for rule in self.adapter:
            regex = re.compile(f"(?:(?P<base_>(?:[^/]+/){{0,{_DEPTH}}}?))(?:{rule.pattern})", re.IGNORECASE)
            here = Counter(match["base_"].strip("/") for match in map(regex.fullmatch, whole.files) if match)
            files.update(here)
            rules.update(here.keys())
            needed.update(() if rule.optional else here.keys())
        best = max(rules, key=lambda base: (needed[base], rules[base], files[base], -len(base), base), default="")
        return whole.below(best)

    def find(self, tree: Tree) -> Findings:
        """What all rules find together."""
        total = Findings()
        for rule in self.adapter:
            found = rule.find(tree)
            total.items = {**found.items, **total.items}
            total.claimed |= found.claimed
            total.missing += found.missing
        return total


def _matches(rule: Rule, tree: Tree) -> bool:
    regex = re.compile(rule.pattern, re.IGNORECASE)
    return any(map(regex.fullmatch, tree.files))


def _continues(text: str, parts: Sequence[str]) -> bool:
    """Whether the text is the parts in order, each after anything but a slash, the last one at the end.

    No regular expression: one would have to be compiled for every file.
    """
    *inner, last = parts
    for part in inner:
        # The earliest place leaves the most for what follows, unless a slash, which no star covers, lies before it.
        at = text.find(part)
        if at < 0 or "/" in text[:at]:
            return False
        text = text[at + len(part) :]
    return len(text) >= len(last) and text.endswith(last) and "/" not in text[: len(text) - len(last)]


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK
