"""Area, diameters and volume of masks: in millimetres where the scale is known, and otherwise in pixels alone."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.masks import pixels
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore

MEASURED = (Status.PREDICTED, Status.PROPAGATED, Status.EDITED, Status.ACCEPTED)


@dataclass(frozen=True)
class Measurement:
    """Size of one label in one frame; what needs a scale is None where there is none.

    Attributes:
        area_px, area_mm2: of all of its pixels.
        longest_px, longest_mm: largest distance of two points of the outer border of its largest region.
        perpendicular_px, perpendicular_mm: width of that region across the longest diameter.
    """

    area_px: int
    area_mm2: float | None = None
    longest_px: float | None = None
    longest_mm: float | None = None
    perpendicular_px: float | None = None
    perpendicular_mm: float | None = None


def measure(mask: NDArray[Any], scale: NDArray[np.floating[Any]] | tuple[float, float] | None) -> Measurement:
    """Size of what is not 0 in a mask (H, W). Diameters are None where nothing is.

    Args:
        mask: label numbers, or bool.
        scale: (row, column) spacing in mm, or (4, 4) IJK to RAS in mm; None where it is unknown, which a volume's own
            spacing does not tell: ask ``Cine.calibration``.

    Errors: SegmentError for a spacing that is none.
    """
    spacing = _spacing(scale)
    drawn = np.asarray(mask) > 0
    area = int(drawn.sum())
    if not area:
        return Measurement(0, None if spacing is None else 0.0)
    corners = _corners(_largest(drawn))
    longest_px, across_px = _diameters(corners)
    if spacing is None:
        return Measurement(area, None, longest_px, None, across_px, None)
    row, column = spacing
    longest, across = _diameters(corners * (column, row))
    return Measurement(area, area * row * column, longest_px, longest, across_px, across)


def measure_frame(cine: Any, store: MaskStore, index: int) -> dict[str, Measurement]:
    """Sizes by label of a frame."""
    mask, spacing = store.mask(index), cine.calibration.spacing_mm
    return {name: measure(mask == number, spacing) for number, name in enumerate(store.labels, 1)}


def area_over_time(
    cine: Any, store: MaskStore, label: str, statuses: Collection[Status] = MEASURED
) -> list[tuple[float | None, float]]:
    """(time in s or None, area) of each frame that has a mask, in the order of the frames; see ``area_unit``.

    Frames that nobody looked at, or skipped, are not in it: their area is unknown, not 0.

    Errors: SegmentError for a label that there is not.
    """
    if label not in store.labels:
        raise SegmentError(f"There is no label {label!r}: choose of {', '.join(store.labels)}.")
    number, spacing = store.labels.index(label) + 1, cine.calibration.spacing_mm
    size = 1.0 if spacing is None else spacing[0] * spacing[1]
    times = cine.times()
    return [
        (times[index], size * int((store.mask(index) == number).sum()))
        for index, status in enumerate(store.statuses())
        if status in statuses
    ]


def area_unit(cine: Any) -> str:
    """Of ``area_over_time``: "mm²" where the cine is calibrated, else "pixels"."""
    return "pixels" if cine.calibration.spacing_mm is None else "mm²"


def volume_mm3(segmentation: Any) -> dict[str, float]:
    """mm³ by the name of each segment of a 3-D vtkMRMLSegmentationNode, by counting voxels.

    The size of the voxels is the segmentation's, which has to be in mm: of a reassembled sweep it is the volume's.
    """
    found: dict[str, float] = {}
    core = segmentation.GetSegmentation()
    matrix = vtk.vtkMatrix4x4()
    for segment_id in core.GetSegmentIDs():
        segment = core.GetSegment(segment_id)
        image = segment.GetRepresentation(pixels.BINARY)
        scalars = image.GetPointData().GetScalars() if image is not None else None
        count = 0
        if scalars is not None and scalars.GetNumberOfTuples():
            count = int((vtk_to_numpy(scalars) == segment.GetLabelValue()).sum())
            image.GetImageToWorldMatrix(matrix)
        name = segment.GetName()
        found[name] = found.get(name, 0.0) + count * abs(matrix.Determinant())
    return found


def _spacing(scale: NDArray[np.floating[Any]] | tuple[float, float] | None) -> tuple[float, float] | None:
    if scale is None:
        return None
    values = np.asarray(scale, dtype=float)
    if values.shape == (4, 4):
        values = np.linalg.norm(values[:3, [1, 0]], axis=0)
    if values.shape != (2,) or not np.isfinite(values).all() or not (values > 0).all():
        raise SegmentError(f"{scale!r} is no size of a pixel: give millimetres of a row and a column, or None.")
    return float(values[0]), float(values[1])


def _largest(drawn: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest region that hangs together, over edges of pixels."""
    image = vtk.vtkImageData()
    image.SetDimensions(drawn.shape[1], drawn.shape[0], 1)
    image.GetPointData().SetScalars(numpy_to_vtk(drawn.astype(np.uint8).ravel(), deep=True))
    regions = vtk.vtkImageConnectivityFilter()
    regions.SetInputData(image)
    regions.SetScalarRange(1, 1)
    regions.SetExtractionModeToLargestRegion()
    regions.SetLabelModeToConstantValue()
    regions.SetLabelConstantValue(1)
    regions.Update()
    return vtk_to_numpy(regions.GetOutput().GetPointData().GetScalars()).reshape(drawn.shape) > 0


def _corners(drawn: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, 2) (x, y) corners of the convex hull of the pixels' squares."""
    rows = np.flatnonzero(drawn.any(axis=1))
    left = drawn[rows].argmax(axis=1)
    right = drawn.shape[1] - drawn[rows][:, ::-1].argmax(axis=1)
    points = np.concatenate([np.stack([x, rows + below], 1) for x in (left, right) for below in (0, 1)])
    ordered = sorted({(float(x), float(y)) for x, y in points})
    return np.array(_chain(ordered)[:-1] + _chain(ordered[::-1])[:-1])


def _chain(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Half of a convex hull of sorted points (Andrew 1979, doi:10.1016/0020-0190(79)90072-3)."""
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (ax, ay), (bx, by) = hull[-2:]
            if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                break
            hull.pop()
        hull.append((x, y))
    return hull


def _diameters(corners: NDArray[np.float64]) -> tuple[float, float]:
    """(longest, width across it) of a convex polygon."""
    between = corners[:, np.newaxis] - corners
    lengths = np.hypot(between[..., 0], between[..., 1])
    first, second = np.unravel_index(lengths.argmax(), lengths.shape)
    longest = float(lengths[first, second])
    way = (corners[second] - corners[first]) / longest
    across = corners @ np.array([-way[1], way[0]])
    return longest, float(across.max() - across.min())
