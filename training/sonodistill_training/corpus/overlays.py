"""What a scanner draws over the image: text, rulers, calipers, arrows, marks; found without OCR, and taken away.

No OCR: the models and binaries that read text cost hundreds of milliseconds a frame, and nothing here needs the words.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill_training.corpus.overlay_colour import coloured_strokes
from sonodistill_training.corpus.overlay_fill import remove, shrink_mask
from sonodistill_training.corpus.overlay_strokes import find_strokes

__all__ = ["Still", "find_overlay", "remove", "shrink_mask", "still_overlay"]

_LARGE = 900  # px of the short side from which frames are searched at half their size: strokes there are wide enough
_FEWEST = 4  # frames from which a cine says what stands still
_MOVING = 1.5  # gray levels of change between frames from which tissue is said to move
_STILL = 0.35  # change of a drawn pixel, as a part of the change of tissue
_HELD = 48  # gray levels over which a drawn pixel ranges in a cine (video coding is not exact)


class Still(Protocol):
    """What `find_overlay` needs to know about a cine: how many frames, and (H, W) images of what they have in common.

    ``darkest`` and ``brightest`` over time, uint8, and ``change``, the mean absolute difference of successive frames.
    """

    @property
    def count(self) -> int: ...
    @property
    def brightest(self) -> NDArray[np.uint8]: ...
    @property
    def darkest(self) -> NDArray[np.uint8]: ...
    @property
    def change(self) -> NDArray[np.float32]: ...


def find_overlay(
    gray: NDArray[np.uint8],
    rgb: NDArray[np.uint8] | None = None,
    *,
    sector: NDArray[np.bool_] | None = None,
    background: Still | None = None,
) -> NDArray[np.bool_]:
    """Pixels that were drawn over the ultrasound image: sharp gray strokes, coloured strokes, and what stands still.

    It is made to be right inside the sector, where bright echoes must stay; what it says outside of it does not
    matter to a caller who masks that anyway. Large filled shapes (logos, gray bars) are not looked for.

    Args:
        gray: (H, W) uint8.
        rgb: (H, W, 3) uint8, or None for a gray source.
        sector: (H, W) bool, the insonified region, or None when unknown. Tells the motion of tissue from that of
            the margins.
        background: of the cine the frame is from; None, or one of a few frames, for a still.

    Returns:
        (H, W) bool.
    """
    found = _strokes_at_scale(gray, sector)
    if rgb is not None:
        found |= coloured_strokes(rgb)
    if background is not None:
        found |= still_overlay(background, sector)
    return found


def still_overlay(background: Still, sector: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Pixels of strokes that stand still while tissue moves, as (H, W) bool; nothing for a cine in which nothing does.

    The darkest image over time shows them best: tissue that moves is dark there, and what is drawn is not.
    It is the same for every frame of a cine: compute it once and join it with `find_overlay` of each frame.
    """
    tissue = background.change[background.brightest > 16 if sector is None else sector]
    if background.count < _FEWEST or tissue.size == 0 or (motion := float(np.median(tissue))) < _MOVING:
        return np.zeros(background.darkest.shape, bool)
    still = (background.change <= _STILL * motion) & (cv2.subtract(background.brightest, background.darkest) <= _HELD)
    return find_strokes(background.darkest, sector=sector, where=still, sure=0.0, likely=-3.0)


def _strokes_at_scale(gray: NDArray[np.uint8], sector: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """`find_strokes`, at half the size for large frames."""
    height, width = gray.shape
    if min(gray.shape) < _LARGE:
        return find_strokes(gray, sector=sector)
    half = cv2.resize(gray, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    if sector is not None:
        sector = cv2.resize(sector.view(np.uint8), (width // 2, height // 2), interpolation=cv2.INTER_NEAREST) > 0
    found = find_strokes(half, sector=sector).astype(np.uint8)
    return cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST) > 0
