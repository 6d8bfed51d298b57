"""The regions of an ultrasound DICOM image (PS3.3 C.8.5.5): where each lies in it, and what it shows."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

_BOUNDS = ("RegionLocationMinY0", "RegionLocationMinX0", "RegionLocationMaxY1", "RegionLocationMaxX1")


def regions_of(ds: Dataset, rows: int, columns: int) -> list[dict[str, Any]] | None:
    """Every region as JSON values, or None when there is none or one of them cannot be right.

    Each is ``{"box": [row0, col0, row1, col1], "format": int, "data_type": int}``: half-open pixels, Region Spatial
    Format (1 2D, 2 M-mode, 3 spectral, 4 waveform, 5 graphics) and Region Data Type. Bounds are inclusive in the file;
    one that ends at Rows or Columns (one past the last pixel, a vendor habit) is clipped. A region further out shows
    that the image was cropped or resized after the list was made, so that none of it can be trusted.
    """
    items = ds.get("SequenceOfUltrasoundRegions")
    # A damaged header can give the attribute another type.
    if not isinstance(items, Sequence) or not items:
        return None
    regions = [_region(item, rows, columns) for item in items]
    return None if None in regions else regions  # type: ignore[return-value]


def _region(item: Dataset, rows: int, columns: int) -> dict[str, Any] | None:
    try:
        top, left, bottom, right = (int(item.get(bound)) for bound in _BOUNDS)  # type: ignore[arg-type]
        kind, data_type = int(item.RegionSpatialFormat), int(item.RegionDataType)
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None
    if not (0 <= left < right <= columns and 0 <= top < bottom <= rows):
        return None
    box = [top, left, min(bottom + 1, rows), min(right + 1, columns)]
    return {"box": box, "format": kind, "data_type": data_type}
