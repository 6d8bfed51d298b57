"""A volume as a whole, segmented by a server that has a model for volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

import slicer
from UltrasoundSegmentLib.backends.model import Cancel, Model, NotOfferedError
from UltrasoundSegmentLib.backends.volume_files import Volume
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import matrix_of, to_matrix
from UltrasoundSegmentLib.jobs import Job, Jobs

_BINARY = "Binary labelmap"


def segment_volume(
    volume: slicer.vtkMRMLScalarVolumeNode,
    backend: Any,
    model: Model,
    jobs: Jobs,
    done: Callable[[Any], None],
    failed: Callable[[Exception], None],
) -> Job:
    """Send a volume and get a segmentation of it; a new vtkMRMLSegmentationNode is handed to ``done``.

    Errors: NotOfferedError for a backend without volumes; SegmentError for a volume without voxels, or in colour.
    """
    if not hasattr(backend, "segment_volume"):
        raise NotOfferedError("Volumes are segmented by a server: sweep the volume by planes, and segment the frames.")
    data = volume.GetImageData()
    scalars = data.GetPointData().GetScalars() if data is not None else None
    if scalars is None or scalars.GetNumberOfComponents() != 1:
        raise SegmentError(f"“{volume.GetName()}” has no gray voxels: choose a scalar volume.")
    voxels = vtk_to_numpy(scalars).reshape(data.GetDimensions()[::-1]).copy()
    sent = Volume(voxels, matrix_of(volume))

    def work(cancel: Cancel, _: Any) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = backend.segment_volume(sent, model.id, cancel)
        return labels

    def segmented(labels: NDArray[np.uint8]) -> None:
        if volume.GetScene() is None:
            failed(SegmentError("The volume was removed from the scene meanwhile: its segmentation was dropped."))
            return
        done(_segmentation(volume, labels, model.labels))

    return jobs.submit(work, segmented, failed)


def mask_of(segmentation: slicer.vtkMRMLSegmentationNode, volume: Any, ids: Sequence[str]) -> NDArray[np.uint8]:
    """(K, J, I) label numbers of segments on the grid of a volume that they were made on."""
    labels = np.zeros(volume.GetImageData().GetDimensions()[::-1], np.uint8)
    for number, id in enumerate(ids, 1):
        image = slicer.vtkOrientedImageData()
        segmentation.GetBinaryLabelmapRepresentation(id, image)
        x0, x1, y0, y1, z0, z1 = image.GetExtent()
        if x1 < x0 or y1 < y0 or z1 < z0:
            continue
        part = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
        labels[z0 : z1 + 1, y0 : y1 + 1, x0 : x1 + 1][part > 0] = number
    return labels


def _segmentation(volume: Any, labels: NDArray[np.uint8], names: Sequence[str]) -> Any:
    scene = volume.GetScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(f"{volume.GetName()} segmented"))
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    segmentation = node.GetSegmentation()
    for number in range(1, max(len(names), int(labels.max())) + 1):
        image = slicer.vtkOrientedImageData()
        image.SetDimensions(*labels.shape[::-1])
        image.SetGeometryFromImageToWorldMatrix(to_matrix(matrix_of(volume)))
        flat = (labels == number).astype(np.uint8).ravel()
        image.GetPointData().SetScalars(numpy_to_vtk(flat, deep=True, array_type=vtk.VTK_UNSIGNED_CHAR))
        segment = slicer.vtkSegment()
        segment.SetName(names[number - 1] if number <= len(names) else f"label {number}")
        segment.AddRepresentation(_BINARY, image)
        segmentation.AddSegment(segment)
    node.CreateDefaultDisplayNodes()
    return node
