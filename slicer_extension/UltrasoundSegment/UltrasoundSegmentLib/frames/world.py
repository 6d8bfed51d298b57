"""Where a node lies in the world: its parent transforms, multiplied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import vtk
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import matrix_of, to_array


class NoLinearTransformError(SegmentError):
    """A node is bent by its transform, so that a plane of its voxels is none in the world."""


def parents_to_world(
    node: slicer.vtkMRMLTransformableNode,
    value_of: Callable[[slicer.vtkMRMLTransformNode], slicer.vtkMRMLTransformNode] | None = None,
) -> NDArray[np.float64]:
    """(4, 4) from the parent's coordinates of a node to world RAS; the identity without a parent.

    Args:
        value_of: gives the transform to use in place of each parent; by default the parent itself.

    Errors: NoLinearTransformError where one of them is not linear.
    """
    total = np.eye(4)
    parent = node.GetParentTransformNode()
    while parent is not None:
        used = parent if value_of is None else value_of(parent)
        if not used.IsLinear():
            raise NoLinearTransformError(
                f"“{node.GetName()}” is under “{parent.GetName()}”, which is not linear: harden the transform first."
            )
        matrix = vtk.vtkMatrix4x4()
        used.GetMatrixTransformToParent(matrix)
        total = to_array(matrix) @ total
        parent = parent.GetParentTransformNode()
    return total


def ijk_to_world(volume: slicer.vtkMRMLVolumeNode) -> NDArray[np.float64]:
    """(4, 4) IJK to world RAS of a volume. Errors: NoLinearTransformError."""
    return parents_to_world(volume) @ matrix_of(volume)
