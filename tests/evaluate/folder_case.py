"""Small labelled folders, made of simulated frames, and what the tests change in them."""

from __future__ import annotations

import csv
from pathlib import Path

from sonodistill_training.corpus.simulator import write_simulated


def make_folder(path: Path, count: int = 20, size: int = 64) -> Path:
    """``count`` frames of 64 pixels with masks, labels and splits."""
    return write_simulated(path, count, size=(size, size), progress=False)


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of its index."""
    with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    """Replace its index."""
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
