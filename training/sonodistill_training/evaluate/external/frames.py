"""Any folder of frames, with or without masks: what is in it, and reading it past what is damaged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import DatasetError, SonoDistillError, UnreadableFileError
from sonodistill.files import sha256
from sonodistill.frames import Frame, find_files, read
from sonodistill_training.corpus.labelled import INDEX, read_labelled
from sonodistill_training.corpus.registry import data_sets

IMAGES, MASKS = "images", "masks"


@dataclass(frozen=True, slots=True)
class Item:
    """A frame before it is read. ``mask`` is a path or an annotation of the registry; ``split`` is "" for none."""

    name: str
    path: Path
    group: str
    mask: Any = None
    split: str = ""
    mm_per_pixel: float | None = None


@dataclass(slots=True)
class Reading:
    """Frames as they are read, and the files that could not be."""

    items: list[Item]
    skipped: dict[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[Item, Frame]]:
        """Each item with its one frame; what is damaged is noted in ``skipped``."""
        for item in self.items:
            try:
                yield item, one_frame(item.path)
            except (SonoDistillError, OSError, UnicodeError) as error:
                self.note(item, error)

    def note(self, item: Item, error: Exception) -> None:
        """Pass over an item."""
        self.skipped[item.name] = error.message if isinstance(error, SonoDistillError) else str(error)[:200]


def items_of(name: str, folder: str | Path, seed: int = 0) -> list[Item]:
    """What a folder holds: the rows of its ``index.csv``; else as the registry's data set ``name`` is published; else
    ``images`` beside ``masks`` of the same names; else every ultrasound file below it, without masks.

    An index that names no splits is dealt into them by ``seed``.

    Raises:
        DatasetError, UnreadableFileError, EmptyInputError: no such folder, a damaged index, nothing in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UnreadableFileError("there is no such folder", path=folder, remedy="write NAME=FOLDER")
    if (folder / INDEX).is_file():
        rows = read_labelled(folder, seed=seed)
        return [
            Item(_below(row.image, folder), row.image, row.group, row.mask, row.split, row.mm_per_pixel) for row in rows
        ]
    if name in data_sets():
        found = [item for item in data_sets()[name].items(folder) if item.axis is None and item.only is None]
        if found:
            return [
                Item(_below(item.file, folder), item.file, item.group, item.mask, item.split, item.mm_per_pixel)
                for item in found
            ]
    if (folder / IMAGES).is_dir() and (folder / MASKS).is_dir():
        masks = {path.stem: path for path in sorted((folder / MASKS).iterdir()) if path.is_file()}
        images = sorted(path for path in (folder / IMAGES).iterdir() if path.is_file())
        missing = [path.name for path in images if path.stem not in masks]
        if missing:
            raise DatasetError(
                f"{len(missing)} images have no mask of their name ({missing[0]})", path=folder, remedy=f"write {INDEX}"
            )
        return [Item(_below(path, folder), path, path.stem, masks[path.stem]) for path in images]
    return [Item(_below(path, folder), path, path.stem) for path in find_files(folder)]


def index_sha256(folder: str | Path) -> str:
    """Hex SHA-256 of a folder's index, or of the names and sizes of its files; "" where there is no such folder."""
    folder = Path(folder)
    if (folder / INDEX).is_file():
        return sha256(folder / INDEX)
    digest = hashlib.sha256()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest() if files else ""


def one_frame(path: Path) -> Frame:
    """The frame of a still.

    Raises:
        DatasetError: none, or several.
        UnreadableFileError, UnsupportedFormatError: it cannot be read.
    """
    frames = iter(read(path))
    first = next(frames, None)
    if first is None or next(frames, None) is not None:
        raise DatasetError("holds no frame" if first is None else "is a clip or volume, not a frame", path=path)
    return first


def truth_of(item: Item, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: the mask of an item on its frame's grid.

    Raises:
        DatasetError: another size, or more values than two.
        UnreadableFileError: it cannot be read.
    """
    if not isinstance(item.mask, Path):
        return np.asarray(item.mask.load(shape)) > 0
    mask = cv2.imread(str(item.mask), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise UnreadableFileError("the mask cannot be read", path=item.mask, remedy="copy it again")
    if mask.shape != shape:
        raise DatasetError(f"the mask is {mask.shape}, its frame {shape}", path=item.mask, remedy="export it again")
    values = np.unique(mask)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise DatasetError(
            f"the mask holds {len(values)} values, not 0 and one more", path=item.mask, remedy="write one structure"
        )
    return mask > 0


def spread(items: Iterable[Item], limit: int | None) -> list[Item]:
    """At most ``limit`` of the items, at even distances."""
    found = list(items)
    if limit is None or len(found) <= limit:
        return found
    return [found[(2 * place + 1) * len(found) // (2 * limit)] for place in range(limit)]


def _below(path: Path, folder: Path) -> str:
    base = folder if path.is_relative_to(folder) else folder.parent
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name
