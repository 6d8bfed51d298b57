"""Label numbers of a frame to and from the segments of a segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer
from UltrasoundSegmentLib.frames.image import to_array, to_matrix

BINARY = "Binary labelmap"
"""Name of the representation that masks are kept in."""
GEOMETRY = "Reference image geometry"
"""Conversion parameter that says which grid of pixels a segmentation was drawn on."""

GRID = "SonoDistill.grid"

_SAME = 1e-3
"""Pixels, and shares of one: files keep a matrix as text."""


def to_image(mask: NDArray[np.uint8], ijk_to_ras: NDArray[np.float64]) -> Any:
    """vtkOrientedImageData of a mask (H, W) or (D, H, W), cropped to what is drawn; of no extent where nothing is."""
    mask = mask if mask.ndim == 3 else mask[np.newaxis]
    image = slicer.vtkOrientedImageData()
    bounds = _bounds(mask)
    image.SetExtent(*bounds)
    if bounds[1] < bounds[0]:
        image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    else:
        x0, x1, y0, y1, z0, z1 = bounds
        part = np.ascontiguousarray(mask[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1])
        image.GetPointData().SetScalars(numpy_to_vtk(part.ravel(), deep=True, array_type=vtk.VTK_UNSIGNED_CHAR))
    image.SetImageToWorldMatrix(to_matrix(ijk_to_ras))
    return image


def draw(segmentation: Any, ids: Sequence[str], mask: NDArray[np.uint8], ijk_to_ras: NDArray[np.float64]) -> None:
    """Give the segments ``ids`` the label numbers 1, 2, ... of a mask; they share one label map."""
    image = to_image(mask, ijk_to_ras)
    for number, segment_id in enumerate(ids, 1):
        segment = segmentation.GetSegment(segment_id)
        segment.SetLabelValue(number)
        segment.AddRepresentation(BINARY, image)


def read(
    segmentation: Any, ids: Sequence[str], shape: tuple[int, ...], ijk_to_ras: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """uint8 label numbers of the segments on a grid of pixels; where segments overlap, the last one's.

    Args:
        segmentation: vtkSegmentation.
        ids: of the segments with the numbers 1, 2, ...; those that it lacks are empty.
        shape: (H, W) or (D, H, W) of the result.
        ijk_to_ras: (4, 4) of the grid.
    """
    mask = np.zeros(shape if len(shape) == 3 else (1, *shape), np.uint8)
    inverse = np.linalg.inv(ijk_to_ras)
    matrix = vtk.vtkMatrix4x4()
    for image, numbers in _maps(segmentation, ids):
        image.GetImageToWorldMatrix(matrix)
        x0, x1, y0, y1, z0, z1 = image.GetExtent()
        values = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
        _paste(mask, _numbered(values, numbers), (x0, y0, z0), inverse @ to_array(matrix))
    return mask if len(shape) == 3 else mask[0]


def has_map(segmentation: Any, ids: Sequence[str]) -> bool:
    """Whether any of the segments has a label map with pixels, of which all may be 0."""
    return bool(_maps(segmentation, ids))


def serialized(ijk_to_ras: NDArray[np.float64], dimensions: Sequence[int]) -> str:
    """Value of the conversion parameter ``GEOMETRY`` of an image of so many columns, rows and slices."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*(int(each) for each in dimensions))
    image.SetImageToWorldMatrix(to_matrix(ijk_to_ras))
    return str(slicer.vtkSegmentationConverter.SerializeImageGeometry(image))


def grid_of(node: Any) -> NDArray[np.float64] | None:
    """(4, 4) IJKToRAS of the image that a frame's segmentation was last on, or None where it does not say.

    It is an attribute of ours: the reference geometry of a segmentation is also set by Segment Editor.
    """
    try:
        values = [float(value) for value in (node.GetAttribute(GRID) or "").split()]
    except ValueError:
        return None
    grid = np.array(values).reshape(4, 4) if len(values) == 16 else None
    return grid if grid is not None and abs(np.linalg.det(grid)) > 0 else None


def set_grid(node: Any, ijk_to_ras: NDArray[np.float64], dimensions: Sequence[int]) -> None:
    """Say on which image a frame's segmentation is, also to Segment Editor."""
    node.SetAttribute(GRID, " ".join(repr(float(value)) for value in ijk_to_ras.ravel()))
    node.GetSegmentation().SetConversionParameter(GEOMETRY, serialized(ijk_to_ras, dimensions))


def same(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two matrices are the same but for what is lost in a file."""
    return bool(np.allclose(first, second, rtol=1e-6, atol=1e-6))


def _maps(segmentation: Any, ids: Sequence[str]) -> list[tuple[Any, dict[int, int]]]:
    """(label map, label number by value in it) of the segments; several share a map."""
    maps: list[tuple[Any, dict[int, int]]] = []
    for number, segment_id in enumerate(ids, 1):
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(BINARY) if segment is not None else None
        scalars = image.GetPointData().GetScalars() if image is not None else None
        if scalars is None or not scalars.GetNumberOfTuples():
            continue
        for other, numbers in maps:
            if other is image:
                numbers[int(segment.GetLabelValue())] = number
                break
        else:
            maps.append((image, {int(segment.GetLabelValue()): number}))
    return maps


def _numbered(values: NDArray[Any], numbers: dict[int, int]) -> NDArray[np.uint8]:
    """uint8 label numbers of the values of a label map."""
    if values.dtype == np.uint8:
        table = np.zeros(256, np.uint8)
        for value, number in numbers.items():
            table[value] = number
        return table[values]
    found = np.zeros(values.shape, np.uint8)
    for value, number in numbers.items():
        found[values == value] = number
    return found


def _bounds(mask: NDArray[np.uint8]) -> tuple[int, ...]:
    """(x0, x1, y0, y1, z0, z1) of what is drawn, inclusive; x1 < x0 where nothing is."""
    if not mask.any():
        return 0, -1, 0, -1, 0, -1
    found: list[int] = []
    for axes in ((0, 1), (0, 2), (1, 2)):
        drawn = np.flatnonzero(np.bitwise_or.reduce(mask, axis=axes))
        found += [int(drawn[0]), int(drawn[-1])]
    return tuple(found)


def _paste(
    mask: NDArray[np.uint8], part: NDArray[np.uint8], first: Sequence[int], relative: NDArray[np.float64]
) -> None:
    """Put label numbers where they lie in a mask.

    Args:
        mask: (D, H, W), changed where the part is not 0.
        part: of any size.
        first: voxel (x, y, z) that the part begins with.
        relative: (4, 4) from voxels of the part to those of the mask.
    """
    offset = np.rint(relative[:3, 3])
    if np.abs(relative[:3, :3] - np.eye(3)).max() < _SAME and np.abs(relative[:3, 3] - offset).max() < 0.01:
        start = np.array(first) + offset.astype(int)
        low = np.maximum(start, 0)
        high = np.minimum(start + part.shape[::-1], mask.shape[::-1])
        if (high > low).all():
            a, b = low - start, high - start
            target = mask[low[2] : high[2], low[1] : high[1], low[0] : high[0]]
            inside = part[a[2] : b[2], a[1] : b[1], a[0] : b[0]]
            if target.any():
                np.copyto(target, inside, where=inside > 0)
            else:
                target[...] = inside  # several times as fast
        return
    # Another grid: each pixel takes the voxel that its centre lies in.
    zyx = np.indices(mask.shape).reshape(3, -1)
    back = np.linalg.inv(relative)
    ijk = np.rint(back[:3, :3] @ zyx[::-1] + back[:3, 3:]).astype(int) - np.array(first)[:, np.newaxis]
    inside = ((ijk >= 0) & (ijk < np.array(part.shape[::-1])[:, np.newaxis])).all(axis=0)
    x, y, z = ijk[:, inside]
    flat = np.zeros(inside.size, np.uint8)
    flat[inside] = part[z, y, x]
    np.copyto(mask.reshape(-1), flat, where=flat > 0)


def move(segmentation: Any, ids: Sequence[str], change: NDArray[np.float64]) -> None:
    """Move the label maps of segments, each once: ``change`` (4, 4) is applied to what their pixels' places are."""
    moved: list[Any] = []
    matrix = vtk.vtkMatrix4x4()
    for segment_id in ids:
        segment = segmentation.GetSegment(segment_id)
        image = segment.GetRepresentation(BINARY) if segment is not None else None
        if image is None or any(image is each for each in moved):
            continue
        image.GetImageToWorldMatrix(matrix)
        image.SetImageToWorldMatrix(to_matrix(change @ to_array(matrix)))
        moved.append(image)
