"""Millimetres per pixel of an ultrasound DICOM file, read from its calibrated regions or refused with the reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from sonodistill.frames.frame import Calibration

SOURCE = "SequenceOfUltrasoundRegions"

# PS3.3 C.8.5.5: Region Spatial Format 1 is 2D; Region Data Type 1 is tissue, 2 colour flow; Physical Units 3 is cm.
_FORMAT_2D = 1
_IMAGE_DATA_TYPES = (1, 2)
_UNITS_CM = 3
_MM_PER_CM = 10.0
# M-mode, spectral and waveform: what is drawn in one of them is no tissue, whatever lies beneath.
_STRIPS = {2: "M-mode", 3: "spectral", 4: "waveform"}
# No transducer images with pixels smaller than 5 micrometres or larger than 2 mm.
PLAUSIBLE_MM = (0.005, 2.0)
_AGREEMENT = 0.001
_ENDS = ("MinY0", "MinX0", "MaxY1", "MaxX1")


@dataclass(frozen=True, slots=True)
class _Region:
    """A calibrated 2D region: its number in the sequence (from 1), half-open box in pixels, (row, column) mm."""

    number: int
    row0: int
    col0: int
    row1: int
    col1: int
    mm_per_pixel: tuple[float, float]
    note: str | None

    def holds(self, row0: float, col0: float, row1: float, col1: float) -> bool:
        return self.row0 <= row0 and self.col0 <= col0 and row1 <= self.row1 and col1 <= self.col1

    def meets(self, row0: float, col0: float, row1: float, col1: float) -> bool:
        return self.row0 < row1 and row0 < self.row1 and self.col0 < col1 and col0 < self.col1


@dataclass(frozen=True, slots=True)
class _Regions:
    """What the sequence holds: calibrated 2D regions, why the other ones are not, and which of those may cover them."""

    calibrated: list[_Region]
    skipped: list[str]
    covers: list[tuple[str, tuple[int, int, int, int]]]


class _RefusedError(Exception):
    """A calibrated region contradicts the image, so that nothing in the sequence can be trusted."""


def calibration_of(ds: Dataset) -> Calibration:
    """The one scale that holds for the whole image (PS3.3 C.8.5.5), or None with the reason.

    Used are 2D regions of tissue or colour flow in centimetres; several must agree within 0.1 %. A region that ends
    at Columns or Rows (one past the last pixel, a vendor habit) is tolerated with a note; one further out, of whatever
    kind, shows that the image was cropped or resized after it was calibrated, and refuses the file. Pixel Spacing is
    never used.
    """
    try:
        found = _regions(ds)
    except _RefusedError as refusal:
        return Calibration(None, note=str(refusal))
    regions = found.calibrated
    if not regions:
        return Calibration(None, note=_why_none(ds, found.skipped))
    first = regions[0]
    if any(not _agree(first, other) for other in regions[1:]):
        sizes = ", ".join(f"region {r.number}: {_text(r.mm_per_pixel)}" for r in regions)
        return Calibration(None, note=f"the calibrated 2D regions disagree ({sizes} mm per pixel)")
    notes = [region.note for region in regions if region.note]
    return Calibration(first.mm_per_pixel, SOURCE, "; ".join(notes) or None)


def calibration_at(ds: Dataset, row0: float, col0: float, row1: float, col1: float) -> Calibration:
    """The scale of the calibrated 2D region that wholly contains a box (pixels, half-open), or None with the reason.

    A box has no scale when it meets what may be drawn over the image: an M-mode, spectral or waveform region, a 2D
    image that is not in centimetres, or one of another scale (an inset, a magnified part).
    """
    try:
        regions = _regions(ds)
    except _RefusedError as refusal:
        return Calibration(None, note=str(refusal))
    if not regions.calibrated:
        return Calibration(None, note=_why_none(ds, regions.skipped))
    for name, (top, left, bottom, right) in regions.covers:
        if top < row1 and row0 < bottom and left < col1 and col0 < right:
            return Calibration(None, note=f"the box meets {name}")
    holding = [region for region in regions.calibrated if region.holds(row0, col0, row1, col1)]
    if not holding:
        box = f"rows {row0:g} to {row1:g}, columns {col0:g} to {col1:g}"
        return Calibration(None, note=f"no calibrated 2D region contains the whole box ({box})")
    meeting = [region for region in regions.calibrated if region.meets(row0, col0, row1, col1)]
    if any(not _agree(holding[0], other) for other in meeting):
        return Calibration(None, note="overlapping calibrated 2D regions meet the box and disagree")
    return Calibration(holding[0].mm_per_pixel, SOURCE, holding[0].note)


def _regions(ds: Dataset) -> _Regions:
    found = _Regions([], [], [])
    rows, columns = int(ds.Rows), int(ds.Columns)
    items = ds.get(SOURCE)
    # A damaged header can give the attribute another type.
    for number, item in enumerate(items if isinstance(items, Sequence) else [], start=1):
        reason = _why_not_used(item)
        if reason is None:
            found.calibrated.append(_calibrated(item, number, rows, columns))
            continue
        found.skipped.append(f"region {number} {reason}")
        bounds = _bounds(item)
        if bounds is None:
            continue
        top, left, bottom, right = bounds
        if left < 0 or top < 0 or right > columns or bottom > rows:
            raise _stale(number, bounds, rows, columns)
        if (kind := _covering(item)) is not None:
            box = int(top), int(left), int(bottom) + 1, int(right) + 1
            found.covers.append((f"region {number}, which is {kind}", box))
    return found


def _covering(item: Dataset) -> str | None:
    """What a region that has no scale shows instead of the image beneath it, or None where it leaves that visible."""
    spatial = item.get("RegionSpatialFormat")
    if spatial == _FORMAT_2D and item.get("RegionDataType") in _IMAGE_DATA_TYPES:
        return "an image without a scale"
    return _STRIPS.get(spatial) if isinstance(spatial, int) else None  # a damaged header gives it several values


def _bounds(item: Dataset) -> tuple[float, float, float, float] | None:
    """(first row, first column, last row, last column) as stated, or None where one of them is missing or no number."""
    try:
        top, left, bottom, right = (float(item.get(f"RegionLocation{end}")) for end in _ENDS)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return (top, left, bottom, right) if all(map(math.isfinite, (top, left, bottom, right))) else None


def _stale(number: int, bounds: tuple[float, float, float, float], rows: int, columns: int) -> _RefusedError:
    top, left, bottom, right = bounds
    return _RefusedError(
        f"region {number} is stale: it spans columns {left:g} to {right:g} and rows {top:g} to {bottom:g} of an image "
        f"of {columns} columns and {rows} rows, which was cropped or resized after its calibration"
    )


def _why_not_used(item: Dataset) -> str | None:
    spatial, data_type = item.get("RegionSpatialFormat"), item.get("RegionDataType")
    if spatial != _FORMAT_2D:
        names = {"2": "is M-mode", "3": "is spectral", "4": "is a waveform", "5": "is graphics"}
        return names.get(str(spatial), f"has spatial format {_number(spatial)}")
    if data_type not in _IMAGE_DATA_TYPES:
        return f"has data type {_number(data_type)}, neither tissue nor colour flow"
    units = item.get("PhysicalUnitsXDirection"), item.get("PhysicalUnitsYDirection")
    if units != (_UNITS_CM, _UNITS_CM):
        return f"is not in centimetres (units {_number(units[0])}, {_number(units[1])})"
    return None


def _calibrated(item: Dataset, number: int, rows: int, columns: int) -> _Region:
    def value(keyword: str) -> float:
        try:
            return float(item.get(keyword))  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise _RefusedError(f"region {number} has no valid {keyword}") from None

    spacing = (abs(value("PhysicalDeltaY")) * _MM_PER_CM, abs(value("PhysicalDeltaX")) * _MM_PER_CM)
    low, high = PLAUSIBLE_MM
    if not all(math.isfinite(mm) and low <= mm <= high for mm in spacing):
        raise _RefusedError(f"region {number} states an impossible pixel size ({_text(spacing)} mm)")
    bounds = _bounds(item)
    if bounds is None:
        raise _RefusedError(f"region {number} has no valid bounds")
    y0, x0, y1, x1 = bounds
    if not (0 <= x0 < x1 <= columns and 0 <= y0 < y1 <= rows):
        raise _stale(number, bounds, rows, columns)
    note = None
    if x1 == columns or y1 == rows:
        note = f"region {number} ends one past the last pixel; read as an exclusive end"
    box = int(y0), int(x0), min(int(y1) + 1, rows), min(int(x1) + 1, columns)
    return _Region(number, *box, spacing, note)


def _why_none(ds: Dataset, skipped: list[str]) -> str:
    if skipped:
        return f"no calibrated 2D region: {', '.join(skipped)}"
    reason = f"the file has no {SOURCE}"
    if "PixelSpacing" in ds or "ImagerPixelSpacing" in ds:
        reason += "; its Pixel Spacing is not used, as it does not hold for every region of an ultrasound image"
    return reason


def _agree(one: _Region, other: _Region) -> bool:
    pairs = zip(one.mm_per_pixel, other.mm_per_pixel, strict=True)
    return all(math.isclose(a, b, rel_tol=_AGREEMENT) for a, b in pairs)


def _number(value: object) -> str:
    """The value as it stands, unless a damaged header made it text, which is not quoted."""
    return str(value) if isinstance(value, (int, float, type(None))) else "unreadable"


def _text(spacing: tuple[float, float]) -> str:
    return f"{spacing[0]:.4g} x {spacing[1]:.4g}"
