"""What a reduced frame says, pixel by pixel, for and against being insonified."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# Shares of the frame's area, but where another unit is said.
_DARK_SHARE = 0.01  # so much of the frame, flat and at one level, makes that level the black of the screen
_PANEL_SHARE = 0.015
_BAR_SHARE = 0.07  # of the frame's height or width
_CRUMB_SHARE = 0.01
_FLAT_RANGE = 2  # gray levels within 3 x 3 reduced pixels: JPEG keeps a constant area within this
_DARKEST_PANEL = 20  # gray levels above black: what is flat and darker may be anechoic tissue
_FLOOR = 1.4  # gray levels above black: averaged noise of a live image exceeds it, a blank screen does not
_RINGING = 0.06  # of the brightest pixel around
_CLEAR = 8.0  # gray levels above black that only echoes (or furniture) reach
_STILL = 0.12  # of the typical change inside a moving image: less is static
_MOVING = 1.5  # gray levels: a cine whose liveliest pixels change less shows nothing about what is alive
_BOX = np.ones((3, 3), np.uint8)
_OPENING = 7  # reduced pixels: lines of text, rulers and gray bars are thinner


@dataclass(frozen=True, slots=True)
class Evidence:
    """Reduced maps of one frame, all (h, w).

    Attributes:
        weight: float32 gain of including each pixel: 1 tissue, less where faint, negative for background.
        measured: uint8, 1 on what was taken for tissue, with its holes filled.
        smooth: bool, where the frame is constant within a few pixels.
        black: gray level of the screen's background.
    """

    weight: NDArray[np.float32]
    measured: NDArray[np.uint8]
    smooth: NDArray[np.bool_]
    black: float


def weigh(gray: NDArray[np.uint8], mean: NDArray | None, change: NDArray | None) -> Evidence:
    """Weigh a reduced frame; ``measured`` is empty where nothing is as large and as grainy as an image.

    Args:
        gray: (h, w) reduced brightest frame, uint8.
        mean, change: reduced float32 maps of a cine, or None.
    """
    typical = gray if mean is None else np.minimum(gray, np.rint(mean)).astype(np.uint8)
    smooth = cv2.dilate(typical, _BOX) - cv2.erode(typical, _BOX) <= _FLAT_RANGE
    black, background = _background(typical, smooth.astype(np.uint8))
    above = cv2.blur(gray.astype(np.float32), (3, 3)) - black
    # Beside a bright edge, coding and averaging light up the background.
    floor = np.maximum(_FLOOR, _RINGING * cv2.dilate(above, np.ones((7, 7), np.uint8)))
    lit = ((gray > black + floor) & (background == 0)).astype(np.uint8)
    lit = cv2.morphologyEx(lit, cv2.MORPH_CLOSE, _BOX).astype(np.uint8)
    static = _static(above, change)
    lit[static > 0] = 0
    bodies = _bodies(lit, gray)
    clear = np.clip((above - _FLOOR) / (_CLEAR - _FLOOR), 0, 1)
    weight = np.where(bodies > 0, 0.35 + 0.65 * clear, -0.4).astype(np.float32)
    measured = _filled(bodies)
    weight[(measured > 0) & (bodies == 0)] = 0.1
    weight[(lit > 0) & (measured == 0)] = -0.3
    weight[(static > 0) & (measured == 0)] = -0.15
    weight[background == 2] = -0.7
    return Evidence(weight, measured, smooth, black)


def lettered(gray: NDArray[np.uint8], inside: NDArray[np.bool_], black: float) -> float:
    """Share of what is lit inside a region where, as between letters, black and white lie within one stroke's width.

    Speckle is nowhere as harsh: real frames stay below 0.3, pages of text above 0.9.
    """
    step = max(1, max(gray.shape) // 640)
    thin = gray[::step, ::step]  # every pixel is text or background: averaging would blend them
    box = np.ones((9, 9), np.uint8)
    high, low = cv2.dilate(thin, box), cv2.erode(thin, box)
    lit = inside[::step, ::step] & (high > black + 20)
    return float((lit & (low <= black + 12) & (high >= 100)).sum() / max(lit.sum(), 1))


def _background(gray: NDArray[np.uint8], flat: NDArray[np.uint8]) -> tuple[float, NDArray[np.uint8]]:
    """Level of the screen's black, and a map: 1 flat and black, 2 a flat lighter panel, 0 elsewhere."""
    levels = np.bincount(gray[flat > 0], minlength=256)
    pairs = levels[:-1] + levels[1:]
    common = np.flatnonzero(pairs >= _DARK_SHARE * gray.size)
    black = float(common[0]) if common.size and common[0] <= 40 else min(float(gray.min()), 40.0)
    result = ((gray <= black + 1) & (flat > 0)).astype(np.uint8)
    result[_panels(gray, flat, black) > 0] = 2
    return black, result


def _panels(gray: NDArray[np.uint8], flat: NDArray[np.uint8], black: float) -> NDArray[np.uint8]:
    """Flat areas lighter than black that touch the frame's border, or lie against one that does."""
    light = ((flat > 0) & (gray > black + _DARKEST_PANEL)).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(light, connectivity=4)
    panels = np.zeros_like(flat)
    if count < 2:
        return panels
    height, width = gray.shape
    big = stats[:, cv2.CC_STAT_AREA] >= _PANEL_SHARE * gray.size
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    outer = big & ((left == 0) | (top == 0) | (right == width) | (bottom == height))
    outer[0] = False
    if not outer.any():
        return panels
    near = cv2.dilate(outer[labels].astype(np.uint8), np.ones((13, 13), np.uint8))
    beside = np.bincount(labels[near > 0], minlength=count) >= 20  # a window on a page
    beside[0] = False
    levels = np.bincount(labels.ravel(), gray.ravel(), count) / np.maximum(stats[:, cv2.CC_STAT_AREA], 1)
    for level in levels[outer | (beside & big)]:
        # Lines and letters cut a panel into pieces of every size.
        panels |= light & (np.abs(gray - np.float32(level)) <= _FLAT_RANGE)
    # Their borders are not flat.
    return cv2.dilate(panels, _BOX).astype(np.uint8)


def _static(above: NDArray[np.float32], change: NDArray | None) -> NDArray[np.uint8]:
    """1 where a moving cine shows something that does not move: text, bars, frames."""
    still = np.zeros(above.shape, np.uint8)
    if change is None:
        return still
    if not (above > _CLEAR).any() or np.percentile(change, 95) < _MOVING:
        return still
    # Deep, faint tissue changes by less, in proportion.
    restless = cv2.blur(change, (3, 3)) / np.maximum(above, _CLEAR)
    still[(above > _CLEAR) & (restless < _STILL * np.percentile(restless[above > _CLEAR], 75))] = 1
    return still


def _bodies(lit: NDArray[np.uint8], gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The lit areas that are as broad as an image, without thin strokes that touch them."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_OPENING, _OPENING))
    # Outside the frame is nothing: a column of text at its border is no broader there than elsewhere.
    bordered = cv2.copyMakeBorder(lit, _OPENING, _OPENING, _OPENING, _OPENING, cv2.BORDER_CONSTANT, value=0)
    opened = cv2.morphologyEx(bordered, cv2.MORPH_OPEN, disc)[_OPENING:-_OPENING, _OPENING:-_OPENING]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(opened), connectivity=8)
    if count < 2:
        return np.zeros_like(lit)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0
    keep = areas >= max(_CRUMB_SHARE * gray.size, 0.04 * areas.max())
    # A bar along the frame's border is as long as an image, but never as broad.
    keep &= stats[:, cv2.CC_STAT_HEIGHT] >= _BAR_SHARE * gray.shape[0]
    keep &= stats[:, cv2.CC_STAT_WIDTH] >= _BAR_SHARE * gray.shape[1]
    grown = cv2.dilate(keep[labels].astype(np.uint8), _BOX).astype(np.uint8)
    return grown & lit


def _filled(bodies: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bodies with every hole filled that does not reach the frame's border."""
    around = cv2.copyMakeBorder(bodies, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(around, None, (0, 0), 2)
    return (around[1:-1, 1:-1] != 2).astype(np.uint8)
