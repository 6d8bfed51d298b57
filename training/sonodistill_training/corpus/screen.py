"""Refuses frames that are no B-mode image (blank, tiny, M-mode, spectral, photographs) and tells colour Doppler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill_training.corpus.overlay_colour import areas, departure, is_tinted
from sonodistill_training.corpus.overlays import Still
from sonodistill_training.corpus.screen_texture import Texture, is_spectral, measure, shrink

__all__ = ["colour_doppler", "is_tinted", "refusal"]

_LIT = 16  # gray level from which a pixel shows something
_BLANK = 0.003  # part of the frame that has to show something
_CONSTANT = 2.0  # gray levels of standard deviation below which nothing is shown
_MOVES, _MOVING = 1.0, 0.05  # change of a pixel that moves; part of a cine that has to move to show where the image is
_DOPPLER = 0.003  # part of the sector in coloured areas from which it is colour Doppler
_GRAY = 20  # levels of colour up to which a pixel is gray
_COLOURFUL = 0.35  # part of the lit pixels that is gray or tinted even in a frame full of colour Doppler

# PS3.3 C.8.5.5.1.1, Region Spatial Format
_TWO_D, _M_MODE, _SPECTRAL = 1, 2, 3


def refusal(
    gray: NDArray[np.uint8],
    rgb: NDArray[np.uint8] | None = None,
    *,
    sector: NDArray[np.bool_] | None = None,
    regions: Sequence[Mapping[str, Any]] | None = None,
    background: Still | None = None,
    smallest: int = 64,
) -> str | None:
    """Why a frame is no B-mode image, or None when nothing speaks against it.

    What the file says about its regions is believed; from the picture a frame is refused only where no ultrasound
    image of the development data (fetal, liver, breast, thyroid, lung, muscle, eye, heart) comes near the limit.

    Args:
        gray: (H, W) uint8.
        rgb: (H, W, 3) uint8, or None for a gray source.
        sector: (H, W) bool, the insonified region, or None when unknown: then what changes over the cine, or else
            whatever is lit, stands for it.
        regions: of a DICOM file, each with "format" (Region Spatial Format), or None.
        background: of the cine the frame is from, or None.
        smallest: px that the short side of the sector's box needs.

    Returns:
        "blank", "too_small", "m_mode", "spectral", "not_ultrasound", or None.
    """
    formats = {region["format"] for region in regions or ()}
    if formats and _TWO_D not in formats:
        if _SPECTRAL in formats:
            return "spectral"
        if _M_MODE in formats:
            return "m_mode"
    if sector is None and background is not None and background.count > 1:
        moving = background.change > _MOVES
        sector = moving if np.mean(moving) >= _MOVING else None
    if _blank(gray, sector):
        return "blank"
    box = _box(gray > _LIT if sector is None else sector)
    top, left, bottom, right = box
    if min(bottom - top, right - left) < smallest:
        return "too_small"
    inside = (slice(top, bottom), slice(left, right))
    if rgb is not None and _colourful(gray[inside], rgb[inside]):
        return "not_ultrasound"
    small = shrink(gray[inside])
    if is_spectral(small):
        return "spectral"
    if sector is not None:
        sector = shrink(sector[inside].view(np.uint8), cv2.INTER_NEAREST) > 0
    texture = measure(small, sector)
    return None if texture is None else _judge(texture)


def colour_doppler(rgb: NDArray[np.uint8], sector: NDArray[np.bool_] | None = None) -> bool:
    """Whether coloured areas cover part of the sector: colour or power Doppler, not calipers, text or a tinted map.

    Args:
        rgb: (H, W, 3) uint8.
        sector: (H, W) bool, the insonified region; without it, colour bars and buttons beside the image count too.
    """
    coloured = areas(rgb, departure(rgb))
    if sector is not None:
        return bool(np.count_nonzero(coloured & sector) > _DOPPLER * max(np.count_nonzero(sector), 1))
    return bool(np.count_nonzero(coloured) > _DOPPLER * max(np.count_nonzero(rgb.max(axis=2) > _LIT), 1))


def _blank(gray: NDArray[np.uint8], sector: NDArray[np.bool_] | None) -> bool:
    few = gray[::3, ::3]
    shown = few if sector is None else few[sector[::3, ::3]]
    return shown.size == 0 or np.mean(shown > _LIT) < _BLANK or float(np.std(shown)) < _CONSTANT


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the mask's rows and columns, half-open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _colourful(gray: NDArray[np.uint8], rgb: NDArray[np.uint8]) -> bool:
    """Whether most of the lit pixels have colours of their own, and many different ones for the same gray level."""
    few = np.ascontiguousarray(rgb[::2, ::2])
    lit = gray[::2, ::2] > _LIT
    return bool(np.count_nonzero(departure(few)[lit] <= _GRAY) < _COLOURFUL * np.count_nonzero(lit))


def _judge(texture: Texture) -> str | None:
    """The refusal that the statistics of the picture call for; the limits lie beyond all real ultrasound seen."""
    if texture.axial > 4:
        return "m_mode"  # each column repeats the one before it: a line over time
    if texture.flat_bright > 0.5 or (texture.flat_bright > 0.3 and texture.median > 190):
        return "not_ultrasound"  # a document or a screen
    uneven = texture.unevenness > 1.35 or (texture.flat_bright > 0.1 and texture.slope < -0.4)
    if texture.axial < 1.1 and uneven:
        return "not_ultrasound"  # a photograph: no finer along the beam than across it, and flat beside detailed
    return None
