"""Head circumference in millimetres from a mask, and how far a segmenter's is from the published one (HC18)."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import DatasetError, EmptyInputError
from sonodistill.inference.predictor import Predictor
from sonodistill_training.evaluate.external.frames import Item, Reading
from sonodistill_training.evaluate.metrics.statistics import Interval, bootstrap, mean

FILENAME, CIRCUMFERENCE = "filename", "head circumference (mm)"
_CORNERS = 5  # that an ellipse is fitted to


@dataclass(frozen=True, slots=True)
class Measured:
    """A frame's circumference in mm: published, and by the segmenter's mask (None: no head was found)."""

    image: str
    group: str
    published: float
    found: float | None


@dataclass
class Agreement:
    """Of all frames.

    Attributes:
        rows: of every frame with a published circumference and a pixel size.
        skipped: frames that could not be measured, and why.
    """

    rows: list[Measured] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def differences(self) -> NDArray[np.float64]:
        """(n,) float64: found less published, in mm, where a head was found."""
        return np.array([row.found - row.published for row in self.rows if row.found is not None])

    def absolute(self) -> Interval:
        """Mean absolute difference in mm with its 95 % interval over patients."""
        return self._mean(np.abs(self.differences))

    def signed(self) -> Interval:
        """Mean difference in mm with its 95 % interval over patients."""
        return self._mean(self.differences)

    def limits(self) -> tuple[float, float]:
        """Limits of agreement in mm: mean difference less and plus 1.96 standard deviations (Bland and Altman)."""
        centre, spread = float(self.differences.mean()), 1.96 * float(self.differences.std(ddof=1))
        return centre - spread, centre + spread

    def _mean(self, values: NDArray[np.float64]) -> Interval:
        return bootstrap(mean, values, [row.group for row in self.rows if row.found is not None])


def circumference_mm(mask: NDArray[np.bool_], spacing: tuple[float, float]) -> float | None:
    """Perimeter of the ellipse through the outline of a mask's largest part, as HC18's readers measured it.

    Args:
        mask: (H, W) bool.
        spacing: millimetres of a pixel (row, column).

    Returns:
        Millimetres by Ramanujan's second approximation (error below 1e-5 for heads); None where there is too little.
    """
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outline = max(outlines, key=cv2.contourArea, default=None)
    if outline is None or len(outline) < _CORNERS:
        return None
    row, column = spacing
    points = outline[:, 0, :].astype(np.float32) * np.array([column, row], np.float32)
    _, axes, _ = cv2.fitEllipseDirect(points)
    # The outline runs through the centres of the outermost pixels: there HC18's readers drew their line, which its
    # masks include.
    a, b = (axis / 2 for axis in axes)
    if not (math.isfinite(a) and math.isfinite(b) and min(a, b) > 0):
        return None
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


def read_published(path: Path) -> dict[str, float]:
    """Circumferences in mm by the name of the file without its ending, from HC18's table.

    Raises:
        DatasetError: no such file or columns, or a value that is no length.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        found = {Path(row[FILENAME]).stem: float(row[CIRCUMFERENCE]) for row in rows}
        if not found:
            raise ValueError("it is empty")
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        remedy = "give HC18's training_set_pixel_size_and_HC.csv"
        raise DatasetError(f"is no table of head circumferences ({error})", path=path, remedy=remedy) from error
    wrong = sorted(name for name, value in found.items() if not 0 < value < 1000)
    if wrong:
        raise DatasetError(f"gives {found[wrong[0]]} mm for {wrong[0]}", path=path, remedy="correct or drop its row")
    return found


def agree(
    predictor: Predictor, items: Sequence[Item], published: Mapping[str, float], tick: Callable[[], None] = lambda: None
) -> Agreement:
    """Measure every frame that has a published circumference.

    Raises:
        EmptyInputError: none could be measured.
    """
    known = [item for item in items if item.path.stem in published]
    reading, agreement = Reading(known), Agreement()
    for item, frame in reading:
        spacing = frame.mm_per_pixel or ((item.mm_per_pixel,) * 2 if item.mm_per_pixel else None)
        if spacing is None:
            reading.note(item, DatasetError("its pixel size is unknown"))
        else:
            found = circumference_mm(predictor.predict_one(frame).mask, spacing)
            agreement.rows.append(Measured(item.name, item.group, published[item.path.stem], found))
        tick()
    agreement.skipped = reading.skipped
    if not len(agreement.differences):
        raise EmptyInputError(
            f"no head was measured: {len(known)} of {len(items)} frames are in the table, "
            f"{len(reading.skipped)} were skipped, and in {len(agreement.rows)} no head was found"
        )
    return agreement
