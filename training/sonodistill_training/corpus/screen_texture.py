"""Statistics of a picture's texture that tell ultrasound from photographs, documents and traces over time."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 256  # px of the short side at which everything is measured
_LIT = 16  # mean gray level of a neighbourhood that shows something
_FEWEST = 500  # pixels
_FLAT, _BRIGHT = 2, 90  # range of 3 x 3 pixels that are flat; gray level from which flatness is no shadow
_NEAR = 9  # px: side of a neighbourhood
_LINE = 110  # gray level of a drawn baseline
_HELD = 16  # gray levels by which the pixels of a drawn line differ
_SQUARE = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class Texture:
    """What was measured where the picture is lit.

    Attributes:
        axial: mean step from row to row over mean step from column to column. An ultrasound pulse is shorter than
            its beam is wide, so it is above 1 in B-mode images, and about 1 in photographs.
        flat_bright: part that is constant and not dark.
        median: gray level.
        unevenness: standard deviation over mean of the local standard deviation: speckle is everywhere.
        slope: correlation of local standard deviation and local mean.
    """

    axial: float
    flat_bright: float
    median: float
    unevenness: float
    slope: float


def shrink(image: NDArray[np.uint8], interpolation: int = cv2.INTER_AREA) -> NDArray[np.uint8]:
    """The image with its short side at 256 px, at which everything here is measured; a smaller one as it is."""
    scale = _SIDE / min(image.shape)
    if scale >= 1:
        return np.ascontiguousarray(image)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=interpolation)


def measure(gray: NDArray[np.uint8], sector: NDArray[np.bool_] | None = None) -> Texture | None:
    """The texture of a shrunken picture, or None where too little of it is lit.

    Args:
        gray: (H, W) uint8, cropped to the image.
        sector: (H, W) bool, what to look at; everything where None.
    """
    value = gray.astype(np.float32)
    mean = cv2.blur(value, (_NEAR, _NEAR))
    lit = mean > _LIT
    if sector is not None:
        lit &= sector
    lit = cv2.erode(lit.view(np.uint8), np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    if np.count_nonzero(lit) < _FEWEST:
        return None
    where = lit > 0
    down, across = cv2.absdiff(gray[1:, 1:], gray[:-1, 1:]), cv2.absdiff(gray[1:, 1:], gray[1:, :-1])
    ranges = cv2.subtract(cv2.dilate(gray, _SQUARE), cv2.erode(gray, _SQUARE))[::2, ::2]
    few = where[::2, ::2]  # neighbourhoods overlap: every other row and column says as much
    variance = (cv2.blur(value * value, (_NEAR, _NEAR)) - mean * mean)[::2, ::2][few]
    spread, level, shown = np.sqrt(np.maximum(variance, 0)), mean[::2, ::2][few], gray[::2, ::2][few]
    deviation = max(float(spread.std()), 1e-6)
    covariance = float(np.mean((spread - spread.mean()) * (level - level.mean())))
    return Texture(
        axial=cv2.mean(down, lit[1:, 1:])[0] / max(cv2.mean(across, lit[1:, 1:])[0], 1e-3),
        flat_bright=float(np.mean((ranges[few] <= _FLAT) & (shown >= _BRIGHT))),
        median=float(np.median(shown)),
        unevenness=deviation / max(float(spread.mean()), 1e-6),
        slope=covariance / (deviation * max(float(level.std()), 1e-6)),
    )


def is_spectral(gray: NDArray[np.uint8]) -> bool:
    """Whether a shrunken picture is a Doppler spectrum: a drawn baseline, and on a side of it nothing but an envelope.

    The envelope has to stand on the baseline in every column, be black beyond, and rise and fall: the far field of
    a B-mode image is black too, but no line is drawn through the image where it begins.
    """
    height = gray.shape[0]
    lines = np.flatnonzero(cv2.reduce(gray, 1, cv2.REDUCE_AVG, dtype=cv2.CV_32F)[:, 0] >= _LINE - _HELD)
    rows = gray[lines].astype(np.float32)
    level = np.median(rows, axis=1)
    held = np.mean(np.abs(rows - level[:, None]) <= _HELD, axis=1)
    lines = lines[(level >= _LINE) & (held >= 0.95)]
    if not 0 < lines.size <= 0.04 * height:  # a line is thin
        return False
    first, last = int(lines[0]), int(lines[-1]) + 1
    if last - first > lines.size + 2:  # and there is one
        return False
    return any(_envelope(side) for side in (gray[last + 2 :], gray[: max(first - 2, 0)][::-1]))


def _envelope(side: NDArray[np.uint8]) -> bool:
    """Whether each column beside the baseline (nearest row first) is lit up to a height, and then black."""
    if len(side) < 0.2 * side.shape[1]:
        return False
    lit = cv2.medianBlur(np.ascontiguousarray(side), 5) > _LIT
    until = np.where(lit.all(axis=0), len(lit), np.argmin(lit, axis=0))
    stray = np.count_nonzero(lit) - int(until.sum())
    rises = float(until.std()) > 0.3 * float(until.mean())
    return until.mean() > 0.1 * len(lit) and stray < 0.1 * until.sum() and rises
