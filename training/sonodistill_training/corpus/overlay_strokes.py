"""Gray strokes drawn over an image: text, calipers, rulers and dotted lines, told from echoes by their edges."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_WIDEST = 11  # px; a structure that an 11 x 11 square fits into is no stroke
_CONTRAST = 32  # gray levels that a stroke stands out of what is left when everything thin is taken away
_DARKEST = 100  # gray level below which nothing is taken for drawn
_HALO = 20  # gray levels: what anti-aliasing and JPEG leave around a stroke
_LABELS = 65_535  # more components than 16 bits count are noise, not writing

# Scanners draw with steps of a pixel; an echo is as wide as the point spread function and rises over several pixels.
# So the drop from a component to the ring of pixels around it, against the drop to the next ring, tells them apart.
# Weights of logistic regressions fitted on 200,000 components: text, calipers and rulers stamped (with JPEG at quality
# 75-95, a part of them shrunk afterwards) on fetal, liver, lung, muscle and eye frames, against the echoes of those.


@dataclass(frozen=True)
class _Weights:
    """Which pixels form components (at most ``plateau`` below the brightest nearby), and what weighs how much."""

    plateau: int
    offset: float
    level: float  # mean gray level
    first_drop: float  # level - mean of the ring at 1 px
    second_drop: float  # level - mean of the ring at 2 px
    spread: float  # standard deviation within the component
    log_area: float
    grain: float  # of the frame: median range of 3 x 3 pixels; what is sharp everywhere is no sign of writing


# The second set cuts writing out of tissue that is nearly as bright.
_PASSES = (
    _Weights(40, -9.56, 0.0295, 0.1814, -0.0523, -0.1405, 0.0, -0.0707),
    _Weights(12, -8.75, 0.0202, 0.1210, 0.0040, -0.4411, 0.4392, -0.0752),
)
_SURE, _LIKELY = 2.0, 0.0  # scores (log odds): drawn; drawn if it stands beside something that surely is
_BESIDE = 25  # px: size of the square around a sure stroke in which likely ones are believed
_LIT, _LIT_FEWEST = 40, 200  # gray level from which a pixel tells the grain; how many it takes
_GRAIN = 20.0  # of a frame with fewer: a usual one
_SQUARE = np.ones((3, 3), np.uint8)


def find_strokes(
    gray: NDArray[np.uint8],
    *,
    sector: NDArray[np.bool_] | None = None,
    where: NDArray[np.bool_] | None = None,
    sure: float = _SURE,
    likely: float = _LIKELY,
) -> NDArray[np.bool_]:
    """Pixels of thin, evenly bright, sharp-edged strokes, with the halo that anti-aliasing and JPEG gave them.

    Args:
        gray: (H, W) uint8.
        sector: (H, W) bool, the insonified region, or None. What surrounds a component counts only inside of it: the
            step at the sector's edge is no sign of writing.
        where: (H, W) bool, pixels a stroke may have; everything where None.
        sure: log odds from which a component is a stroke.
        likely: log odds from which it is one beside a sure stroke.

    Returns:
        (H, W) bool.
    """
    thin = cv2.subtract(gray, cv2.morphologyEx(gray, cv2.MORPH_OPEN, np.ones((_WIDEST, _WIDEST), np.uint8)))
    below_peak = cv2.subtract(cv2.dilate(gray, np.ones((5, 5), np.uint8)), gray)
    candidate = (thin >= _CONTRAST) & (gray >= _DARKEST)
    if where is not None:
        candidate &= where
    grain = _grain(gray)
    certain, possible = np.zeros((2, *gray.shape), np.uint8)
    for weights in _PASSES:
        drawn = (candidate & (below_peak <= weights.plateau)).view(np.uint8)
        count, labels = cv2.connectedComponents(drawn, connectivity=8)
        if 1 < count <= _LABELS:
            score, places, label = _score(gray, labels.astype(np.uint16), count, sector, weights, grain)
            certain.ravel()[places] |= (score >= sure)[label]
            possible.ravel()[places] |= (score >= likely)[label]
    if not certain.any():
        return certain > 0
    beside = cv2.dilate(certain, np.ones((_BESIDE, _BESIDE), np.uint8))
    return _with_halo(certain | (possible & beside), thin)


def _grain(gray: NDArray[np.uint8]) -> float:
    """Median range of the gray levels in 3 x 3 pixels, over the pixels that are not dark."""
    ranges = cv2.subtract(cv2.dilate(gray, _SQUARE), cv2.erode(gray, _SQUARE))[::2, ::2][gray[::2, ::2] >= _LIT]
    return float(np.median(ranges)) if ranges.size >= _LIT_FEWEST else _GRAIN


def _score(
    gray: NDArray[np.uint8],
    labels: NDArray[np.uint16],
    count: int,
    sector: NDArray[np.bool_] | None,
    weights: _Weights,
    grain: float,
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.uint16]]:
    """(count,) log odds of each component being drawn, and the flat indices and labels of the components' pixels."""
    first = cv2.dilate(labels, _SQUARE)
    second = cv2.dilate(first, _SQUARE)
    places = np.flatnonzero(second)  # few: everything from here on looks at these only
    own, first, second = labels.ravel()[places], first.ravel()[places], second.ravel()[places]
    value = gray.ravel()[places].astype(np.float64)
    counts = np.ones(len(places), bool) if sector is None else sector.ravel()[places]
    inside = own > 0
    area, level, spread = _levels(own[inside], value[inside], count)
    around = (first > 0) & ~inside & counts
    area1, ring1, _ = _levels(first[around], value[around], count)
    around = (first == 0) & counts
    area2, ring2, _ = _levels(second[around], value[around], count)
    score = (
        weights.offset
        + weights.level * level
        + weights.first_drop * np.where(area1 > 0, level - ring1, 0)
        + weights.second_drop * np.where(area2 > 0, level - ring2, 0)
        + weights.spread * spread
        + weights.log_area * np.log(area.clip(1))
        + weights.grain * grain
    )
    return score, places[inside], own[inside]


def _levels(
    label: NDArray[np.uint16], value: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(area, mean, standard deviation) of the values, each (count,), by label; 0 for a label that does not occur."""
    area = np.bincount(label, minlength=count).astype(np.float64)
    mean = np.bincount(label, value, count) / area.clip(1)
    spread = np.sqrt((np.bincount(label, value * value, count) / area.clip(1) - mean * mean).clip(0))
    return area, mean, spread


def _with_halo(strokes: NDArray[np.uint8], thin: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The strokes, the pixels that touch them, and those at 2 px that still stand out."""
    near = cv2.dilate(strokes, _SQUARE)
    return (near > 0) | ((cv2.dilate(near, _SQUARE) > 0) & (thin >= _HALO))
