"""Planes through a volume that no stored axis gives: turned about the depth axis, or tilted and parallel.

A volume is (z, y, x) in numpy order, its axes 0, 1 and 2; in a stack of ultrasound images y is the depth. Angles are in
degrees, and hold in physical space: the spacing of the volume is honoured, its place in the room plays no part.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from sonodistill.errors import UnsupportedFormatError

FORMS = ("rotational:N", "oblique:TILT", "oblique:TILT,TURN")

_NUMBER = r"[+-]?\d{1,3}(?:\.\d{1,6})?"
_ROTATIONAL = re.compile(r"rotational:(\d{1,4})")
_OBLIQUE = re.compile(rf"oblique:({_NUMBER})(?:,({_NUMBER}))?")
_MAX_PLANES, _MAX_SIDE = 3600, 16384
# What a length may lack of a whole number of pixels by the rounding of spacings.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Plane:
    """A plane in voxel index units, (z, y, x): pixel (r, c) shows ``origin + r * row_step + c * column_step``."""

    origin: NDArray[np.float64]
    row_step: NDArray[np.float64]
    column_step: NDArray[np.float64]

    def as_json(self) -> dict[str, list[float]]:
        return {
            "origin": self.origin.tolist(),
            "row_step": self.row_step.tolist(),
            "column_step": self.column_step.tolist(),
        }


@dataclass(frozen=True, slots=True)
class Cut:
    """Planes of one size, centred on the volume, with square pixels as wide as its smallest spacing.

    Attributes:
        name: the specification, such as "rotational:8".
        shape: (rows, columns) of every plane.
        pixel: width of a pixel, in the unit of the volume's spacing.
        poses: for each plane its rotation, whose columns are where axes 0, 1 and 2 turn to (the plane's normal, rows
            and columns), and its distance from the centre along its normal.
        centre: voxel index of the centre.
        spacing: of the volume's axes.
    """

    name: str
    shape: tuple[int, int]
    pixel: float
    poses: list[tuple[NDArray[np.float64], float]]
    centre: NDArray[np.float64]
    spacing: NDArray[np.float64]

    def plane(self, index: int) -> Plane:
        rotation, distance = self.poses[index]
        normal, down, right = (rotation[:, axis] / self.spacing for axis in range(3))
        rows, columns = ((count - 1) / 2 * self.pixel for count in self.shape)
        origin = self.centre + distance * normal - rows * down - columns * right
        return Plane(origin, self.pixel * down, self.pixel * right)


def is_cut(axis: str | int | None) -> bool:
    """Whether ``axis`` is meant as a cut, well-formed or not, rather than as an axis of the volume."""
    return isinstance(axis, str) and axis.startswith(("rotational", "oblique"))


def cut_of(spec: str, shape: tuple[int, ...], spacing: tuple[float, ...], path: Path) -> Cut:
    """The planes of ``spec`` through a volume.

    - ``rotational:N``: N planes that hold the line through the centre along axis 1, at k * 180 / N degrees. Plane 0 is
      the central slice across axis 0. The columns are as many as the widest of the planes needs.
    - ``oblique:TILT[,TURN]``: parallel planes. Their normal is axis 0, tilted by TILT about axis 2 (towards axis 1) and
      then turned by TURN about axis 1; they are one pixel apart and cover the volume, corners included.
      ``oblique:0`` is the slices across axis 0.

    Args:
        spec: one of ``FORMS``.
        shape: of the volume, (z, y, x).
        spacing: of its axes.
        path: for the messages.

    Errors: UnsupportedFormatError for a malformed specification, a volume that has no depth along some axis or an
        impossible spacing, and planes of more pixels than an image has.
    """
    if min(shape) < 2 or not all(math.isfinite(value) and value > 0 for value in spacing):
        raise UnsupportedFormatError(
            f"{spec} is not possible in a volume of {' x '.join(map(str, shape))} voxels, "
            f"{' x '.join(f'{value:g}' for value in spacing)} apart",
            path=path,
            remedy="cut it along axis 0, 1 or 2",
        )
    mm = np.asarray(spacing, dtype=np.float64)
    centre = (np.asarray(shape) - 1) / 2
    half, pixel = centre * mm, float(mm.min())
    if match := _ROTATIONAL.fullmatch(spec):
        planes = int(match[1])
        if not 1 <= planes <= _MAX_PLANES:
            raise _malformed(spec, path)
        turns = [math.radians(180 * number / planes) for number in range(planes)]
        poses = [(_rotation(0, turn), 0.0) for turn in turns]
        down, across = half[1], max(_half_chord(half[0], half[2], turn) for turn in turns)
    elif match := _OBLIQUE.fullmatch(spec):
        rotation = _rotation(*(math.radians(float(angle or 0)) for angle in match.groups()))
        # How far the volume reaches from its centre along the normal, the rows and the columns.
        depth, down, across = np.abs(rotation.T) @ half
        planes = _count(depth, pixel)
        poses = [(rotation, (number - (planes - 1) / 2) * pixel) for number in range(planes)]
    else:
        raise _malformed(spec, path)
    size = _count(down, pixel), _count(across, pixel)
    if max(*size, len(poses)) > _MAX_SIDE:
        raise UnsupportedFormatError(
            f"{spec} at the volume's smallest spacing gives {len(poses)} planes of {size[0]} x {size[1]} pixels",
            path=path,
            remedy="resample the volume to a coarser spacing",
        )
    return Cut(spec, size, pixel, poses, centre, mm)


def sample(image: sitk.Image, plane: Plane, shape: tuple[int, int], outside: float) -> NDArray[np.float32]:
    """(rows, columns) float32 of a one-component volume, by linear interpolation; ``outside`` where there is none.

    A voxel fills half a step around its centre, and the volume ends where its outermost voxels do.

    Args:
        image: the volume with origin 0, spacing 1 and no direction, so that positions are voxel indices; see ``bare``.
    """
    # ITK counts (x, y, z), and walks over (column, row, 0). The third step is not used, but the matrix must have one.
    steps = np.stack([plane.column_step, plane.row_step, np.cross(plane.row_step, plane.column_step)], axis=1)[::-1]
    transform = sitk.AffineTransform(steps.ravel().tolist(), plane.origin[::-1].tolist())
    flat = sitk.Resample(
        image, [shape[1], shape[0], 1], transform, sitk.sitkLinear, [0.0] * 3, [1.0] * 3, [], outside, sitk.sitkFloat32
    )
    return sitk.GetArrayFromImage(flat)[0]


def bare(image: sitk.Image) -> sitk.Image:
    """The same voxels, placed in the room by their indices alone; ``image`` itself is changed."""
    image.SetOrigin([0.0] * 3)
    image.SetSpacing([1.0] * 3)
    image.SetDirection(np.eye(3).ravel().tolist())
    return image


def _rotation(tilt: float, turn: float) -> NDArray[np.float64]:
    """(3, 3), in (z, y, x): axis 0 tilted towards axis 1 by ``tilt``, then axis 2 turned towards axis 0 by ``turn``."""
    tilted = np.array([[math.cos(tilt), -math.sin(tilt), 0], [math.sin(tilt), math.cos(tilt), 0], [0, 0, 1]])
    turned = np.array([[math.cos(turn), 0, math.sin(turn)], [0, 1, 0], [-math.sin(turn), 0, math.cos(turn)]])
    return turned @ tilted


def _half_chord(half_height: float, half_width: float, turn: float) -> float:
    """From the centre of a rectangle to its edge, at the angle ``turn`` to its width."""
    along, up = abs(math.cos(turn)), abs(math.sin(turn))
    return min(half_width / along if along > _ROUNDING else math.inf, half_height / up if up > _ROUNDING else math.inf)


def _count(half: float, pixel: float) -> int:
    """Pixels, centred, whose centres lie within ``half`` of the middle."""
    return math.floor(2 * half / pixel + _ROUNDING) + 1


def _malformed(spec: str, path: Path) -> UnsupportedFormatError:
    return UnsupportedFormatError(
        f"axis {spec!r} does not exist",
        path=path,
        remedy=f"use {', '.join(FORMS)} with N from 1 to {_MAX_PLANES} and angles in degrees, such as rotational:8 or "
        "oblique:30,-15",
    )
