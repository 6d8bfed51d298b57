"""Planes through a volume: where they lie, and what is on them."""

from __future__ import annotations

import math

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import NoPixelsError, to_matrix
from UltrasoundSegmentLib.frames.world import ijk_to_world

# (column, row, normal) of a frame in RAS, as slice views show them: left of the patient on the right of an axial and a
# coronal frame, front on the left of a sagittal one, head or front on top.
AXES = {
    "axial": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "sagittal": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
    "coronal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
}


def oblique_image(volume: slicer.vtkMRMLVolumeNode, ijk_to_ras: NDArray[np.float64], size: tuple[int, int]) -> NDArray:
    """The values of a volume on a plane, linearly interpolated.

    Args:
        volume: a volume of one or several components, also under a linear transform.
        ijk_to_ras: (4, 4) of the plane in world RAS: pixel (i, j) of row j and column i lies at (i, j, 0).
        size: (W, H) pixels.

    Returns: (H, W), or (H, W, components), of the volume's type. Outside the volume is 0; it ends half a voxel beyond
    the centres of its outermost voxels.

    Errors: NoPixelsError, NoLinearTransformError.
    """
    return resliced(_data(volume), ijk_to_world(volume), ijk_to_ras, size)


def resliced(
    data: vtk.vtkImageData,
    volume_to_ras: NDArray[np.float64],
    ijk_to_ras: NDArray[np.float64],
    size: tuple[int, int],
) -> NDArray:
    """``oblique_image`` of voxels and their place, without MRML: also on another thread, while nobody changes them."""
    # Volumes of MRML keep their place beside an image of unit spacing: all of it happens in voxels.
    voxels = np.linalg.inv(volume_to_ras) @ np.asarray(ijk_to_ras, dtype=float)
    # Rows that run across the slices of the volume touch a page of memory for each pixel: those are cut as columns.
    turned = abs(voxels[2, 0]) > abs(voxels[2, 1])
    if turned:
        voxels, size = voxels[:, [1, 0, 2, 3]], size[::-1]
    into = vtk.vtkMatrixToLinearTransform()
    into.SetInput(to_matrix(voxels))
    columns, rows = size
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(data)
    reslice.SetResliceTransform(into)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputExtent(0, columns - 1, 0, rows - 1, 0, 0)
    reslice.TransformInputSamplingOff()
    reslice.SetBackgroundLevel(0)
    reslice.SetInterpolationModeToLinear()
    reslice.Update()
    values = vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars())
    values = values.reshape(rows, columns, *values.shape[1:])
    return np.ascontiguousarray(values.swapaxes(0, 1)) if turned else values


def stored_slices(volume: slicer.vtkMRMLVolumeNode, name: str) -> list[tuple[NDArray, NDArray[np.float64]]]:
    """The slices a volume stores that are nearest to axial, sagittal or coronal: its own voxels, none interpolated.

    They are turned and flipped as slice views show them, in the order of the normal (towards head, right or front).

    Returns: views of (H, W) or (H, W, components) and the (4, 4) IJK to world RAS of each; k is the distance to the
    next slice, signed to make it right-handed.
    """
    place = ijk_to_world(volume)
    data = _data(volume)
    width, height, depth = data.GetDimensions()
    values = vtk_to_numpy(data.GetPointData().GetScalars())
    voxels = values.reshape(depth, height, width, *values.shape[1:])
    axes = _nearest_axes(place, name)
    extent = (width, height, depth)
    # The frame's own (i, j, k) in voxels of the volume.
    turn = np.eye(4)
    turn[:3, :3] = 0
    for ours, (theirs, sign) in enumerate(axes):
        turn[theirs, ours] = sign
        turn[theirs, 3] = 0 if sign > 0 else extent[theirs] - 1
    (column, flip_column), (row, flip_row), (normal, flip_normal) = axes
    # NumPy counts the axes of a volume backwards: k, j, i.
    ordered = np.moveaxis(voxels, (2 - normal, 2 - row, 2 - column), (0, 1, 2))
    ordered = ordered[::flip_normal, ::flip_row, ::flip_column]
    slices = []
    for index in range(extent[normal]):
        at = turn.copy()
        at[normal, 3] += flip_normal * index
        slices.append((ordered[index], right_handed(place @ at)))
    return slices


def right_handed(ijk_to_ras: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same plane, with k turned round where i, j and k would be left-handed."""
    if np.linalg.det(ijk_to_ras[:3, :3]) >= 0:
        return ijk_to_ras
    turned = ijk_to_ras.copy()
    turned[:3, 2] *= -1
    return turned


def plane(
    centre: NDArray, right: NDArray, down: NDArray, size: tuple[int, int], spacing_mm: tuple[float, float], thick: float
) -> NDArray[np.float64]:
    """(4, 4) IJK to RAS of a frame from its centre and the unit directions of its columns and rows.

    Args:
        size: (W, H) pixels; the centre lies between the middle pixels where it is even.
        spacing_mm: (row, column).
        thick: mm along k.
    """
    place = np.eye(4)
    place[:3, 0] = np.asarray(right) * spacing_mm[1]
    place[:3, 1] = np.asarray(down) * spacing_mm[0]
    place[:3, 2] = np.cross(right, down) * thick
    place[:3, 3] = np.asarray(centre) - place[:3, :2] @ [(size[0] - 1) / 2, (size[1] - 1) / 2]
    return place


def unit(direction: NDArray | tuple[float, ...], what: str) -> NDArray[np.float64]:
    """(3,) of length 1. Errors: SegmentError where it has no direction."""
    values = np.asarray(direction, dtype=float)
    length = float(np.linalg.norm(values))
    if values.shape != (3,) or not math.isfinite(length) or length < 1e-9:
        raise SegmentError(f"{what} has no direction: give three numbers that are not all 0.")
    return values / length


def corners(volume: slicer.vtkMRMLVolumeNode) -> NDArray[np.float64]:
    """(8, 3) world RAS of the outer corners of a volume, half a voxel beyond the centres."""
    dimensions = _data(volume).GetDimensions()
    grid = np.array(np.meshgrid(*[(-0.5, n - 0.5) for n in dimensions], indexing="ij")).reshape(3, 8)
    return (ijk_to_world(volume) @ np.vstack([grid, np.ones(8)]))[:3].T


def finest(volume: slicer.vtkMRMLVolumeNode) -> float:
    """Smallest distance of two voxels along an axis in world, mm."""
    return float(np.linalg.norm(ijk_to_world(volume)[:3, :3], axis=0).min())


def _nearest_axes(place: NDArray[np.float64], name: str) -> list[tuple[int, int]]:
    """(axis of the volume, sign) for the frame's column, row and normal; each axis once, best match first."""
    if name not in AXES:
        raise SegmentError(f"There are no “{name}” slices: choose one of {', '.join(AXES)}.")
    directions = place[:3, :3] / np.linalg.norm(place[:3, :3], axis=0)
    match = np.asarray(AXES[name], dtype=float) @ directions
    found: dict[int, tuple[int, int]] = {}
    for _ in range(3):
        ours, theirs = np.unravel_index(np.argmax(np.abs(np.nan_to_num(match))), match.shape)
        found[int(ours)] = int(theirs), 1 if match[ours, theirs] >= 0 else -1
        match[ours, :] = match[:, theirs] = np.nan
    return [found[ours] for ours in range(3)]


def _data(volume: slicer.vtkMRMLVolumeNode) -> vtk.vtkImageData:
    data = volume.GetImageData()
    if data is None or data.GetPointData().GetScalars() is None:
        raise NoPixelsError(f"The volume “{volume.GetName()}” holds no voxels: load it again.")
    return data
