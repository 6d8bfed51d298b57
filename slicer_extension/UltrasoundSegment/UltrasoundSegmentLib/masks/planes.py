"""How the planes of a sweep lie: in parallel or about an axis, and which two of them a point lies between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.errors import SegmentError

MAX_TURN = np.radians(60.0)
"""Between two labelled planes of a rotation: across more nothing is filled in."""

_PARALLEL = 1e-4
_ON_AXIS_MM = 0.05


@dataclass(frozen=True)
class Bracket:
    """The two planes about each of N points.

    Attributes:
        first, second: (N,) of the planes, as counted among those labelled.
        at_first, at_second: (3, N) RAS of the point on (or over) each plane that is meant.
        share: (N,) of the second, 0 on the first plane and 1 on the second.
        inside: (N,) whether the point lies between them at all.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    at_first: NDArray[np.float64]
    at_second: NDArray[np.float64]
    share: NDArray[np.float64]
    inside: NDArray[np.bool_]


class Planes(Protocol):
    """The labelled planes of a sweep."""

    spacing: tuple[float, float]
    """(row, column) mm."""

    def bracket(self, ras: NDArray[np.float64]) -> Bracket:
        """The planes about points (3, N)."""
        ...

    def pixel(self, index: NDArray[np.int64], ras: NDArray[np.float64]) -> NDArray[np.float64]:
        """(2, N) pixel (x, y) of points on planes."""
        ...

    def reach(self, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
        """(3, M) corners of what the pixels of a box can fill."""
        ...


def arranged(matrices: NDArray[np.float64], used: list[int]) -> Planes:
    """The planes ``used`` of a sweep.

    Args:
        matrices: (N, 4, 4) IJK to RAS of all of its planes.
        used: those that are labelled.

    Errors: SegmentError where they neither are parallel nor turn about one axis.
    """
    normals = np.cross(matrices[:, :3, 0], matrices[:, :3, 1])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    if np.abs(np.abs(normals @ normals[0]) - 1).max() < _PARALLEL**2 or len(matrices) == 1:
        return _Parallel(matrices, used, normals[0])
    return _Turning(matrices, used, normals)


class _Base:
    def __init__(self, matrices: NDArray[np.float64]) -> None:
        self._matrices = matrices
        column, row = np.linalg.norm(matrices[0, :3, :2], axis=0)
        self.spacing = float(row), float(column)
        # Least squares: the pixel below or above a point is the one that it is projected on.
        self._inverse = np.linalg.pinv(matrices[:, :3, :2])

    def pixel(self, index: NDArray[np.int64], ras: NDArray[np.float64]) -> NDArray[np.float64]:
        offset = ras - self._matrices[index, :3, 3].T
        return np.einsum("nij,jn->in", self._inverse[index], offset)

    def corners(self, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
        """(3, 4 N) of the pixels' edges of a box on each plane."""
        x0, y0, x1, y1 = box
        ij = np.array([[x, y] for x in (x0 - 0.5, x1 - 0.5) for y in (y0 - 0.5, y1 - 0.5)])
        found = np.einsum("nij,mj->nmi", self._matrices[:, :3, :2], ij) + self._matrices[:, np.newaxis, :3, 3]
        return found.reshape(-1, 3).T


class _Parallel(_Base):
    def __init__(self, matrices: NDArray[np.float64], used: list[int], normal: NDArray[np.float64]) -> None:
        places = matrices[:, :3, 3] @ normal
        steps = np.diff(np.sort(places))
        steps = steps[steps > 1e-6]
        thickness = float(np.linalg.norm(matrices[0, :3, 2]))
        self._half = float(np.median(steps)) / 2 if steps.size else thickness / 2
        order = np.argsort(places[used], kind="stable")
        self._order, self._places, self._normal = order, places[used][order], normal
        super().__init__(matrices[used])

    def bracket(self, ras: NDArray[np.float64]) -> Bracket:
        place = self._normal @ ras
        after = np.clip(np.searchsorted(self._places, place), 1, max(len(self._places) - 1, 1))
        first, second = after - 1, np.minimum(after, len(self._places) - 1)
        gap = self._places[second] - self._places[first]
        share = np.clip((place - self._places[first]) / np.where(gap > 0, gap, 1), 0, 1)
        inside = (place >= self._places[0] - self._half) & (place < self._places[-1] + self._half)
        return Bracket(self._order[first], self._order[second], ras, ras, share, inside)

    def reach(self, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
        corners, way = self.corners(box), self._half * self._normal[:, np.newaxis]
        return np.hstack([corners - way, corners + way])


class _Turning(_Base):
    """Each plane is two half-planes at the axis, each at an angle of its own."""

    def __init__(self, matrices: NDArray[np.float64], used: list[int], normals: NDArray[np.float64]) -> None:
        _, _, rows = np.linalg.svd(normals)
        self._axis = rows[2]
        places = np.einsum("ni,ni->n", normals, matrices[:, :3, 3])
        self._point = np.linalg.lstsq(normals, places, rcond=None)[0]
        tilt = np.abs(normals @ self._axis).max()
        off = np.abs(normals @ self._point - places).max()
        if tilt > 1e-3 or off > _ON_AXIS_MM:
            raise SegmentError(
                "The frames neither are parallel nor turn about one axis, so that no volume can be made of them: "
                "sweep the volume, and segment that."
            )
        radial = np.cross(self._axis, normals)
        self._u, self._v = radial[0], np.cross(self._axis, radial[0])
        angles = np.arctan2(radial @ self._v, radial @ self._u)
        self._half = _step(angles) / 2
        radial = radial[used]
        angles = np.concatenate([angles[used], angles[used] + np.pi]) % (2 * np.pi)
        order = np.argsort(angles, kind="stable")
        self._angles = angles[order]
        self._plane = np.tile(np.arange(len(used)), 2)[order]
        self._direction = np.concatenate([radial, -radial])[order]
        super().__init__(matrices[used])

    def bracket(self, ras: NDArray[np.float64]) -> Bracket:
        offset = ras - self._point[:, np.newaxis]
        height, x, y = self._axis @ offset, self._u @ offset, self._v @ offset
        angle, radius = np.arctan2(y, x) % (2 * np.pi), np.hypot(x, y)
        count = len(self._angles)
        second = np.searchsorted(self._angles, angle, side="right") % count
        first = (second - 1) % count
        gap = (self._angles[second] - self._angles[first]) % (2 * np.pi)
        gone = (angle - self._angles[first]) % (2 * np.pi)
        wide = gap > MAX_TURN
        share = np.where(wide, gone > gap / 2, gone / np.where(gap > 0, gap, 1))
        inside = ~wide | (np.minimum(gone, gap - gone) <= self._half)
        return Bracket(
            self._plane[first],
            self._plane[second],
            self._on(first, height, radius),
            self._on(second, height, radius),
            share,
            inside,
        )

    def _on(self, half: NDArray[np.int64], height: NDArray, radius: NDArray) -> NDArray[np.float64]:
        """(3, N) of points turned onto half-planes."""
        return self._point[:, np.newaxis] + self._axis[:, np.newaxis] * height + self._direction[half].T * radius

    def reach(self, box: tuple[int, int, int, int]) -> NDArray[np.float64]:
        offset = self.corners(box) - self._point[:, np.newaxis]
        height = self._axis @ offset
        radius = np.sqrt(np.maximum((offset**2).sum(axis=0) - height**2, 0)).max()
        square = [a * self._u + b * self._v for a in (-radius, radius) for b in (-radius, radius)]
        ends = [height.min() * self._axis, height.max() * self._axis]
        return np.stack([self._point + side + end for side in square for end in ends], axis=1)


def _step(angles: NDArray[np.float64]) -> float:
    """Median turn between neighbouring planes, in radians."""
    steps = np.diff(np.sort(angles % np.pi))
    steps = steps[steps > 1e-6]
    return float(np.median(steps)) if steps.size else float(np.radians(1.0))
