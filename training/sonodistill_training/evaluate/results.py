"""A store of evaluations, each under the hash of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sonodistill.errors import DatasetError, UnreadableFileError
from sonodistill.files import atomic_path, write_text
from sonodistill_training.evaluate.learning.recipes import Recipe

Task = Literal["segmentation", "classification"]
PROTOCOLS = ("linear", "frozen_encoder_unet", "finetune", "knn")
SCHEMA_VERSION = 2  # another one where the same cell would give another result, or a field comes or goes
logger = logging.getLogger(__name__)

_CELLS, _CELL, _IMAGES, _MASKS = "cells", "cell.json", "images.parquet", "masks.npz"


@dataclass(frozen=True, slots=True)
class Cell:
    """One evaluation: everything its result follows from.

    Attributes:
        encoder: name of the row ("R18-Distill-US").
        weights: SHA-256 of the weights file, "random", or "hub:<name>".
        task: what is learnt.
        data: name of the data set ("ddti").
        data_sha256: of its frames, labels and split as they are used.
        protocol: "linear", "frozen_encoder_unet", "finetune" or "knn".
        head: what is trained on the encoder ("unet", "upernet", "light", "dpt", "linear", "knn").
        recipe: how.
        precision: "bf16" (mixed) or "fp32".
        fraction: of the training frames that are labelled.
        shots: labelled training frames in all, in the place of a fraction; 0 for none.
        draw: which of several random choices of the labelled frames.
        seed: of initial weights and order.
    """

    encoder: str
    weights: str
    task: Task
    data: str
    data_sha256: str
    protocol: str
    head: str
    recipe: Recipe
    precision: str = "fp32"
    fraction: float = 1.0
    shots: int = 0
    draw: int = 0
    seed: int = 0

    @property
    def key(self) -> str:
        """20 hex digits that name the cell: the SHA-256 of all its fields."""
        text = json.dumps({"version": SCHEMA_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def title(self) -> str:
        """For a person: "ddti finetune (unet) R18-Rand, 10 %, draw 1, seed 0"."""
        labelled = f"{self.shots} shots" if self.shots else f"{self.fraction:.0%}"
        drawn = f", draw {self.draw}" if self.shots or self.fraction < 1 else ""
        return (
            f"{self.data} {self.task} {self.protocol} ({self.head}) {self.encoder}, {labelled}{drawn}, seed {self.seed}"
        )


@dataclass(frozen=True)
class Result:
    """A finished cell.

    Attributes:
        cell: what was evaluated.
        folder: where it lies.
        about: summary of the metrics, epochs, seconds, parameters, software; plain JSON.
    """

    cell: Cell
    folder: Path
    about: dict[str, Any]

    @property
    def summary(self) -> dict[str, Any]:
        """The metrics over all test images."""
        return self.about["summary"]

    @property
    def curve(self) -> list[dict[str, float]]:
        """A row an epoch: epoch, loss, validation_loss, learning_rate, validation; empty without a training."""
        return self.about.get("curve", [])

    @cached_property
    def images(self) -> pa.Table:
        """A row a test image (columns: see the module ``scoring``)."""
        return pq.read_table(self.folder / _IMAGES)

    def column(self, name: str) -> NDArray[Any]:
        """A column of :attr:`images`; null is NaN."""
        return self.images[name].to_numpy(zero_copy_only=False)

    def masks(self) -> list[NDArray[np.bool_]]:
        """The predicted mask of each test image of a segmentation, (H, W) bool on the frame's grid, in row order."""
        with np.load(self.folder / _MASKS, allow_pickle=False) as stored:
            shapes, offsets, bits = stored["shapes"], stored["offsets"], stored["bits"]
        return [
            np.unpackbits(bits[start:stop], count=height * width).reshape(height, width).astype(bool)
            for (height, width), start, stop in zip(shapes.tolist(), offsets[:-1], offsets[1:], strict=True)
        ]


class Store:
    """Finished cells in a folder. A cell is there whole or not at all, and never computed twice."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, cell: Cell) -> Path:
        """The folder of a cell, whether it is there or not."""
        return self.folder / _CELLS / cell.key

    def has(self, cell: Cell) -> bool:
        """Whether the cell is finished."""
        return (self.path(cell) / _CELL).is_file()

    def read(self, cell: Cell) -> Result:
        """A finished cell.

        Raises:
            UnreadableFileError: its files were changed or removed.
        """
        result = _read(self.path(cell))
        if result is None:
            raise UnreadableFileError("is of another release", path=self.path(cell), remedy="remove it and run again")
        return result

    def write(
        self,
        cell: Cell,
        images: Mapping[str, Sequence[Any]],
        about: Mapping[str, Any],
        masks: Sequence[NDArray[np.bool_]] | None = None,
    ) -> Result:
        """Keep a cell's per-image results, what is known about it, and the masks of a segmentation."""
        folder = self.path(cell)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / _IMAGES) as path:
            pq.write_table(pa.table(dict(images)), path)
        if masks is not None:
            _write_masks(folder / _MASKS, masks)
        # Last: a cell without this file is not there.
        content = {"version": SCHEMA_VERSION, "cell": asdict(cell), "about": dict(about)}
        write_text(folder / _CELL, json.dumps(content, indent=1, allow_nan=False) + "\n")
        return self.read(cell)

    def any(self) -> bool:
        """Whether there is a finished cell."""
        return next((self.folder / _CELLS).glob(f"*/{_CELL}"), None) is not None

    def all(self) -> list[Result]:
        """Every finished cell, ordered by what it evaluates; those of another release are left out and counted.

        Raises:
            DatasetError: there is none.
            UnreadableFileError: one was changed or damaged.
        """
        read = [_read(path.parent) for path in sorted((self.folder / _CELLS).glob(f"*/{_CELL}"))]
        found = [result for result in read if result is not None]
        if len(found) < len(read):
            logger.warning("%s: %d results of another release are left out", self.folder, len(read) - len(found))
        if not found:
            raise DatasetError(
                "holds no finished evaluation", path=self.folder, remedy="run `sonodistill evaluate run --out` on it"
            )
        return sorted(found, key=lambda result: _order(result.cell))


def _read(folder: Path) -> Result | None:
    """The result in a folder, None where another release wrote it."""
    path = folder / _CELL
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != SCHEMA_VERSION:
            return None
        known = {field.name for field in fields(Recipe)}
        settings = {key: value for key, value in content["cell"].pop("recipe").items() if key in known}
        settings["probe_rates"] = tuple(settings["probe_rates"])
        cell = Cell(**content["cell"], recipe=Recipe(**settings))
        about = dict(content["about"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnreadableFileError(
            f"is no result of an evaluation ({error})", path=path, remedy="remove its folder and run again"
        ) from error
    if cell.key != folder.name:
        raise UnreadableFileError(
            "does not say what its folder's name says: it was changed",
            path=path,
            remedy="remove its folder and run again",
        )
    return Result(cell, folder, about)


def _order(cell: Cell) -> tuple[Any, ...]:
    protocol = PROTOCOLS.index(cell.protocol)
    return cell.task, cell.data, protocol, cell.head, cell.shots, -cell.fraction, cell.encoder, cell.draw, cell.seed


def _write_masks(target: Path, masks: Sequence[NDArray[np.bool_]]) -> None:
    packed = [np.packbits(mask) for mask in masks]
    offsets = np.cumsum([0, *(len(bits) for bits in packed)])
    with atomic_path(target) as path, path.open("wb") as file:
        np.savez_compressed(
            file, shapes=np.array([mask.shape for mask in masks]), offsets=offsets, bits=np.concatenate(packed)
        )
