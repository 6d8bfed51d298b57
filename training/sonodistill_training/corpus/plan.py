"""What a build reads: the files of every source with what is known of them, dealt into batches."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonodistill import __version__, frames
from sonodistill.errors import DatasetError, SonoDistillError
from sonodistill.frames.find import SUFFIXES
from sonodistill_training.corpus import registry
from sonodistill_training.corpus.labelled import INDEX, read_labelled
from sonodistill_training.corpus.manifest import SCHEMA_VERSION
from sonodistill_training.corpus.privacy import KeyedNames

LOCAL = "local"
GROUP_BY = ("auto", "file", "folder")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_BATCH_STILLS = 512
_BATCH_BYTES = 32 << 20
# A clip counts as many stills, as it may give as many frames.
_CLIP = 64
# One still in so many begins a new batch, whatever came before it.
_BOUNDARY = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to be read. Only ``path`` tells where it lies; it never reaches a table or a log.

    Attributes:
        dataset: registry key, the name given with the source, or "local".
        source: keyed name of the file.
        group: keyed name of what is never divided between splits, or "" when the file itself has to tell.
        axis: how a volume is to be cut, where its data set says so.
        only: the frames to be read, where its data set says so; empty is all.
        mm_per_pixel: stated beside the file (in a table of its data set).
    """

    path: str = field(repr=False)
    dataset: str
    source: str
    group: str = ""
    label: str = ""
    split: str = ""
    licence: str = "unknown"
    axis: str = ""
    only: tuple[int, ...] = ()
    mm_per_pixel: float | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that one task reads and one shard holds."""

    key: str
    entries: tuple[Entry, ...] = field(repr=False)


def parse_source(text: str) -> tuple[str, Path]:
    """``NAME=PATH`` as (name, path), where NAME is a registry key or any name; a plain path is "local".

    Raises:
        SonoDistillError: the name holds more than letters, digits, ``_``, ``-`` and ``.``.
    """
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return LOCAL, Path(text)
    if not _NAME.fullmatch(name):
        raise SonoDistillError(
            f"{name!r} cannot be the name of a data set", remedy="use letters, digits, _ - and . in NAME=PATH"
        )
    return name, Path(path)


def list_entries(
    sources: Sequence[str], names: KeyedNames, *, by: str = "auto", allow_evaluation: bool = False
) -> list[Entry]:
    """Every file of every source, sorted by data set and keyed name, an order that tells nothing.

    Args:
        by: groups of files that no data set vouches for: "file", "folder", or "auto" (the patient of a DICOM file,
            else the file).
        allow_evaluation: take sets that are for evaluation only.

    Raises:
        SonoDistillError: no such grouping.
        DatasetError: an evaluation set as a source, or two files of one name.
        EmptyInputError, UnreadableFileError: a source holds nothing, or is not there.
    """
    if by not in GROUP_BY:
        raise SonoDistillError(f"grouped by {by!r}", remedy=f"choose one of {', '.join(GROUP_BY)}")
    found: dict[str, Entry] = {}
    for text in sources:
        dataset, root = parse_source(text)
        for entry in _entries(dataset, root, names, by, allow_evaluation):
            if entry.source in found and found[entry.source].path != entry.path:
                raise DatasetError(
                    "holds a file of the same name as another source of this build",
                    path=root,
                    remedy="give the two folders names of their own: FIRST=folder SECOND=folder",
                )
            found[entry.source] = entry
    return sorted(found.values(), key=lambda entry: (entry.dataset, entry.source))


def _entries(dataset: str, root: Path, names: KeyedNames, by: str, allow_evaluation: bool) -> Iterator[Entry]:
    # One name for a folder, however it is spelled; a link keeps its own.
    root = Path(os.path.abspath(root))  # noqa: PTH100
    base = root if root.is_dir() else root.parent

    def entry(file: Path, **facts: Any) -> Entry:
        name = file.relative_to(base).as_posix()
        return Entry(str(file), dataset, names("source", dataset, base.name, name), **facts)

    known = registry.data_sets().get(dataset)
    if known is not None:
        if known.evaluation and not allow_evaluation:
            raise DatasetError(
                f"{known.name} is for evaluation only; a corpus that holds it cannot be evaluated on it",
                path=root,
                remedy=f"audit against it instead: --evaluation {dataset}=PATH",
            )
        for item in known.items(root):
            yield entry(
                item.file,
                group=names("group", dataset, item.group),
                label=item.label,
                split=item.split,
                licence=known.licence.name,
                axis="" if item.axis is None else str(item.axis),
                only=tuple(sorted(item.only or ())),
                mm_per_pixel=item.mm_per_pixel,
            )
    elif (root / INDEX).is_file():
        for row in read_labelled(root):
            yield entry(row.image, group=names("group", dataset, row.group), label=row.label)
    else:
        for file in frames.find_files(root):
            group = {"file": file.name, "folder": ""}.get(by)
            folder = file.parent.relative_to(base).as_posix()
            yield entry(file, group="" if group is None else names("group", dataset, base.name, folder, group))


def deal(entries: Sequence[Entry], options: dict[str, Any], role: str) -> Iterator[Batch]:
    """Entries in order, cut into batches whose keys name all that decides their content.

    Cuts follow the files' names, so that a file that is added or changed touches the batch it is in and no other.
    """
    batch: list[Entry] = []
    weight = size = 0
    for entry in entries:
        bytes_here = _size(entry)
        still = entry.path.lower().endswith(SUFFIXES["image"])
        full = weight >= _BATCH_STILLS or size + bytes_here > _BATCH_BYTES
        fresh = int(entry.source[:8], 16) % (_BOUNDARY if still else _BOUNDARY // _CLIP) == 0
        if batch and (full or fresh or entry.dataset != batch[-1].dataset):
            yield _batch(batch, options, role)
            batch, weight, size = [], 0, 0
        batch.append(entry)
        weight += 1 if still else _CLIP
        size += bytes_here
    if batch:
        yield _batch(batch, options, role)


def _batch(entries: list[Entry], options: dict[str, Any], role: str) -> Batch:
    # Another release may see a sector elsewhere: its frames and those of this one do not make one corpus.
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, __version__, role, options], sort_keys=True).encode())
    for entry in entries:
        facts = {name: getattr(entry, name) for name in Entry.__slots__ if name != "path"}
        digest.update(json.dumps([facts, *_stamp(entry)], sort_keys=True).encode())
    return Batch(digest.hexdigest()[:32], tuple(entries))


def _stamp(entry: Entry) -> tuple[int, int]:
    """Size and time of change: what tells a changed file without reading it."""
    try:
        status = Path(entry.path).stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _size(entry: Entry) -> int:
    return max(0, _stamp(entry)[0])
