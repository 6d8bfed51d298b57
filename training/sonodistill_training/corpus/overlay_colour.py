"""Colour on top of a gray image: strokes in colour, colour Doppler, and the even tint of a gray map that is neither."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

COLOURED = 45  # levels between the strongest and the weakest channel from which a pixel has a colour of its own
_SPREAD = 24  # levels by which the pixels of a tint differ from its curve (JPEG keeps colour at half resolution)
_BINS = 32  # gray levels of the tint curve
_STEP = 4  # the curve is taken from every fourth row and column
_FILLED = 0.4  # part of a component that is wide, from which it is an area
_VARIED = 38  # levels by which the pixels of a component of many colours differ
_PATCH = 60  # px that it takes to say so
_SOLID = 0.6  # of the strongest colour nearby
_REACH = 11  # px: what is nearby
_BLACK = 16  # gray level below which a pixel has no tint to speak of
_TINT = 12  # levels of colour from which an even one is called a tint


def departure(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How far each pixel's colour lies from the gray map of its frame, in levels.

    That map is gray in most frames, and sepia or blue in some: where nearly all pixels follow one curve from gray
    level to colour, the distance from the curve is taken, and otherwise the distance from gray.

    Args:
        rgb: (H, W, 3) uint8.

    Returns:
        (H, W) uint8.
    """
    tint = _tint(rgb)
    red, green, blue = cv2.split(rgb)
    if tint is None:
        return cv2.subtract(cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue))
    level = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.uint16) * _BINS) >> 8
    apart = [
        np.abs(cv2.subtract(channel, green, dtype=cv2.CV_16S) - curve[level])
        for channel, curve in zip((red, blue), tint, strict=True)
    ]
    return np.minimum(np.maximum(*apart), 255).astype(np.uint8)


def is_tinted(rgb: NDArray[np.uint8]) -> bool:
    """Whether the frame is a gray image shown through a coloured map (sepia, blue), one colour for each gray level."""
    return _tint(rgb) is not None


def _tint(rgb: NDArray[np.uint8]) -> NDArray[np.int16] | None:
    """(2, 32) medians of red - green and of blue - green by gray level, or None where the frame has no tint."""
    few = rgb[::_STEP, ::_STEP].reshape(-1, 3)
    luma = cv2.cvtColor(few[None], cv2.COLOR_RGB2GRAY)[0]
    few, luma = few[luma >= _BLACK].astype(np.int16), luma[luma >= _BLACK]
    offsets = few[:, (0, 2)] - few[:, 1:2]
    if len(luma) < 64 or np.median(np.abs(offsets).max(axis=1)) < _TINT:
        return None
    level = (luma.astype(np.uint16) * _BINS) >> 8
    levels = np.unique(level)
    medians = np.array([np.median(offsets[level == one], axis=0) for one in levels])
    # Levels that the sample misses lie on the line between their neighbours.
    curve = np.array([np.interp(np.arange(_BINS), levels, channel) for channel in medians.T]).astype(np.int16)
    apart = np.abs(offsets - curve[:, level].T).max(axis=1)
    return curve if np.mean(apart <= _SPREAD) >= 0.95 else None


def areas(rgb: NDArray[np.uint8], colour: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The coloured components that are flow and other pictures, not strokes.

    They are filled (a square wider than strokes fits into much of them), or of many colours: the branches of a vessel
    may be as thin as writing, but writing has one colour.

    Args:
        rgb: (H, W, 3) uint8.
        colour: (H, W) uint8, its `departure`.

    Returns:
        (H, W) bool.
    """
    coloured = (colour >= COLOURED).astype(np.uint8)
    if not coloured.any():
        return coloured > 0
    # JPEG smears the colour of bold letters into one band; only the pixels that hold most of the colour count.
    strongest = cv2.dilate(colour, np.ones((_REACH, _REACH), np.uint8))
    solid = coloured & (colour >= cv2.convertScaleAbs(strongest, alpha=_SOLID))
    side = max(7, min(colour.shape) // 60) | 1
    wide = cv2.morphologyEx(solid, cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    count, labels = cv2.connectedComponents(coloured, connectivity=8)
    size = np.bincount(labels[solid > 0], minlength=count)
    picture = np.bincount(labels[wide > 0], minlength=count) >= _FILLED * size.clip(1)
    picture |= (size >= _PATCH) & (_variety(rgb[solid > 0], labels[solid > 0], size) >= _VARIED)
    picture[0] = False
    return picture[labels]


def _variety(pixels: NDArray[np.uint8], label: NDArray[np.int32], size: NDArray[np.intp]) -> NDArray[np.float64]:
    """(count,) standard deviation, in levels, of the channel that varies most within each component."""
    spread = np.zeros(len(size))
    for channel in pixels.T.astype(np.float64):
        mean = np.bincount(label, channel, len(size)) / size.clip(1)
        square = np.bincount(label, channel * channel, len(size)) / size.clip(1)
        spread = np.maximum(spread, np.sqrt((square - mean * mean).clip(0)))
    return spread


def coloured_strokes(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(H, W) bool: pixels of thin coloured components and of the smear of their colour; `areas` stay out."""
    colour = departure(rgb)
    strokes = (colour >= COLOURED) & ~areas(rgb, colour)
    return cv2.dilate(strokes.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
