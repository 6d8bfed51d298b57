"""Which frames of which data sets are embedded: a balanced draw from labelled folders, corpora and published ones."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sonodistill.errors import DatasetError
from sonodistill.files import sha256
from sonodistill.frames import read
from sonodistill_training.corpus.labelled import INDEX, read_labelled
from sonodistill_training.corpus.pack import is_corpus
from sonodistill_training.corpus.registry import get
from sonodistill_training.corpus.registry.core import Item
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.monitor.features import Image


@dataclass(frozen=True, slots=True)
class DrawnFrame:
    """A frame that is to be embedded, before it is read.

    Attributes:
        dataset: key of its data set.
        anatomy: in lower case, without what the registry adds in brackets.
        group: data set and patient, case or video.
        sha256: of the file, or of the pixels in a corpus.
        load: gives the file, or (H, W) uint8.
    """

    dataset: str
    anatomy: str
    group: str
    sha256: str
    load: Callable[[], Image]


@dataclass(frozen=True, slots=True)
class _Source:
    """All frames of a source; the anatomy is "" where the source does not say."""

    datasets: Sequence[str]
    anatomies: Sequence[str]
    groups: Sequence[str]
    load: Callable[[int], Image]
    digest: Callable[[int], str]


def draw(
    sources: Mapping[str, str | Path], limit: int, seed: int = 0, anatomies: Mapping[str, str] | None = None
) -> list[DrawnFrame]:
    """At most ``limit`` frames of each data set: one of each group in turn, in an order that the seed gives.

    Args:
        sources, anatomies: as :func:`analyse` takes them.

    Raises:
        DatasetError: no source, a data set in two sources, a data set of unknown anatomy.
    """
    drawn: list[DrawnFrame] = []
    seen: dict[str, str] = {}
    for name, location in sources.items():
        source = _open(name, location)
        rows_of: dict[str, list[int]] = defaultdict(list)
        for row, dataset in enumerate(source.datasets):
            rows_of[dataset].append(row)
        for dataset, rows in sorted(rows_of.items()):
            if dataset in seen:
                raise DatasetError(
                    f"holds {dataset}, which {seen[dataset]} holds too", path=location, remedy="name it once"
                )
            seen[dataset] = name
            for place in _spread([source.groups[row] for row in rows], limit, seed):
                drawn.append(_drawn(source, rows[place], anatomies or {}))
    if not drawn:
        raise DatasetError("no source gave a frame", remedy="name folders of two data sets or more")
    return drawn


def _open(name: str, location: str | Path) -> _Source:
    if is_corpus(location):
        return _of_corpus(str(location))
    folder = Path(location)
    return _of_index(name, folder) if (folder / INDEX).is_file() else _of_registry(name, folder)


def _of_index(name: str, folder: Path) -> _Source:
    frames = read_labelled(folder)
    with (folder / INDEX).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))  # in the order of the frames
    return _Source(
        [row.get("dataset") or name for row in rows],
        [row.get("anatomy") or "" for row in rows],
        [frame.group for frame in frames],
        lambda row: frames[row].image,
        lambda row: sha256(frames[row].image),
    )


def _of_corpus(location: str) -> _Source:
    corpus = Corpus(location)
    codes, names = corpus.datasets
    sources, hashes = corpus.column("source"), corpus.column("pixels_sha256")
    groups = zip(corpus.column("group"), sources, strict=True)
    return _Source(
        [names[code] for code in codes.tolist()],
        [""] * len(corpus),
        [group or source or f"frame {row}" for row, (group, source) in enumerate(groups)],
        lambda row: corpus[row],
        lambda row: hashes[row] or hashlib.sha256(repr(corpus[row].shape).encode() + corpus[row].tobytes()).hexdigest(),
    )


def _of_registry(name: str, folder: Path) -> _Source:
    entry = get(name)
    items = entry.items(folder)
    return _Source(
        [entry.key] * len(items),
        [""] * len(items),
        [item.group for item in items],
        lambda row: _first_frame(items[row]),
        lambda row: sha256(items[row].file),
    )


def _first_frame(item: Item) -> Image:
    """Of those that belong to the data set."""
    first = 0 if item.only is None else min(item.only)
    frame = next(iter(read(item.file, axis=item.axis, only=[first])), None)
    return item.file if frame is None else frame.image


def _drawn(source: _Source, row: int, anatomies: Mapping[str, str]) -> DrawnFrame:
    dataset = source.datasets[row]
    anatomy = anatomies.get(dataset) or source.anatomies[row] or _registered(dataset)
    return DrawnFrame(
        dataset,
        anatomy.partition("(")[0].replace("_", " ").strip().lower(),
        f"{dataset}/{source.groups[row]}",
        source.digest(row),
        lambda: source.load(row),
    )


def _registered(dataset: str) -> str:
    try:
        return get(dataset).anatomy
    except DatasetError as error:
        raise DatasetError(
            f"nothing says of which anatomy {dataset} is",
            remedy=f"give its {INDEX} a column anatomy, or say it with anatomies={{{dataset!r}: ...}}",
        ) from error


def _spread(groups: Sequence[str], limit: int, seed: int) -> list[int]:
    """Which ``limit`` frames to take, in their order: the first of every group, then the second of every group ..."""
    members: dict[str, list[int]] = defaultdict(list)
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    for place in order:
        members[groups[place]].append(place)
    turns = sorted((turn, rank) for rank, rows in enumerate(members.values()) for turn in range(len(rows)))
    listed = list(members.values())
    return sorted(listed[rank][turn] for turn, rank in turns[:limit])
