"""Compare a folder with a data set's published layout: what is there, what is missing, what no rule knows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sonodistill_training.corpus.registry.core import DataSet, Item

_ARCHIVES = (".zip", ".rar", ".7z", ".tar", ".gz", ".tgz", ".z01")


@dataclass(frozen=True, slots=True)
class LayoutReport:
    """The comparison.

    Attributes:
        key: of the data set.
        base: the folder that was taken for its top folder.
        found: counts of the folder: "items", "groups", "masks", and by label and split as "label:NAME", "split:NAME".
        published: counts its source states; only those are compared.
        missing: what should be there and is not, in words.
        unexpected: relative paths of files that no rule accounts for.
    """

    key: str
    base: Path
    found: dict[str, int]
    published: dict[str, int]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """True when nothing is missing."""
        return not self.missing


def check(data: DataSet, root: Path) -> LayoutReport:
    """Errors: DatasetError when the folder is not there, or a table of the data set cannot be read."""
    tree = data.locate(root)
    findings = data.find(tree)
    found = count(findings.items.values())
    missing = list(findings.missing)
    for name, number in data.published.items():
        if found.get(name, 0) < number:
            missing.append(f"{name}: {found.get(name, 0)} of {number} published")
    unexpected = sorted(set(tree.files) - findings.claimed)
    packed = [name for name in unexpected if name.lower().endswith(_ARCHIVES) and not name.lower().endswith(".nii.gz")]
    if missing and packed:
        missing.append(f"perhaps not extracted yet: {', '.join(packed[:5])}")
    return LayoutReport(data.key, tree.base, found, dict(data.published), tuple(missing), tuple(unexpected))


def count(items) -> dict[str, int]:
    """What ``DataSet.published`` may state, counted over items."""
    items: list[Item] = list(items)
    counts = Counter(items=len(items), groups=len({item.group for item in items}))
    counts["masks"] = sum(item.mask is not None for item in items)
    counts.update(f"label:{item.label}" for item in items if item.label)
    counts.update(f"split:{item.split}" for item in items if item.split)
    return dict(counts)
