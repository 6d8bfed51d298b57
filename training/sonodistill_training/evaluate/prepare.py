"""A published labelled data set as the folder that fine-tuning reads, with the split that evaluation uses."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from sonodistill.errors import DatasetError
from sonodistill.files import atomic_path
from sonodistill_training.corpus.labelled import INDEX, SPLITS
from sonodistill_training.corpus.registry import data_sets
from sonodistill_training.evaluate.data import labelled_frames, read_set
from sonodistill_training.evaluate.divide import divide
from sonodistill_training.finetune.labels import structure_name

_LOOK = 32  # pixels: the set is read once to be checked and divided, at a size that takes no room


def prepare(name: str, folder: Path, out: Path, task: str, way: str = "auto", seed: int = 0) -> dict[str, int]:
    """Write gray PNG frames, masks and an ``index.csv`` that names every frame's split.

    Args:
        name: what the set is called; a key of the registry where the folder has no index.
        out: a folder that is new or empty.
        task: "segmentation" (frames with a mask) or "classification" (frames with a label).
        way, seed: see :func:`sonodistill_training.evaluate.divide.divide`.

    Returns:
        Number of frames in each split.

    Raises:
        DatasetError: the folder for the result is not empty; or see ``read_set`` and ``divide``.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError("is not empty", path=out, remedy="name a new folder with --out")
    data = read_set(name, folder, _LOOK)
    division = divide(data, task, way, seed)
    split_of = {row: split for split in SPLITS for row in getattr(division, split).tolist()}
    row_of = {file: row for row, file in enumerate(data.files)}
    plain = len({Path(file).with_suffix("") for file in data.files}) == len(data)
    with atomic_path(out / INDEX) as index, index.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["dataset", "file", "mask", "label", "group", "split", "mm_per_pixel", "structure"])
        structure = _structure(name, folder)
        for source, frame in track(labelled_frames(name, folder), f"writing {name}", len(data), transient=True):
            row = row_of[source]
            if row not in split_of:
                continue
            picture = Path(source).with_suffix(".png").as_posix() if plain else f"{source}.png"
            image = f"images/{picture}"
            _write(out / image, frame.image)
            mask = ""
            if data.truths[row] is not None:
                mask = f"masks/{picture}"
                _write(out / mask, data.truth(row).astype(np.uint8) * 255)
            mm = data.spacing(row)
            square = f"{mm[0]:.8g}" if mm is not None and np.isclose(*mm, rtol=1e-3) else ""
            table.writerow([name, image, mask, data.labels[row], data.groups[row], split_of[row], square, structure])
    return {split: len(getattr(division, split)) for split in SPLITS}


def _structure(name: str, folder: Path) -> str:
    """What the masks show, by the folder's own index, else by the registry; "" where neither says it."""
    if (folder / INDEX).is_file():
        return structure_name(folder)
    known = data_sets().get(name)
    return "" if known is None else known.structure or " or ".join(known.structures)


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", image)
    if not encoded:
        raise DatasetError(f"an image of {image.shape} cannot be written as PNG", path=path)
    path.write_bytes(data.tobytes())
