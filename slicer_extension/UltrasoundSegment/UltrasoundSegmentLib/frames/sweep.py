"""A volume as a cine: its slices, oblique planes or planes round an axis, each in its exact place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import Facts, Source, build
from UltrasoundSegmentLib.frames.calibration import GEOMETRY, is_default
from UltrasoundSegmentLib.frames.cine import PREFIX, Cine
from UltrasoundSegmentLib.frames.planes import (
    AXES,
    corners,
    finest,
    plane,
    resliced,
    right_handed,
    stored_slices,
    unit,
)
from UltrasoundSegmentLib.frames.world import ijk_to_world

VOLUME = PREFIX + "volume"
"""Role of the node reference from the images of a sweep to the volume that was swept."""

_MOST_FRAMES = 4096
_MOST_SIDE = 4096


@dataclass(frozen=True)
class SweepPlan:
    """Which planes of a volume become frames. Made by ``axis``, ``oblique`` or ``rotational``.

    Attributes:
        kind: "axial", "sagittal", "coronal", "oblique" or "rotational".
        frame_to_ras: (4, 4) nested tuples, world RAS; right, down and normal directions of the first plane and the
            point it turns or moves about. Not used by the stored slices.
        count: frames; None: as many as cover the volume.
        step: mm from frame to frame (oblique), or degrees (rotational).
        size: (W, H) pixels, None: as many as cover the volume.
        spacing_mm: (row, column), None: the smallest of the volume.
    """

    kind: str
    frame_to_ras: tuple[tuple[float, ...], ...] = ()
    count: int | None = None
    step: float | None = None
    size: tuple[int, int] | None = None
    spacing_mm: tuple[float, float] | None = None

    @classmethod
    def axis(cls, name: str) -> SweepPlan:
        """The slices the volume stores that are nearest to "axial", "sagittal" or "coronal", voxel for voxel."""
        if name not in AXES:
            raise SegmentError(f"There is no “{name}” sweep: choose axial, sagittal or coronal.")
        return cls(name)

    @classmethod
    def oblique(
        cls,
        plane_to_ras: NDArray[np.float64],
        count: int | None = None,
        step_mm: float | None = None,
        size: tuple[int, int] | None = None,
        spacing_mm: float | tuple[float, float] | None = None,
    ) -> SweepPlan:
        """Parallel planes along the normal of one.

        Args:
            plane_to_ras: (4, 4) like SliceToRAS of a slice view: x to the right, y up, z the normal, in world RAS; its
                origin is the centre of the middle frame. The frames look as the slice view does.
            count, step_mm: frames, and mm between them.
            size: (W, H) pixels of a frame.
            spacing_mm: mm per pixel, or (row, column).
        """
        given = np.asarray(plane_to_ras, dtype=float)
        if given.shape != (4, 4) or not np.isfinite(given).all():
            raise SegmentError("The plane is no 4 x 4 matrix of numbers.")
        right = unit(given[:3, 0], "The plane")
        down = -unit(given[:3, 1], "The plane")
        normal = unit(given[:3, 2], "The plane")
        if abs(right @ down) > 1e-6 or abs(right @ normal) > 1e-6 or abs(down @ normal) > 1e-6:
            raise SegmentError("The axes of the plane are not at right angles: take SliceToRAS of a slice view.")
        return cls("oblique", _nested(right, down, normal, given[:3, 3]), count, step_mm, size, _pair(spacing_mm))

    @classmethod
    def rotational(
        cls,
        point: tuple[float, float, float],
        direction: tuple[float, float, float],
        count: int,
        *,
        angle_deg: float = 180.0,
        start: tuple[float, float, float] | None = None,
        size: tuple[int, int] | None = None,
        spacing_mm: float | tuple[float, float] | None = None,
    ) -> SweepPlan:
        """Planes through an axis, turned about it by ``angle_deg / count`` each, as a rotating probe takes them.

        Args:
            point: world RAS, mm, on the axis: the centre of every frame.
            direction: of the axis, which runs down the middle of every frame, from the top to the bottom.
            angle_deg: that ``count`` frames cover; at 180 the plane after the last would be the first, mirrored.
            start: direction of the columns of the first frame; made perpendicular to the axis.
            size, spacing_mm: as in ``oblique``.
        """
        down = unit(direction, "The axis")
        centre = np.asarray(point, dtype=float)
        if centre.shape != (3,) or not np.isfinite(centre).all():
            raise SegmentError("The point of the axis is no three numbers.")
        if not (math.isfinite(angle_deg) and angle_deg != 0):
            raise SegmentError(f"Planes cannot be spread over {angle_deg} degrees.")
        wanted = unit(start, "The first frame") if start is not None else np.eye(3)[int(np.argmin(np.abs(down)))]
        right = unit(wanted - (wanted @ down) * down, "The first frame, which is along the axis,")
        normal = np.cross(right, down)
        turn = angle_deg / max(count, 1)
        return cls("rotational", _nested(right, down, normal, centre), count, turn, size, _pair(spacing_mm))


def sweep(volume: slicer.vtkMRMLVolumeNode, plan: SweepPlan, scene: slicer.vtkMRMLScene | None = None) -> Cine:
    """The planes of a volume as a cine, in world RAS where the volume is now.

    A volume under a linear transform is swept where the transform puts it. Deep values keep their type; the range of
    the whole volume becomes 0 to 255 in ``Cine.frame``.

    Errors: NoPixelsError, NoLinearTransformError; SegmentError for a plan that has no frames or too many.
    """
    return build(scene or volume.GetScene(), sweep_source(volume, plan))


def sweep_source(volume: slicer.vtkMRMLVolumeNode, plan: SweepPlan) -> Source:
    """As ``sweep``, without a new cine: frames are cut as they are taken, which ``build_on_worker`` does elsewhere.

    It keeps the voxels of now; where they are changed in place meanwhile, frames may show the change.
    """
    data, world = volume.GetImageData(), ijk_to_world(volume)
    if plan.kind in AXES:
        stored = stored_slices(volume, plan.kind)
        slices, count = iter(stored), len(stored)
    else:
        places, size = _places(volume, plan)
        slices, count = ((resliced(data, world, place, size), place) for place in places), len(places)
    low, high = data.GetScalarRange()
    facts = Facts(
        source=GEOMETRY,
        scale_warnings=_doubts(volume),
        attributes={
            "kind": "sweep",
            "sweep": json.dumps(_described(plan)),
            "range": f"{low!r} {high!r}",
            "ijk_to_world": json.dumps(world.tolist()),
        },
        references={VOLUME: volume.GetID()} if volume.GetID() else {},
    )
    return Source(f"{volume.GetName()} {plan.kind}", slices, None, facts, count)


def swept_volume(cine: Cine) -> slicer.vtkMRMLVolumeNode | None:
    """The volume a cine was swept from, None where it was not, or where the volume is gone."""
    return cine.images.GetNodeReference(VOLUME)


def swept_geometry(cine: Cine) -> NDArray[np.float64] | None:
    """(4, 4) IJK to world RAS of the volume when it was swept; the frames stay there when it is moved later."""
    stored = cine.attribute("ijk_to_world")
    return np.array(json.loads(stored)) if stored else None


def _places(volume: slicer.vtkMRMLVolumeNode, plan: SweepPlan) -> tuple[list[NDArray[np.float64]], tuple[int, int]]:
    frame = np.array(plan.frame_to_ras)
    spacing = plan.spacing_mm or (finest(volume),) * 2
    if not all(math.isfinite(mm) and mm > 0 for mm in spacing):
        raise SegmentError(f"A spacing of {spacing[0]:g} x {spacing[1]:g} mm makes no frame: give more than 0.")
    # (8, 3) right, down, normal of the corners of the volume, seen from the plane.
    seen = (corners(volume) - frame[:3, 3]) @ frame[:3, :3]
    step, count = plan.step, plan.count
    if plan.kind == "oblique":
        step = finest(volume) if step is None else float(step)
        if not (math.isfinite(step) and step > 0):
            raise SegmentError(f"A step of {step:g} mm makes no sweep: give more than 0.")
        reach = float(np.abs(seen[:, 2]).max())
        count = 2 * math.floor(reach / step) + 1 if count is None else count
    if count is None or not 1 <= count <= _MOST_FRAMES:
        raise SegmentError(f"A sweep of {count} frames cannot be made: between 1 and {_MOST_FRAMES} can.")
    if plan.size is not None:
        size = int(plan.size[0]), int(plan.size[1])
    else:
        across = np.abs(seen[:, 0]) if plan.kind == "oblique" else np.hypot(seen[:, 0], seen[:, 2])
        size = (
            2 * math.ceil(float(across.max()) / spacing[1]) + 1,
            2 * math.ceil(float(np.abs(seen[:, 1]).max()) / spacing[0]) + 1,
        )
    if not all(1 <= side <= _MOST_SIDE for side in size):
        raise SegmentError(f"Frames of {size[0]} x {size[1]} pixels cannot be made: set size or spacing.")
    right, down, normal, centre = frame[:3, 0], frame[:3, 1], frame[:3, 2], frame[:3, 3]
    places = []
    for number in range(count):
        if plan.kind == "oblique":
            at, along = centre + normal * step * (number - (count - 1) / 2), right
        else:
            turn = math.radians(step or 0.0) * number
            at, along = centre, right * math.cos(turn) + normal * math.sin(turn)
        thick = step if plan.kind == "oblique" and step else min(spacing)
        places.append(right_handed(plane(at, along, down, size, spacing, thick)))
    return places, size


def _doubts(volume: slicer.vtkMRMLVolumeNode) -> list[str]:
    if is_default(volume.GetSpacing()):
        return ["The voxels are 1 mm along every axis, as in a file that states no scale: check a known distance."]
    return []


def _described(plan: SweepPlan) -> dict[str, Any]:
    return {
        "kind": plan.kind,
        "frame_to_ras": plan.frame_to_ras,
        "count": plan.count,
        "step": plan.step,
        "size": plan.size,
        "spacing_mm": plan.spacing_mm,
    }


def _nested(right: NDArray, down: NDArray, normal: NDArray, origin: NDArray) -> tuple[tuple[float, ...], ...]:
    rows = np.column_stack([right, down, normal, origin])
    return (*(tuple(map(float, row)) for row in rows), (0.0, 0.0, 0.0, 1.0))


def _pair(spacing_mm: float | tuple[float, float] | None) -> tuple[float, float] | None:
    if spacing_mm is None:
        return None
    both = (spacing_mm, spacing_mm) if isinstance(spacing_mm, (int, float)) else spacing_mm
    return float(both[0]), float(both[1])
