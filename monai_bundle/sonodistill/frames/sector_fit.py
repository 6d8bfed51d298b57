"""Fits quadrilaterals and fans to the evidence of a frame: the region that gathers most of it wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonodistill.frames.sector_search import Search, Values
from sonodistill.frames.sector_shapes import PHASED_SHARE, clip, fan_geometry, fan_polygon, fill, quad_polygon

Weight = NDArray[np.float32]
Measured = NDArray[np.uint8]
Box = tuple[int, int, int, int]
Side = tuple[float, float]  # columns per row, column at row 0
Sides = tuple[Side | None, Side | None]  # left and right

# What a shape must gather more than a simpler one, as a share of all tissue.
_QUAD_PRICE = 0.012
_MARK_PRICE = 0.01
_FAN_PRICE = 0.02
_CUT_PRICE = 0.012
_WIDE = 0.35  # columns a row: some 10 degrees to each side
_ROUND = 0.015
_ODD = 0.12
_LIKE_A_RECTANGLE = 0.8
_WELL_ENOUGH = 0.965
_GOOD_FAN = 0.95  # share of all tissue that makes other beginnings needless
_HALF_ANGLES = np.deg2rad((22, 30, 38, 45, 55, 68))
_RADIUS_RATIOS = (0.02, 0.2, 0.4)
_SLOPES = np.tan(np.deg2rad(np.arange(-20, 76, 2.0)))


@dataclass(frozen=True, slots=True)
class Fit:
    """A shape with what it gathered.

    Attributes:
        kind: "linear", "convex" or "phased".
        polygon: (n, 2) in reduced pixels, clipped to the frame.
        gain: evidence inside over all the evidence for tissue, less the price of the shape.
    """

    kind: str
    polygon: NDArray[np.float64]
    gain: float


NOTHING = Fit("linear", np.zeros((0, 2)), -1.0)


def fit(weight: Weight, measured: Measured) -> Fit:
    """The best of rectangle, quadrilateral and fan for (h, w) evidence; ``measured`` gives the places to begin from."""
    total = float(np.maximum(weight, 0).sum())
    if _cropped(measured):
        return _rectangle((0, 0, weight.shape[0], weight.shape[1]), weight, total)
    rectangle = best_box(weight)
    plain = _rectangle(rectangle, weight, total)
    if plain.gain > 1 - _QUAD_PRICE:
        return plain
    sides = _sides(measured)
    families: list[Callable[[], _Quad | _Fan]] = [
        lambda: _Quad(weight, rectangle, sides, total),
        lambda: _Fan(weight, measured, sides, total),
    ]
    searched: list[_Quad | _Fan] = []
    # What a rectangle fits badly is more often a fan; who does well enough leaves no room for the other one.
    for search in families if plain.gain > _LIKE_A_RECTANGLE else reversed(families):
        searched.append(search())
        if searched[-1].gain > _WELL_ENOUGH:
            break
    better = max(searched, key=lambda one: one.gain)  # only who can win is refined
    return max((plain, better.finished()), key=lambda one: one.gain)


def _cropped(measured: Measured) -> bool:
    """Whether the frame was cropped to the image of a linear probe: its near field spans the whole width.

    What is dark at the bottom or in the lower corners of such a frame is shadow, and part of the image.
    """
    height, width = measured.shape
    rows, columns = max(height // 12, 1), max(width // 12, 1)
    corners = measured[:rows, :columns].mean(), measured[:rows, -columns:].mean()
    sides = measured[:, :2].mean(), measured[:, -2:].mean()
    return min(corners) > 0.8 and measured[:rows].mean() > 0.8 and min(sides) > 0.5


def best_box(weight: Weight) -> Box:
    """(top, left, bottom, right) of the box that gathers most, found by turns over rows and columns."""
    top, left, bottom, right = 0, 0, *weight.shape
    for _ in range(4):
        before = (top, left, bottom, right)
        top, bottom = _best_span(weight[:, left:right].sum(axis=1))
        left, right = _best_span(weight[top:bottom].sum(axis=0))
        if before == (top, left, bottom, right):
            break
    return top, left, bottom, right


def _best_span(sums: NDArray) -> tuple[int, int]:
    """Half-open range with the largest sum."""
    running = np.concatenate(([0.0], np.cumsum(sums)))
    lowest = np.minimum.accumulate(running)
    end = int(np.argmax(running - lowest))
    begin = int(np.argmin(running[: end + 1]))
    return (begin, end) if end > begin else (0, sums.size)


def _rectangle(box: Box, weight: Weight, total: float) -> Fit:
    top, left, bottom, right = box
    polygon = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)
    return Fit("linear", polygon, float(weight[top:bottom, left:right].sum()) / total)


class _Quad:
    """A quadrilateral that was searched for at coarse scale."""

    def __init__(self, weight: Weight, box: Box, sides: Sides, total: float) -> None:
        top, left, bottom, right = box
        begins = [np.array([top, bottom, left, left, right, right, 0], np.float64)]
        if sides[0] is not None and sides[1] is not None:
            (slope0, x0), (slope1, x1) = sides[0], sides[1]
            corners = (x0 + slope0 * top, x0 + slope0 * bottom, x1 + slope1 * top, x1 + slope1 * bottom)
            begins.append(np.array([top, bottom, *corners, 0], np.float64))
        self._weight, self._total = weight, total
        self._search = Search(weight, lambda values, _: quad_polygon(values))
        self._values, gathered = self._search.coarse(begins, 1, total)
        self.gain = gathered / total - _quad_price(self._values)

    def finished(self) -> Fit:
        """Refined at full scale."""
        values, gathered = self._search.fine(self._values)
        polygon = quad_polygon(values)
        if polygon is None:
            return NOTHING
        # Sides that open as wide, cut by the top of the frame or above a round lower edge, are those of a fan.
        wide = _opening(values) > _WIDE and (values[0] <= 1.5 or _bulge(values) > _ROUND)
        polygon = _framed(polygon, self._weight.shape)
        return Fit("convex" if wide else "linear", polygon, gathered / self._total - _quad_price(values))


def _quad_price(values: Values) -> float:
    """What a quadrilateral costs: more where it has the marks of a fan seen in part.

    A bulging lower edge is one, and so are sides that open wide below a top that is in sight, or that are neither
    parallel (a steered beam) nor mirror images (a virtual convex).
    """
    top, bottom, top_left, bottom_left, top_right, bottom_right, _ = values
    leans = (bottom_left - top_left) / max(bottom - top, 1.0), (bottom_right - top_right) / max(bottom - top, 1.0)
    odd = min(abs(leans[0] - leans[1]), abs(leans[0] + leans[1]))
    wide, round_below = _opening(values) > _WIDE, _bulge(values) > _ROUND
    marks = float(round_below) + float(wide and (round_below or top > 2)) + min(odd / _ODD, 3.0)
    return _QUAD_PRICE + _MARK_PRICE * marks


def _opening(values: Values) -> float:
    """By how many columns a row a quadrilateral widens downwards."""
    top, bottom, top_left, bottom_left, top_right, bottom_right, _ = values
    return (top_left - bottom_left + bottom_right - top_right) / max(bottom - top, 1.0)


def _bulge(values: Values) -> float:
    """Sagitta of the lower edge over its length."""
    return values[6] / max(values[5] - values[3], 1.0)


class _Fan:
    """A fan that was searched for at coarse scale."""

    def __init__(self, weight: Weight, measured: Measured, sides: Sides, total: float) -> None:
        rows = np.flatnonzero(measured.any(axis=1))
        self._weight, self._total = weight, total
        self._reference = float(rows[0] + 0.6 * (rows[-1] - rows[0]))
        begins = _fan_begins(measured, self._reference, sides)
        self._values, gathered = self._searched(weight).coarse(begins, 2, _GOOD_FAN * total)
        self.gain = gathered / total - _FAN_PRICE

    def _searched(self, weight: Weight) -> Search:
        return Search(weight, lambda values, scale: fan_polygon(values, self._reference * scale))

    def finished(self) -> Fit:
        """Refined at full scale, and cut straight where that helps, as scanners cut the sides of a zoomed fan."""
        weight, reference, total = self._weight, self._reference, self._total
        values, gathered = self._searched(weight).fine(self._values)
        polygon = fan_polygon(values, reference)
        if polygon is None:
            return NOTHING
        price, frame = _FAN_PRICE, (0, 0, *weight.shape)
        inside = fill(polygon, np.zeros(weight.shape, np.float32)) * weight
        box = best_box(inside)
        cut = float(inside[box[0] : box[2], box[1] : box[3]].sum())
        if (cut - gathered) / total > _CUT_PRICE:
            within = np.zeros_like(weight)
            within[box[0] : box[2], box[1] : box[3]] = weight[box[0] : box[2], box[1] : box[3]]
            values, gathered = self._searched(within).fine(values)
            price, frame = price + _CUT_PRICE, box
        polygon, geometry = fan_polygon(values, reference), fan_geometry(values, reference)
        if polygon is None or geometry is None:
            return NOTHING
        kind = "phased" if geometry[2] < PHASED_SHARE * geometry[3] else "convex"
        return Fit(kind, clip(polygon, frame), gathered / total - price)


def _framed(polygon: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return clip(polygon, (0.0, 0.0, float(shape[0]), float(shape[1])))


def _fan_begins(measured: Measured, reference: float, sides: Sides) -> Iterator[Values]:
    """Fans to begin from: the one its visible sides make, and symmetric ones that fill the same box."""
    rows, columns = np.flatnonzero(measured.any(axis=1)), np.flatnonzero(measured.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1.0, columns[0], columns[-1] + 1.0
    for (slope0, x0), (slope1, x1) in _side_pairs(measured, sides):
        if slope1 - slope0 > 0.1:
            apex_y = (x0 - x1) / (slope1 - slope0)
            apex_x = x0 + slope0 * apex_y
            column = np.flatnonzero(measured[:, int(np.clip(apex_x, 0, measured.shape[1] - 1))])
            first = column[0] if column.size else top
            at = (x0 + slope0 * reference, x1 + slope1 * reference)
            for lower in (bottom, bottom + 0.06 * (bottom - top)):
                yield np.array([apex_x, apex_y, max(first, apex_y), lower, *at], np.float64)
    middle, half_width = (left + right) / 2, (right - left) / 2
    for half_angle in _HALF_ANGLES:
        outer = half_width / np.sin(half_angle)
        for ratio in _RADIUS_RATIOS:
            # The arc's corners, not its middle, are the top of a convex image.
            apex_y = top - ratio * outer * np.cos(half_angle)
            lower = min(bottom, apex_y + outer) if ratio < 0.1 else apex_y + outer
            reach = (reference - apex_y) * np.tan(half_angle)
            yield np.array([middle, apex_y, apex_y + ratio * outer, lower, middle - reach, middle + reach])


def _side_pairs(measured: Measured, sides: Sides) -> Iterator[tuple[Side, Side]]:
    """Both visible sides, then each with its mirror image: the other may be lost in the dark or cut off."""
    left, right = sides
    if left is not None and right is not None:
        yield left, right
    rows, columns = np.flatnonzero(measured.any(axis=1)), np.flatnonzero(measured.any(axis=0))
    near = np.flatnonzero(measured[rows[0] : rows[0] + max(2, rows.size // 12)].any(axis=0))
    if left is not None:
        for middle in (near.mean(),) if right is not None else (near.mean(), columns.mean(), columns[-1]):
            yield left, (-left[0], 2 * middle - left[1])
    if right is not None:
        for middle in (near.mean(),) if left is not None else (near.mean(), columns.mean(), columns[0]):
            yield (-right[0], 2 * middle - right[1]), right


def _sides(measured: Measured) -> Sides:
    """The straight left and right borders that most rows agree on; None for one that the frame cuts off."""
    width = measured.shape[1]
    rows = np.flatnonzero(measured.any(axis=1))
    first = measured[rows].argmax(axis=1).astype(np.float64)
    last = width - measured[rows, ::-1].argmax(axis=1).astype(np.float64)
    left, right = first > 1, last < width - 1
    return (
        _vote(rows[left] + 0.5, first[left], -_SLOPES) if left.sum() >= 8 else None,
        _vote(rows[right] + 0.5, last[right], _SLOPES) if right.sum() >= 8 else None,
    )


def _vote(rows: NDArray, columns: NDArray, slopes: NDArray) -> Side:
    """The line column = offset + slope x row through most of the points, then through the mean of those near it."""
    offsets = columns[None] - slopes[:, None] * rows[None]
    bins = np.rint(offsets / 2).astype(np.int64)
    low = bins.min()
    span = int(bins.max() - low) + 2
    index = (bins - low) + span * np.arange(slopes.size)[:, None]
    votes = np.bincount(index.ravel(), minlength=span * slopes.size).reshape(slopes.size, span).astype(np.float64)
    votes[:, :-1] += votes[:, 1:]
    slope, offset = np.unravel_index(int(votes.argmax()), votes.shape)
    near = np.abs(columns - slopes[slope] * rows - 2 * (offset + low + 0.5)) < 4
    if near.sum() < 4 or np.ptp(rows[near]) < 4:
        return float(slopes[slope]), float(2 * (offset + low + 0.5))
    fitted = np.polyfit(rows[near], columns[near], 1)
    return float(fitted[0]), float(fitted[1])
