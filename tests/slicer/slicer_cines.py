"""Cines of the real MRML core to draw masks on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LPS = np.diag([-0.5, -0.5, 1.0, 1.0])
"""(4, 4) IJK to RAS of pixels of half a millimetre, as Slicer reads DICOM."""


def cine_of(
    scene: Any,
    count: int = 6,
    size: tuple[int, int] = (48, 64),
    matrix: NDArray = LPS,
    source: str = "DICOM region",
    seconds: float = 0.04,
) -> Any:
    """A gray cine of ``count`` frames (H, W), each of another brightness."""
    from UltrasoundSegmentLib.frames.build import Facts, build_cine

    slices = ((np.full(size, 10 * index % 250, np.uint8), matrix) for index in range(count))
    times = [seconds * index for index in range(count)]
    return build_cine(scene, "Cine", slices, times, Facts(source=source, time_source="FrameTime"))


def square(size: tuple[int, int], top: int, left: int, side: int, number: int = 1) -> NDArray[np.uint8]:
    """(H, W) label numbers: a square of one label."""
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = number
    return mask


def draw_as_segment_editor(store: Any, mask: NDArray[np.bool_], number: int = 1) -> None:
    """Add pixels to a segment of the proxy the way an effect does (modifySelectedSegmentByLabelmap, adding)."""
    from UltrasoundSegmentLib.frames.image import matrix_of
    from UltrasoundSegmentLib.masks.pixels import to_image

    import slicer

    logic = slicer.vtkSlicerSegmentationsModuleLogic
    proxy = store.segmentation_proxy()
    value = proxy.GetSegmentation().GetSegment(store.segment_ids[number - 1]).GetLabelValue()
    image = to_image(mask.astype(np.uint8) * np.uint8(value), matrix_of(store.cine.volume(store.cine.selected)))
    if not logic.SetBinaryLabelmapToSegment(image, proxy, store.segment_ids[number - 1], logic.MODE_MERGE_MAX):
        raise RuntimeError("the segmentations' logic did not draw")
