"""One image of a cine, with its time and its place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.errors import SegmentError


class NoFrameError(SegmentError, IndexError):
    """A frame was asked for that the cine does not have."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One gray image of a cine.

    Attributes:
        image: (H, W) uint8, contiguous, row 0 on top; element [j, i] is voxel (i, j, 0) of the one-slice volume. The
            whole frame, not cropped.
        index: 0-based in the cine.
        time_s: seconds since the first frame, None where unknown.
        ijk_to_ras: (4, 4) float64 of the one-slice volume: i is the column, j the row, k = 0. Parent transforms are
            not in it.
        key: stable name, "<DICOM SOP instance UID or id of the cine>#<frame>".
    """

    image: NDArray[np.uint8]
    index: int
    time_s: float | None
    ijk_to_ras: NDArray[np.float64]
    key: str
