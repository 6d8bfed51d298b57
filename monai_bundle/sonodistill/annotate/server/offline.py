"""The labels of a folder of work without its server."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sonodistill.annotate.workbench import Settings, Workbench
from sonodistill.errors import BundleConfigError, UnreadableFileError
from sonodistill.files import cache_folder

if TYPE_CHECKING:
    from sonodistill.annotate.labels.agreement import Agreement

LABELS = "labels.sqlite"


def default_work(studies: str) -> Path:
    """Where labels and models are kept when nobody says: in the studies; of a PACS in a folder of the cache.

    Errors: BundleConfigError for a PACS without a cache.
    """
    if not studies.startswith(("http://", "https://")):
        return Path(studies) / ".sonodistill"
    cache = cache_folder()
    if cache is None:
        raise BundleConfigError("there is no folder for labels and models", remedy="give one: --work FOLDER")
    return cache / "label" / hashlib.sha256(studies.rstrip("/").encode()).hexdigest()[:16]


@contextmanager
def opened(studies: str, work: Path, *, token_file: Path | None = None, user: str = "") -> Iterator[Workbench]:
    """The workbench that a server left there, with its names of labels and classes; a server may run beside it.

    Errors: UnreadableFileError when there are no labels.
    """
    path = work / LABELS
    if not path.is_file():
        raise UnreadableFileError("there are no labels here", path=work, remedy="name the right --studies or --work")
    labels, classes = _names(path)
    bench = Workbench(Settings(studies, work, labels=labels, classes=classes, token_file=token_file, user=user))
    try:
        yield bench
    finally:
        bench.close()


def _names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Labels of the store, and the classes that occur in it."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT value FROM fact WHERE key = 'labels'").fetchone()
            classes = connection.execute("SELECT DISTINCT classification FROM label WHERE current").fetchall()
        return tuple(json.loads(found[0])), tuple(sorted(name for (name,) in classes if name))
    except (sqlite3.Error, TypeError, ValueError) as error:
        raise UnreadableFileError(f"is no file of labels ({type(error).__name__})", path=path) from error


def table(found: Sequence[Agreement]) -> str:
    """Pairs of annotators, a line for each label, as text."""
    if not found:
        return "no two annotators accepted the same frame"
    lines = []
    for pair in found:
        kappa = "" if pair.kappa is None else f", kappa of {pair.classified} classes {pair.kappa:.3f}"
        lines.append(f"{' and '.join(pair.annotators)}: {pair.frames} frames{kappa}")
        for name, dice in pair.dice.items():
            mean = "no Dice" if dice.mean is None else f"Dice {dice.mean:.3f}"
            interval = "" if dice.interval is None else f" ({dice.interval[0]:.3f} to {dice.interval[1]:.3f})"
            lines.append(f"  {name}: {mean}{interval} of {dice.frames} frames, {dice.both_empty} empty for both")
    return "\n".join(lines)
