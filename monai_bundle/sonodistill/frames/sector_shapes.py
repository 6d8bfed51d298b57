"""The two families of insonified regions, as parameters that can be varied one by one and as polygons.

A *quadrilateral* (linear probe: rectangle, parallelogram of a steered beam, trapezoid of a virtual convex one) is
``(top, bottom, top left, bottom left, top right, bottom right, sagitta)``: rows of its horizontal edges, columns of its
corners, and by how much its lower edge bulges downwards. A *fan* (convex or phased probe) is
``(apex x, apex y, top, bottom, left, right)``: the rows where its arcs cross the axis below the apex, and the columns
where its sides cross a reference row, so that moving the apex turns the sides about points that stay in place.
Coordinates are pixels with 0 at the left and upper border of the first pixel.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

_UPPER_CORNERS = 11
_AROUND = np.concatenate((np.linspace(0, 1, _UPPER_CORNERS), np.linspace(1, 0, 25)))  # from the left to the right, back
_BULGE = np.linspace(1, -1, 17)
PHASED_SHARE = 0.1  # inner over outer radius: below, the fan comes from (nearly) a point


def quad_polygon(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(n, 2) polygon of a quadrilateral, or None where it is turned inside out."""
    top, bottom, top_left, bottom_left, top_right, bottom_right, sagitta = values
    if bottom - top < 4 or top_right - top_left < 4 or bottom_right - bottom_left < 4 or sagitta < 0:
        return None
    corners = [(top_left, top), (top_right, top), (bottom_right, bottom)]
    if sagitta > 0:
        # A parabola is within a hundredth of the arc's height for the flat arcs that occur.
        middle, half = (bottom_left + bottom_right) / 2, (bottom_right - bottom_left) / 2
        corners += [(middle + half * u, bottom + sagitta * (1 - u * u)) for u in _BULGE[1:-1]]
    return np.array([*corners, (bottom_left, bottom)], np.float64)


def fan_polygon(values: NDArray[np.float64], reference: float) -> NDArray[np.float64] | None:
    """(n, 2) polygon of a fan whose sides cross row ``reference`` at its left and right, or None where impossible."""
    geometry = fan_geometry(values, reference)
    if geometry is None:
        return None
    apex_x, apex_y, inner, outer, left, right = geometry
    angles = left + (right - left) * _AROUND
    polygon = np.empty((angles.size, 2))
    np.sin(angles, out=polygon[:, 0])
    np.cos(angles, out=polygon[:, 1])
    polygon[:_UPPER_CORNERS] *= inner
    polygon[_UPPER_CORNERS:] *= outer
    polygon += (apex_x, apex_y)
    return polygon


def fan_geometry(values: NDArray[np.float64], reference: float) -> tuple[float, ...] | None:
    """(apex x, apex y, inner radius, outer radius, left angle, right angle) of a fan; angles from the axis, radians."""
    apex_x, apex_y, top, bottom, left, right = values
    drop = reference - apex_y
    if drop < 2 or right - left < 4 or top < apex_y or bottom - top < 4:
        return None
    begin, end = math.atan2(left - apex_x, drop), math.atan2(right - apex_x, drop)
    if begin > -0.03 or end < 0.03 or end - begin > 2.9:
        return None
    return apex_x, apex_y, top - apex_y, bottom - apex_y, begin, end


def fill(polygon: NDArray[np.float64], canvas: NDArray) -> NDArray:
    """Set the pixels of a zeroed canvas to 1 that the polygon holds or touches; in place. Fast: for the search."""
    # OpenCV counts sixteenths of a pixel from the centre of the first one.
    cv2.fillPoly(canvas, [np.rint(polygon * 16 - 8).astype(np.int32)], 1, cv2.LINE_8, 4)
    return canvas


def rasterized(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool, true on the pixels whose centres a polygon holds (even-odd rule)."""
    height, width = shape
    rows = np.arange(height)[:, None] + 0.5
    x0, y0 = polygon.T
    x1, y1 = np.roll(polygon, -1, axis=0).T
    row, edge = np.nonzero((y0 <= rows) != (y1 <= rows))
    crossing = x0[edge] + (row + 0.5 - y0[edge]) / (y1 - y0)[edge] * (x1 - x0)[edge]
    toggles = np.zeros((height, width + 1), np.uint8)
    np.add.at(toggles, (row, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)), 1)
    return np.bitwise_xor.accumulate(toggles & 1, axis=1)[:, :-1].astype(bool)


def clip(polygon: NDArray[np.float64], box: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """What of a polygon lies in a box (top, left, bottom, right), after Sutherland and Hodgman."""
    top, left, bottom, right = box
    for axis, sign, limit in ((1, 1, top), (0, 1, left), (1, -1, -bottom), (0, -1, -right)):
        if len(polygon) == 0:
            break
        distance = sign * polygon[:, axis] - limit
        kept: list[NDArray] = []
        for index in range(len(polygon)):
            before, after = polygon[index - 1], polygon[index]
            d0, d1 = distance[index - 1], distance[index]
            if (d0 < 0) != (d1 < 0):
                kept.append(before + (after - before) * (d0 / (d0 - d1)))
            if d1 >= 0:
                kept.append(after)
        polygon = np.array(kept).reshape(-1, 2)
    return polygon
