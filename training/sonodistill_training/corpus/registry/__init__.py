"""The data sets of the corpus and of the evaluation: where they are, on what terms, and how their folders are read."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.check import LayoutReport
from sonodistill_training.corpus.registry.core import DataSet, Item, Licence

__all__ = ["DataSet", "Item", "LayoutReport", "Licence", "data_sets", "get"]

# One module an anatomy; each lists its entries in DATA_SETS.
_MODULES = ("breast", "thyroid", "fetal", "cardiac", "abdomen", "lung", "muscle", "pelvis", "nerve")


@cache
def _entries() -> dict[str, DataSet]:
    entries: dict[str, DataSet] = {}
    for module in _MODULES:
        for entry in import_module(f"{__name__}.{module}").DATA_SETS:
            if entry.key in entries:
                raise ValueError(f"two data sets are called {entry.key}")
            entries[entry.key] = entry
    return dict(sorted(entries.items()))


def data_sets() -> dict[str, DataSet]:
    """Every entry by key, sorted."""
    return dict(_entries())


def get(key: str) -> DataSet:
    """The entry of that key; case, blanks and hyphens are forgiven.

    Errors: DatasetError for an unknown key, naming close ones.
    """
    entries = _entries()
    wanted = "".join(letter if letter.isalnum() else "_" for letter in key.strip().lower())
    if wanted in entries:
        return entries[wanted]
    close = difflib.get_close_matches(wanted, entries, n=3, cutoff=0.5)
    raise DatasetError(
        f"no data set is called {key!r}",
        remedy=f"did you mean {', '.join(close)}?" if close else "see `sonodistill datasets list`",
    )
