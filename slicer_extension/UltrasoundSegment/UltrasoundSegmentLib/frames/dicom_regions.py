"""Scale and tissue region of an ultrasound DICOM image, read from its calibrated regions or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# PS3.3 C.8.5.5: Region Spatial Format 1 is 2-D, Region Data Type 1 tissue and 2 colour flow, Physical Units 3 cm.
_FORMATS = {1: "2-D", 2: "M-mode", 3: "spectral", 4: "a waveform", 5: "graphics"}
_TISSUE, _FLOW = 1, 2
_CM = 3
_BOUNDS = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1", "RegionLocationMaxY1")
_PLAUSIBLE_MM = (0.005, 2.0)
_AGREE = 1e-3


@dataclass(frozen=True)
class Scale:
    """What the regions say.

    Attributes:
        spacing_mm: (row, column) that holds for every 2-D region, None where unknown.
        region: (x0, y0, x1, y1), half-open pixels, of the largest 2-D region of tissue or colour flow; None: unknown.
        warnings: why the scale is unknown.
        notes: what else is drawn in the image.
    """

    spacing_mm: tuple[float, float] | None
    region: tuple[int, int, int, int] | None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Region:
    number: int
    box: tuple[int, int, int, int]
    is_image: bool
    what: str
    spacing_mm: tuple[float, float] | None
    why_none: str


def scale_of(ds: Any) -> Scale:
    """Scale and tissue region of a dataset of pydicom.

    A region that ends at Columns or Rows (one past the last pixel, as some scanners write it) is taken; one further
    out shows that the image was cropped or resized after its calibration, so that none of its regions can be trusted.
    Pixel Spacing is not used: it need not hold for every part of an ultrasound image.
    """
    items = ds.get("SequenceOfUltrasoundRegions")
    if not isinstance(items, Iterable) or isinstance(items, (str, bytes)) or not len(list(items)):
        return Scale(None, None, (_without_regions(ds),))
    rows, columns = int(ds.Rows), int(ds.Columns)
    regions: list[_Region] = []
    for number, item in enumerate(items, start=1):
        bounds = [_float(item.get(keyword)) for keyword in _BOUNDS]
        if any(bound is None for bound in bounds):
            return Scale(None, None, (f"Region {number} of the file has no valid bounds: its scale is not used.",))
        x0, y0, x1, y1 = (float(bound) for bound in bounds if bound is not None)
        if not (0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows):
            where = f"columns {x0:g} to {x1:g}, rows {y0:g} to {y1:g}"
            return Scale(
                None,
                None,
                (
                    f"Region {number} of the file ({where}) does not fit its image of {columns} x {rows} pixels, which "
                    "was cropped or resized after its calibration: its scale is not used, draw a ruler.",
                ),
            )
        box = int(x0), int(y0), min(int(x1) + 1, columns), min(int(y1) + 1, rows)
        regions.append(_region(item, number, box))
    return _judged(regions)


def _judged(regions: list[_Region]) -> Scale:
    images = [region for region in regions if region.is_image]
    others = [f"region {region.number} is {region.what}" for region in regions if not region.is_image]
    if not images:
        return Scale(None, None, (f"No region of the file is a 2-D image of tissue: {'; '.join(others)}.",))
    largest = max(images, key=lambda region: _area(region.box))
    notes = []
    if len(regions) > 1:
        x0, y0, x1, y1 = largest.box
        told = f"; {'; '.join(others)}" if others else ""
        notes.append(
            f"The image has {len(regions)} regions: the 2-D region {largest.number} (columns {x0} to {x1 - 1}, rows "
            f"{y0} to {y1 - 1}) is used{told}."
        )
    warnings = [f"Region {one.number} {one.why_none}: it gives no scale." for one in images if one.spacing_mm is None]
    known = [(region.number, region.spacing_mm) for region in images if region.spacing_mm is not None]
    spacing = largest.spacing_mm
    if spacing is not None and not all(_agree(spacing, other) for _, other in known):
        sizes = ", ".join(f"{number}: {row:.4g} x {column:.4g} mm" for number, (row, column) in known)
        warnings.append(f"The 2-D regions have different scales ({sizes}): none holds for the whole frame.")
        spacing = None
    return Scale(spacing, largest.box, tuple(warnings), tuple(notes))


def _agree(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(math.isclose(a, b, rel_tol=_AGREE) for a, b in zip(one, other, strict=True))


def _region(item: Any, number: int, box: tuple[int, int, int, int]) -> _Region:
    form, kind = item.get("RegionSpatialFormat"), item.get("RegionDataType")
    if form != 1:
        return _Region(number, box, False, _FORMATS.get(_whole(form) or 0, "of an unknown format"), None, "")
    if kind not in (_TISSUE, _FLOW):
        return _Region(number, box, False, f"2-D of data type {_whole(kind)}", None, "")
    what = "tissue" if kind == _TISSUE else "colour flow"
    units = item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection")
    if units != (_CM, _CM):
        return _Region(number, box, True, what, None, f"is not in centimetres (units {_whole(units[0])})")
    row, column = _float(item.get("PhysicalDeltaY")), _float(item.get("PhysicalDeltaX"))
    low, high = _PLAUSIBLE_MM
    if row is None or column is None or not all(low <= abs(10 * delta) <= high for delta in (row, column)):
        return _Region(number, box, True, what, None, "states an impossible pixel size")
    return _Region(number, box, True, what, (abs(10 * row), abs(10 * column)), "")


def _without_regions(ds: Any) -> str:
    text = "The file has no calibrated regions: its scale is unknown, draw a ruler."
    if "PixelSpacing" in ds or "ImagerPixelSpacing" in ds:
        text += " Its Pixel Spacing is not used, as it need not hold for every part of an ultrasound image."
    return text


def _area(box: tuple[int, int, int, int]) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int) else None


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
