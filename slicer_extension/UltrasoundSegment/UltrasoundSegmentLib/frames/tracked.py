"""Tracked sequences of PLUS as a cine: each frame where the tracker saw the probe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import Facts, Source, build
from UltrasoundSegmentLib.frames.calibration import GEOMETRY, NONE
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.dicom_cine import upright
from UltrasoundSegmentLib.frames.igs import SequenceFile, read_sequence
from UltrasoundSegmentLib.frames.planes import right_handed

_TRANSFORM = re.compile(r"(\w+?)To(\w+)Transform$")
_IMAGE = "Image"
_TARGETS = ("Ras", "World", "Reference", "Tracker")


class TrackingError(SegmentError):
    """The frames of a sequence cannot be placed as asked."""


def load_tracked(
    path: str | Path,
    scene: slicer.vtkMRMLScene | None = None,
    *,
    image_to_probe: NDArray[np.float64] | None = None,
    target: str | None = None,
) -> Cine:
    """A sequence file of PLUS (.igs.mha, .igs.nrrd) as a cine, its frames where they were in space.

    A chain of the transforms that are valid for a frame leads from its pixels to ``target``. Frames without one are
    left out, with a warning. Files hold no place of the image on the probe as a rule: without it the scale is
    unknown, and positions are those of the probe with a pixel for a millimetre, until a ruler is drawn. A sequence
    without transforms is a cine as from a video. Rows that were stored from the far end are turned: the probe is on
    top.

    Args:
        image_to_probe: (4, 4) from pixels (i, j, k) of the image as stored to mm of the probe, from a calibration.
        target: the coordinate system that becomes RAS; by default the first there is of Ras, World, Reference, Tracker.

    Errors: SequenceFileError; TrackingError where no frame can be placed in ``target``, or the matrix is no place.
    """
    return build(scene, decode_tracked(path, image_to_probe=image_to_probe, target=target))


def decode_tracked(
    path: str | Path, *, image_to_probe: NDArray[np.float64] | None = None, target: str | None = None
) -> Source:
    """As ``load_tracked``, without a scene."""
    path = Path(path)
    file = read_sequence(path)
    count, rows, _ = file.images.shape[:3]
    edges = [_edges(fields, image_to_probe) for fields in file.frames]
    calibrated = any(_IMAGE in pair for each in edges for pair in each)
    if not calibrated:
        for each in edges:
            if any("Probe" in pair for pair in each):
                each[_IMAGE, "Probe"] = np.eye(4)
    target = target or _target(edges)
    warnings: list[str] = []
    if target is None:
        places = [_flat(file) for _ in range(count)]
        kept = [number for number in range(count) if file.frames[number].get("ImageStatus", "OK") == "OK"]
        if count > 1:
            warnings.append("The file has no place of its frames in space: they lie over each other.")
        source = GEOMETRY if file.spacing != (1.0, 1.0) else NONE
    else:
        found = [_chain(each, target) for each in edges]
        kept = [n for n in range(count) if found[n] is not None and file.frames[n].get("ImageStatus", "OK") == "OK"]
        places = [np.eye(4) if place is None else place for place in found]
        source = GEOMETRY if calibrated else NONE
    if not kept:
        raise TrackingError(f"No frame of “{path.name}” has valid transforms from its image to {target or 'space'}.")
    if len(kept) < count:
        gone = [str(number + 1) for number in range(count) if number not in kept]
        shown = ", ".join(gone[:8]) + (" ..." if len(gone) > 8 else "")
        warnings.append(f"{len(gone)} of {count} frames have no valid place and are left out: {shown}.")
    turn = _upside_down(file)
    images, flip = file.images[:, ::-1] if turn else file.images, np.eye(4)
    if turn:
        flip[1, 1], flip[1, 3] = -1, rows - 1
    facts = Facts(
        source=source,
        time_source="tracker timestamps",
        warnings=warnings,
        scale_warnings=[] if source == GEOMETRY else [_unscaled(target)],
        attributes={
            "kind": "tracked",
            "file": str(path.resolve()),
            **({"target": target} if target else {}),
        },
    )
    slices = ((images[number], right_handed(places[number] @ flip)) for number in kept)
    times = _times([file.frames[number] for number in kept])
    name = path.name.split(".")[0] or path.name
    return Source(name, slices, times, facts, len(kept))


def _edges(
    fields: dict[str, str], image_to_probe: NDArray[np.float64] | None
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """The valid transforms of a frame by (from, to)."""
    edges = {}
    for name, value in fields.items():
        pair = _TRANSFORM.match(name)
        if pair is None or fields.get(f"{name}Status", "OK") != "OK":
            continue
        try:
            matrix = np.array([float(number) for number in value.split()]).reshape(4, 4)
        except ValueError:
            continue
        if np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-12:
            edges[pair[1], pair[2]] = matrix
    if image_to_probe is not None:
        given = np.asarray(image_to_probe, dtype=float)
        if given.shape != (4, 4) or not np.isfinite(given).all() or abs(np.linalg.det(given)) < 1e-12:
            raise TrackingError("The matrix from image to probe is no invertible 4 x 4 matrix.")
        edges[_IMAGE, "Probe"] = given
    return edges


def _target(edges: list[dict[tuple[str, str], NDArray[np.float64]]]) -> str | None:
    """The first coordinate system, of those that become RAS, that any frame leads to."""
    for name in _TARGETS:
        if any(_chain(each, name) is not None for each in edges):
            return name
    return None


def _chain(edges: dict[tuple[str, str], NDArray[np.float64]], target: str) -> NDArray[np.float64] | None:
    """(4, 4) from the image to the target by the fewest transforms, None where they do not lead there."""
    reached, waiting = {_IMAGE: np.eye(4)}, [_IMAGE]
    while waiting:
        here = waiting.pop(0)
        if here == target:
            return reached[here]
        for (start, end), matrix in edges.items():
            if start == here and end not in reached:
                reached[end] = matrix @ reached[here]
                waiting.append(end)
            elif end == here and start not in reached:
                reached[start] = np.linalg.inv(matrix) @ reached[here]
                waiting.append(start)
    return None


def _flat(file: SequenceFile) -> NDArray[np.float64]:
    column, row = file.spacing
    return upright((row, column))


def _upside_down(file: SequenceFile) -> bool:
    """Whether rows go from far to near: the second letter of the orientation (MF, MN, UF, UN and an elevation)."""
    return file.fields.get("ultrasoundimageorientation", "")[1:2].upper() == "N"


def _unscaled(target: str | None) -> str:
    if target is None:
        return "The file states no scale: draw a ruler over a known distance."
    return (
        "The file does not say where the image lies on the probe: scale and place are unknown, directions are the "
        "probe's. Give its matrix from image to probe, or draw a ruler for the scale."
    )


def _times(frames: list[dict[str, str]]) -> list[float] | None:
    try:
        stamps = [float(fields["Timestamp"]) for fields in frames]
    except (KeyError, ValueError):
        return None
    return [stamp - stamps[0] for stamp in stamps] if all(map(np.isfinite, stamps)) else None
