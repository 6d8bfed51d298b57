"""The shape of the source's pixels, which everything on its pixel grid repeats."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from sonodistill.dicom.source import Source

_MAX = 1000  # ratio, and denominator of one


def aspect_ratio(source: Source) -> list[int] | None:
    """Vertical and horizontal size of a pixel, as Pixel Aspect Ratio (PS3.3 C.7.6.3.1.7); None for square ones.

    It is the source's Pixel Aspect Ratio, else that of its Pixel Spacing, else nothing is known and they are square.
    """
    for keyword in ("PixelAspectRatio", "PixelSpacing"):
        sizes = _sizes(source, keyword)
        if sizes is not None:
            ratio = (sizes[0] / sizes[1]).limit_denominator(_MAX)
            return [ratio.numerator, ratio.denominator] if ratio != 1 and 1 / _MAX <= ratio <= _MAX else None
    return None


def _sizes(source: Source, keyword: str) -> tuple[Fraction, Fraction] | None:
    try:
        value: Any = source.ds.get(keyword)
        vertical, horizontal = (float(each) for each in value)
    except Exception:  # noqa: BLE001 - numbers that are none; pydicom raises whatever they provoke
        return None
    if not all(math.isfinite(size) and size > 0 for size in (vertical, horizontal)):
        return None
    return Fraction(vertical), Fraction(horizontal)
