"""Measures the regions of a mask: outline, area and calipers, in millimetres where the file is calibrated."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from sonodistill.dicom.findings import Structure
from sonodistill.frames.calibration import calibration_at

MIN_PIXELS = 16
"""A region of fewer pixels is not measured: one pixel more or less would change it by a tenth."""
LIMIT = 32
"""Regions measured in one segment of one frame, the largest."""
MAX_POINTS = 8190
"""Of a contour: Graphic Data (0070,0022) is FL, whose length has 16 bits in explicit VR, and its first point comes
twice."""


def structures_of(
    masks: NDArray[np.bool_], frame: int, ds: Dataset, *, min_pixels: int = MIN_PIXELS, limit: int = LIMIT
) -> list[Structure]:
    """The regions of every segment of a frame, by segment and size.

    Pixels that share an edge belong together; pixels that touch at a corner alone do not. The area is that of the
    pixels, without holes; the contour and the calipers are those of the outer border. A region is measured in
    millimetres when one calibrated 2D region of the source wholly contains it (PS3.3 C.8.5.5), in pixels always.

    Args:
        masks: (C, H, W) bool, of the size of the source's image.
        frame: counted from 0.
        ds: header of the source.
        min_pixels: smaller regions are left out.
        limit: regions of each segment, beyond which the smallest are left out.
    """
    if masks.shape[1:] != (ds.Rows, ds.Columns):
        raise ValueError(f"masks of {masks.shape[1:]} for an image of {ds.Rows} x {ds.Columns}")
    found = []
    for segment, mask in enumerate(masks, start=1):
        # Only what the regions span is labelled: they are small, and labelling is most of the time.
        x0, y0, span_x, span_y = cv2.boundingRect(mask.view(np.uint8))
        if span_x * span_y == 0:
            continue
        spanned = mask[y0 : y0 + span_y, x0 : x0 + span_x].view(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(spanned, connectivity=4)
        pixels = stats[1:, cv2.CC_STAT_AREA]
        order = [int(label) + 1 for label in np.argsort(-pixels, kind="stable")[:limit] if pixels[label] >= min_pixels]
        for number, label in enumerate(order, start=1):
            left, top, width, height, area = (int(value) for value in stats[label])
            part = labels[top : top + height, left : left + width] == label
            left, top = left + x0, top + y0
            border = outer_border(part) + np.array((left, top))
            box = (top, left, top + height, left + width)
            found.append(_measured(border, box, area, ds, (frame, segment, number)))
    return found


def outer_border(part: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N, 2) corners (column, row) of the outer border along the edges of the pixels, clockwise on the screen.

    It starts at the upper left corner of the first pixel of the first row. Each point is a corner, and where the region
    meets itself at a corner the border passes twice without crossing. Without holes its area is the number of pixels.

    Args:
        part: (H, W) bool; the region of its first pixel is taken, as connected by edges.
    """
    padded = np.pad(part, 1)
    upper_left, upper_right = padded[:-1, :-1], padded[:-1, 1:]
    lower_left, lower_right = padded[1:, :-1], padded[1:, 1:]
    # From each vertex of the pixel grid edges of the border may lead in four directions.
    left, right = upper_left ^ lower_left, upper_right ^ lower_right
    up, down = upper_left ^ upper_right, lower_left ^ lower_right
    row, column = np.nonzero((left | right) & (up | down))
    both = left[row, column] & right[row, column]  # two corners of pixels that touch only here
    # Of such a pair the first goes left, and with it the corner of the pixel that lies there.
    goes_left = np.concatenate((left[row, column], np.zeros(np.count_nonzero(both), bool)))
    goes_up = np.concatenate((np.where(both, upper_left[row, column], up[row, column]), ~upper_left[row, column][both]))
    row, column = np.concatenate((row, row[both])), np.concatenate((column, column[both]))
    across = _partners(row, column, ~goes_left)
    along = _partners(column, row, ~goes_up)
    path = [0]  # the first vertex is the upper left corner of the first pixel
    horizontal = True
    while (after := (across if horizontal else along)[path[-1]]) != 0:
        path.append(after)
        horizontal = not horizontal
    return np.stack((column[path], row[path]), axis=1).astype(np.int64)


def _partners(line: NDArray, place: NDArray, onward: NDArray[np.bool_]) -> list[int]:
    """For each corner, the other end of its edge: along a line of the grid the corners pair up in their order."""
    order = np.lexsort((onward, place, line))
    partner = np.empty_like(order)
    partner[order[0::2]], partner[order[1::2]] = order[1::2], order[0::2]
    return partner.tolist()


def calipers(hull: NDArray[np.float64]) -> tuple[float, float]:
    """Largest and smallest caliper (Feret) diameter of a convex polygon (N, 2), in its unit."""
    longest = float(np.sqrt(((hull[:, None] - hull[None]) ** 2).sum(axis=2).max()))
    edges = np.roll(hull, -1, axis=0) - hull
    normals = np.stack((-edges[:, 1], edges[:, 0]), axis=1) / np.hypot(edges[:, 0], edges[:, 1])[:, None]
    # The smallest one is across an edge.
    reach = hull @ normals.T
    return longest, float((reach.max(axis=0) - reach.min(axis=0)).min())


def _measured(
    border: NDArray[np.int64], box: tuple[int, int, int, int], area: int, ds: Dataset, where: tuple[int, int, int]
) -> Structure:
    # Integers until here: scaling keeps a hull a hull, and rounds only once.
    hull = cv2.convexHull(border.astype(np.int32))[:, 0].astype(np.float64)
    long_pixels, short_pixels = calipers(hull)
    calibration = calibration_at(ds, *box)
    area_mm2 = long_mm = short_mm = None
    if calibration.mm_per_pixel is not None:
        row_mm, column_mm = calibration.mm_per_pixel
        area_mm2 = area * row_mm * column_mm
        long_mm, short_mm = calipers(hull * (column_mm, row_mm))
    contour, simplified = _bounded(border)
    reason = "; ".join(note for note in (calibration.note, simplified) if note) or None
    return Structure(*where, area, contour, long_pixels, short_pixels, area_mm2, long_mm, short_mm, reason)


def _bounded(border: NDArray[np.int64]) -> tuple[NDArray[np.float32], str | None]:
    """The contour with at most ``MAX_POINTS``, and what was done for it."""
    contour, tolerance = border.astype(np.float32), 0.0
    while len(contour) > MAX_POINTS:
        tolerance = tolerance * 2 or 0.75
        contour = cv2.approxPolyDP(border.astype(np.int32), tolerance, True)[:, 0].astype(np.float32)
    if not tolerance:
        return contour, None
    return contour, f"the contour of {len(border)} points was simplified to {len(contour)}, within {tolerance:g} pixels"
