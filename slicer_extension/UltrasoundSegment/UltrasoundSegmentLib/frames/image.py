"""Pixels between NumPy and the one-slice volumes of MRML: colour to gray, deep values to eight bits."""

from __future__ import annotations

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import get_vtk_array_type, numpy_to_vtk, vtk_to_numpy

import slicer
from UltrasoundSegmentLib.errors import SegmentError


class NoPixelsError(SegmentError):
    """A volume holds no pixels, or more than one slice."""


def pixels(volume: slicer.vtkMRMLVolumeNode) -> NDArray:
    """(H, W) or (H, W, components), the volume's own type: a view of its voxels at k = 0, row j = 0 first.

    Errors: NoPixelsError where the volume is empty or has several slices.
    """
    data = volume.GetImageData()
    scalars = data.GetPointData().GetScalars() if data is not None else None
    if scalars is None:
        raise NoPixelsError(f"The volume “{volume.GetName()}” holds no pixels: load it again.")
    columns, rows, slices = data.GetDimensions()
    if slices != 1:
        raise NoPixelsError(
            f"“{volume.GetName()}” has {slices} slices, a frame has one: sweep the volume by planes to get frames."
        )
    values = vtk_to_numpy(scalars)
    return (
        values.reshape(rows, columns, -1) if values.ndim > 1 and values.shape[1] > 1 else values.reshape(rows, columns)
    )


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., 3 or 4) RGB to gray, uint8: Rec. 601 in integers, (19595 R + 38470 G + 7471 B + 32768) >> 16."""
    # Every number here is a whole one below 2**24, which float32 holds exactly, and its product is the fast one.
    weighed = np.ascontiguousarray(rgb[..., :3]).astype(np.float32) @ np.array([19595, 38470, 7471], np.float32)
    weighed += np.float32(32768)
    weighed *= np.float32(2**-16)
    return weighed.astype(np.uint8)


def gray(values: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    """(H, W) or (H, W, components) of any type to a contiguous (H, W) uint8 of its own memory.

    Eight bits stay as they are, 3 and 4 components become their luma; other types map ``low`` to 0 and ``high`` to 255.
    Two components (intensity and alpha) give the first.
    """
    if values.dtype != np.uint8:
        values = _linear(values, low, high)
    if values.ndim == 3:
        return luma(values) if values.shape[2] >= 3 else np.ascontiguousarray(values[..., 0])
    return np.array(values, order="C")


def _linear(values: NDArray, low: float, high: float) -> NDArray[np.uint8]:
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255.0 / (high - low))
    return np.clip(np.rint(np.nan_to_num(scaled, nan=0.0, posinf=255.0, neginf=0.0)), 0, 255).astype(np.uint8)


def image_data(values: NDArray) -> vtk.vtkImageData:
    """(H, W) or (H, W, 3) of a type that VTK has, as an image of one slice that owns its memory."""
    rows, columns = values.shape[:2]
    flat = np.ascontiguousarray(values).reshape(rows * columns, -1)
    scalars = numpy_to_vtk(flat, deep=True, array_type=get_vtk_array_type(values.dtype))
    scalars.SetName("ImageScalars")
    data = vtk.vtkImageData()
    data.SetDimensions(columns, rows, 1)
    data.GetPointData().SetScalars(scalars)
    return data


def matrix_of(volume: slicer.vtkMRMLVolumeNode) -> NDArray[np.float64]:
    """(4, 4) IJK to RAS of the volume, without its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return to_array(matrix)


def to_array(matrix: vtk.vtkMatrix4x4) -> NDArray[np.float64]:
    """The (4, 4) values of a VTK matrix."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_matrix(values: NDArray) -> vtk.vtkMatrix4x4:
    """A VTK matrix of (4, 4) values."""
    matrix = vtk.vtkMatrix4x4()
    matrix.DeepCopy([float(value) for value in np.asarray(values, dtype=float).ravel()])
    return matrix
