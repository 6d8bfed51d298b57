"""Masks of the planes of a sweep, put together to a segmentation of the volume that the planes were cut from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import matrix_of
from UltrasoundSegmentLib.frames.sweep import swept_geometry
from UltrasoundSegmentLib.frames.world import ijk_to_world
from UltrasoundSegmentLib.masks import pixels
from UltrasoundSegmentLib.masks.distance import signed_distance
from UltrasoundSegmentLib.masks.planes import Bracket, Planes, arranged
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.steps import Steps, finish
from UltrasoundSegmentLib.masks.store import MaskStore

LABELLED = (Status.PREDICTED, Status.PROPAGATED, Status.EDITED, Status.ACCEPTED)

_NOWHERE = np.float32(-1e6)
_VOXELS = 1 << 15
"""In a step, some 10 ms."""


def reassemble(cine: Any, store: MaskStore, volume: Any, statuses: Collection[Status] = LABELLED) -> Any:
    """``reassemble_steps`` all at once."""
    return finish(reassemble_steps(cine, store, volume, statuses))


def reassemble_steps(cine: Any, store: MaskStore, volume: Any, statuses: Collection[Status] = LABELLED) -> Steps[Any]:
    """A new vtkMRMLSegmentationNode in the volume's geometry, with the labels of the store as segments.

    A voxel takes the label of the two planes that it lies between, interpolated by the signed distance to their
    outlines (Raya and Udupa 1990, doi:10.1109/42.52980); between the planes of a rotation along the arc. Voxels on a
    plane have exactly its labels. Planes that nobody labelled are passed over, as if they had not been cut; one that
    is labelled and empty ends what lies beside it. The outermost planes stand for half a step beyond them.

    Args:
        cine: of a sweep: its planes are parallel, or turn about one axis.
        store: of the cine.
        volume: vtkMRMLScalarVolumeNode that was swept.
        statuses: of the planes that are used.

    Errors: SegmentError where no plane is labelled, or the planes are arranged otherwise.
    """
    used = [index for index, status in enumerate(store.statuses()) if status in statuses]
    if not used:
        raise SegmentError("No plane of the sweep has a mask: segment or accept at least one.")
    drawn = []
    for index in used:
        drawn.append(store.mask(index))
        yield
    if len({mask.shape for mask in drawn}) > 1:
        raise SegmentError("The planes are of several sizes, so that no volume can be made of them.")
    masks = np.stack(drawn)
    every = np.stack([matrix_of(cine.volume(index)) for index in range(cine.count)])
    place = swept_geometry(cine)
    place = ijk_to_world(volume) if place is None else place  # the frames stay where the volume was
    size = volume.GetImageData().GetDimensions()
    labels = yield from _fill(masks, arranged(every, used), place, size, len(store.labels))
    if cine.scene is None:
        raise SegmentError("The cine was removed from the scene meanwhile: nothing was put together.")
    node = cine.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} segmentation")
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(pixels.BINARY)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    template = store.sequence.GetNthDataNode(used[0]).GetSegmentation()
    for segment_id, name in zip(store.segment_ids, store.labels, strict=True):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.SetColor(template.GetSegment(segment_id).GetColor())
        segmentation.AddSegment(segment, segment_id)
    pixels.draw(segmentation, store.segment_ids, labels, matrix_of(volume))
    node.CreateDefaultDisplayNodes()
    return node


def _fill(
    masks: NDArray[np.uint8], planes: Planes, to_ras: NDArray[np.float64], size: tuple[int, int, int], count: int
) -> Steps[NDArray[np.uint8]]:
    """(D, H, W) label numbers of a volume of (W, H, D) voxels."""
    columns, rows, slices = size
    labels = np.zeros((slices, rows, columns), np.uint8)
    best = np.zeros(labels.shape, np.float32)
    for number in range(1, count + 1):
        drawn = masks == number
        if not drawn.any():
            continue
        yield
        box, stack = yield from _distances(drawn, planes.spacing)
        peaks = stack.max(axis=(1, 2))
        for z, y, x in _voxels(planes.reach(box), to_ras, labels.shape):
            ras = to_ras[:3, :3] @ np.stack([x, y, z]) + to_ras[:3, 3:]
            value = _between(stack, peaks, planes.bracket(ras), planes, box)
            better = value > best[z, y, x]
            z, y, x = z[better], y[better], x[better]
            labels[z, y, x], best[z, y, x] = number, value[better]
            yield
    return labels


def _distances(
    drawn: NDArray[np.bool_], spacing: tuple[float, float]
) -> Steps[tuple[tuple[int, int, int, int], NDArray[np.float32]]]:
    """((x0, y0, x1, y1) half-open, (N, H, W) float32): signed distances in mm in the part of the planes that matters.

    Args:
        drawn: (N, H, W).
        spacing: (row, column) mm.
    """
    some: NDArray[np.bool_] = np.any(drawn, axis=0)
    y, x = np.flatnonzero(some.any(axis=1)), np.flatnonzero(some.any(axis=0))
    # A pixel beyond, for the distance to turn negative; more would only be filled with nothing.
    y0, y1 = max(int(y[0]) - 1, 0), min(int(y[-1]) + 2, some.shape[0])
    x0, x1 = max(int(x[0]) - 1, 0), min(int(x[-1]) + 2, some.shape[1])
    stack = np.empty((len(drawn), y1 - y0, x1 - x0), np.float32)
    for place, each in enumerate(drawn[:, y0:y1, x0:x1]):
        stack[place] = signed_distance(each, spacing)
        yield
    return (x0, y0, x1, y1), stack


def _voxels(
    corners: NDArray[np.float64], to_ras: NDArray[np.float64], shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """(z, y, x) of the voxels within the box around corners (3, N) RAS, so many at once."""
    inverse = np.linalg.inv(to_ras)
    ijk = inverse[:3, :3] @ corners + inverse[:3, 3:]
    low = np.clip(np.floor(ijk.min(axis=1)).astype(int) - 1, 0, None)
    high = np.minimum(np.ceil(ijk.max(axis=1)).astype(int) + 2, shape[::-1])
    if (high <= low).any():
        return
    width, height = high[:2] - low[:2]
    rows = int(min(height, max(1, _VOXELS // width)))
    slices = int(max(1, _VOXELS // (width * rows)))
    x = np.arange(low[0], high[0])
    for z in range(low[2], high[2], slices):
        for y in range(low[1], high[1], rows):
            grid = np.meshgrid(
                np.arange(z, min(z + slices, high[2])), np.arange(y, min(y + rows, high[1])), x, indexing="ij"
            )
            yield grid[0].ravel(), grid[1].ravel(), grid[2].ravel()


def _between(
    stack: NDArray[np.float32],
    peaks: NDArray[np.float32],
    bracket: Bracket,
    planes: Planes,
    box: tuple[int, int, int, int],
) -> NDArray[np.float32]:
    """(N,) signed distance of points between two planes; negative where a point lies between none."""
    first = _sample(stack, bracket.first, planes.pixel(bracket.first, bracket.at_first), box)
    second = _sample(stack, bracket.second, planes.pixel(bracket.second, bracket.at_second), box)
    # An empty plane is as far from the outline of its neighbour as the neighbour is wide: half-way it has vanished.
    first = np.where(peaks[bracket.first] > 0, first, -np.maximum(peaks[bracket.second], 0))
    second = np.where(peaks[bracket.second] > 0, second, -np.maximum(peaks[bracket.first], 0))
    value = first * (1 - bracket.share) + second * bracket.share
    return np.where(bracket.inside, value, -1).astype(np.float32)


def _sample(
    stack: NDArray[np.float32], index: NDArray[np.int64], place: NDArray[np.float64], box: tuple[int, int, int, int]
) -> NDArray[np.float32]:
    """(N,) bilinear values of planes at pixels (2, N) (x, y); of the box or on its edge, else far outside."""
    height, width = stack.shape[1:]
    x, y = place[0] - box[0], place[1] - box[1]
    cx, cy = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.minimum(cx.astype(int), max(width - 2, 0)), np.minimum(cy.astype(int), max(height - 2, 0))
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = cx - x0, cy - y0
    top = stack[index, y0, x0] * (1 - fx) + stack[index, y0, x1] * fx
    bottom = stack[index, y1, x0] * (1 - fx) + stack[index, y1, x1] * fx
    # A frame shows nothing beyond its outermost pixels' edges.
    beyond = np.maximum(np.abs(x - cx), np.abs(y - cy))
    return np.where(beyond > 0.5, _NOWHERE, top * (1 - fy) + bottom * fy)
