"""A folder of labelled frames: which image, mask and class belong together, and which split each is in."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sonodistill.errors import DatasetError

INDEX = "index.csv"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """A row of the index. ``mask`` is None where there is no annotation; an annotated frame without lesion has an
    empty mask image. ``group`` (patient, case, video) is never divided between splits. ``given`` says whether the
    index itself names the split of every row; ``mm_per_pixel`` is None where the index has none. ``structures`` are
    (value, name) pairs of a mask that tells several apart, empty for one of two values."""

    image: Path
    mask: Path | None
    label: str
    group: str
    split: str
    given: bool = False
    mm_per_pixel: float | None = None
    structures: tuple[tuple[int, str], ...] = ()


def read_labelled(
    folder: str | Path, *, fractions: Sequence[float] = (0.7, 0.2, 0.1), seed: int = 0
) -> list[LabelledFrame]:
    """Read ``index.csv`` (columns file, mask, label, group, split, mm_per_pixel, structures; only the first is needed).

    Paths are relative to the folder, or to its parent where they begin with the folder's own name. When the index
    gives every row a split, that is used; otherwise whole groups are dealt by ``fractions`` (train, validation,
    test; the papers' 70/20/10), deterministically: adding frames never moves a group. Without a group, frames of one
    source (the column that ``sonodistill frames export`` writes) stay together, and others stand alone. ``structures``
    is what the values of a mask mean ("1=symphysis;2=head"); without it every value above 0 is the one foreground,
    which a column ``structure`` may name (see ``finetune.labels``).

    Raises:
        DatasetError: no index, a missing column, or a file that the index names and that is not there.
    """
    folder = Path(folder)
    index = folder / INDEX
    if not index.is_file():
        raise DatasetError(
            f"has no {INDEX}", path=folder, remedy=f"write {INDEX} with the columns file, mask, label, group, split"
        )
    with index.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "file" not in rows[0]:
        raise DatasetError("names no file", path=index, remedy="give it a header with a column called file, and rows")
    given = all(row.get("split") in SPLITS for row in rows)
    found = []
    for row in rows:
        group = row.get("group") or row.get("source") or row["file"]
        split = row["split"] if given else _deal(group, fractions, seed)
        mask = _locate(folder, row["mask"]) if row.get("mask") else None
        mm = _pixel_size(row.get("mm_per_pixel"), row["file"], index)
        image, label, parts = _locate(folder, row["file"]), row.get("label") or "", _parts(row.get("structures"), index)
        found.append(LabelledFrame(image, mask, label, group, split, given, mm, parts))
    return found


def segmentation_items(folder: str | Path, split: str, seed: int = 0) -> list[dict[str, str]]:
    """``{"image": path, "label": path of the mask}`` of a split's annotated frames, as MONAI data sets take them.

    Raises:
        DatasetError: the split has no annotated frame.
    """
    frames = [frame for frame in read_labelled(folder, seed=seed) if frame.split == split and frame.mask]
    if not frames:
        raise DatasetError(f"has no frame with a mask in the {split} split", path=folder, remedy=f"see its {INDEX}")
    return [{"image": str(frame.image), "label": str(frame.mask)} for frame in frames]


def class_names(folder: str | Path) -> list[str]:
    """The labels that occur, sorted."""
    return sorted({frame.label for frame in read_labelled(folder) if frame.label})


def classification_items(folder: str | Path, split: str, seed: int = 0) -> list[dict[str, str | int]]:
    """``{"image": path, "label": class number}`` of a split's labelled frames, numbered as in ``class_names``.

    Raises:
        DatasetError: the split has no labelled frame, or the folder knows fewer than two classes.
    """
    names = class_names(folder)
    if len(names) < 2:
        raise DatasetError(f"has {len(names)} classes; two are needed", path=folder, remedy=f"see its {INDEX}")
    frames = [frame for frame in read_labelled(folder, seed=seed) if frame.split == split and frame.label]
    if not frames:
        raise DatasetError(f"has no labelled frame in the {split} split", path=folder, remedy=f"see its {INDEX}")
    return [{"image": str(frame.image), "label": names.index(frame.label)} for frame in frames]


def _deal(group: str, fractions: Sequence[float], seed: int) -> str:
    """A split for the group by the hash of its name: stable whatever else the folder holds."""
    draw = int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64
    if draw < fractions[0]:
        return SPLITS[0]
    return SPLITS[1] if draw < fractions[0] + fractions[1] else SPLITS[2]


def _parts(text: str | None, index: Path) -> tuple[tuple[int, str], ...]:
    """ "1=symphysis;2=head" as pairs; nothing for an empty text."""
    pairs = [part.partition("=") for part in (text or "").split(";") if part.strip()]
    parts = tuple((int(value) if value.strip().isdecimal() else 0, name.strip()) for value, _, name in pairs)
    values, names = {value for value, _ in parts}, {name for _, name in parts}
    if any(not 0 < value < 256 or not name for value, name in parts) or not len(values) == len(names) == len(parts):
        raise DatasetError(
            f"says structures {text!r}",
            path=index,
            remedy="write each value (1 to 255) and name once: 1=symphysis;2=head",
        )
    return parts


def _pixel_size(text: str | None, name: str, index: Path) -> float | None:
    """Millimetres from the column of that name; empty is unknown."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise DatasetError(
            f"says mm_per_pixel {text!r} of {name}", path=index, remedy="give a positive number, or leave it empty"
        )
    return value


def _locate(folder: Path, name: str) -> Path:
    base = folder.parent if name.startswith(f"{folder.name}/") and not (folder / name).exists() else folder
    path = base / name
    # An index of somebody else's is not to have other files of this machine read, and shown in a report.
    if not path.resolve().is_relative_to(folder.resolve().parent):
        raise DatasetError(f"{INDEX} names {name}, which is outside", path=folder, remedy="copy it into the folder")
    if not path.is_file():
        raise DatasetError(
            f"{INDEX} names {name}, which is not there", path=folder, remedy="restore it or drop its row"
        )
    return path
