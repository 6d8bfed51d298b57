"""Millimetres and seconds of a cine with where they were read, and a drawn ruler for what no file says."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from UltrasoundSegmentLib.errors import SegmentError

if TYPE_CHECKING:
    from UltrasoundSegmentLib.frames.cine import Cine

NONE = "none"
REGION = "DICOM region"
PIXEL_SPACING = "DICOM pixel spacing"
GEOMETRY = "volume geometry"
RULER = "ruler"
SEQUENCE_INDEX = "sequence index"

_DEFAULT_MM = 1.0
# A ruler shorter than this cannot give a scale within 10 %.
_SHORTEST_PX = 10.0
# How far its ends may lie beside the frame, in pixels.
_BESIDE_PX = 1.0
_PLAUSIBLE_MM = (0.001, 10.0)


class RulerError(SegmentError):
    """A ruler gives no scale; says why."""


@dataclass(frozen=True)
class Calibration:
    """Scale and frame time of a cine.

    Attributes:
        spacing_mm: (row, column) spacing in millimetres, None where unknown. It is never guessed.
        source: "DICOM region", "DICOM pixel spacing", "volume geometry", "ruler" or "none".
        frame_time_s: median seconds between frames, None where unknown.
        time_source: "FrameTime", "FrameTimeVector", "sequence index", "video timestamps", "tracker timestamps" or
            "none"; also "CineRate" and "RecommendedDisplayFrameRate".
        warnings: what a person should know before measuring.
    """

    spacing_mm: tuple[float, float] | None
    source: str
    frame_time_s: float | None
    time_source: str
    warnings: tuple[str, ...] = ()


def of_cine(cine: Cine) -> Calibration:
    """What is known of a cine: as its reader recorded it, else as its volumes and its index tell.

    A cine that something else loaded and whose pixels are exactly 1 mm has no known scale: 1 mm is what 3D Slicer takes
    where a file says nothing.
    """
    warnings: list[str] = json.loads(cine.attribute("warnings") or "[]")
    spacing, source = _spacing(cine, warnings)
    step, time_source = _time(cine, warnings)
    return Calibration(spacing, source, step, time_source, tuple(warnings))


def record(
    cine: Cine, source: str, time_source: str, warnings: Sequence[str] = (), scale_warnings: Sequence[str] = ()
) -> None:
    """Keep with the cine where its scale and its times were read; ``source`` "none" marks its spacing as unknown.

    ``scale_warnings`` say why the scale is unknown or doubtful: a ruler settles them.
    """
    cine.set_attribute("spacing_source", source)
    cine.set_attribute("time_source", time_source)
    cine.set_attribute("warnings", json.dumps(list(warnings)) if warnings else None)
    cine.set_attribute("scale_warnings", json.dumps(list(scale_warnings)) if scale_warnings else None)


def is_default(spacing_mm: tuple[float, ...]) -> bool:
    """Whether the pixels are 1 mm, as 3D Slicer takes where a file says nothing; saving it changes the last digits."""
    return all(math.isclose(mm, _DEFAULT_MM, rel_tol=1e-6) for mm in spacing_mm)


def set_spacing(cine: Cine, spacings_mm: Sequence[tuple[float, float]]) -> None:
    """Give every volume, and the one on display, (row, column) mm per pixel: one pair for each, or one for all.

    The place of the first pixel and the directions stay, and so does the thickness.
    """
    pairs = list(spacings_mm) * (cine.count if len(spacings_mm) == 1 else 1)
    for index, (row, column) in enumerate(pairs):
        volume = cine.volume(index)
        volume.SetSpacing(float(column), float(row), volume.GetSpacing()[2])
    cine.refresh()


def with_ruler(ruler: Any, length_mm: float, cine: Cine) -> Calibration:
    """The scale of a cine from a distance that a person knows; ``clear_ruler`` takes it back.

    All frames get it. Rows and columns keep their proportion: pixels of unknown scale are taken as square.

    Args:
        ruler: a vtkMRMLMarkupsLineNode drawn on the frame on display, or its two ends in world RAS.
        length_mm: what it measures.

    Errors: RulerError where the ruler has not two ends, is no longer than 10 pixels or lies beside the frame, where
    the pixels would be of a size no scanner makes, or where the frames are planes of a volume, whose scale they have.
    """
    if cine.attribute("kind") == "sweep":
        raise RulerError("These frames are planes of a volume and have its scale: correct the spacing of that.")
    if not (math.isfinite(length_mm) and length_mm > 0):
        raise RulerError(f"A ruler of {length_mm:g} mm measures nothing: give its length in millimetres.")
    ends = _ends(ruler)
    place = cine.ijk_to_world(cine.selected)
    first, second = (np.linalg.solve(place, [*end, 1.0])[:3] for end in ends)
    side = np.linalg.norm(place[:3, :3], axis=0)
    if max(abs(first[2]), abs(second[2])) * side[2] > _BESIDE_PX * max(side[0], side[1]):
        raise RulerError("The ruler lies beside the frame on display: draw it on the frame.")
    across = second[:2] - first[:2]
    pixels = float(np.hypot(*across))
    if pixels < _SHORTEST_PX:
        raise RulerError(f"The ruler is {pixels:.1f} pixels long: draw it over {_SHORTEST_PX:g} or more.")
    factor = length_mm / float(np.linalg.norm(place[:3, :2] @ across))
    before = [_row_column(cine, index) for index in range(cine.count)]
    after = [(row * factor, column * factor) for row, column in before]
    low, high = _PLAUSIBLE_MM
    if not all(low <= mm <= high for pair in after for mm in pair):
        raise RulerError(f"Pixels would be {after[0][0]:.3g} mm large: check the length of {length_mm:g} mm.")
    if cine.attribute("ruler") is None:
        kept: dict[str, Any] = {
            "spacing_mm": before[:1] if len(set(before)) == 1 else before,
            "source": cine.calibration.source,
            "stated": cine.attribute("spacing_source"),
        }
    else:
        kept = json.loads(cine.attribute("ruler") or "")
    kept.update(length_mm=length_mm, pixels=pixels)
    cine.set_attribute("ruler", json.dumps(kept))
    cine.set_attribute("spacing_source", RULER)
    set_spacing(cine, after)
    return of_cine(cine)


def clear_ruler(cine: Cine) -> Calibration:
    """Undo every ruler since the cine was read; nothing changes where there was none."""
    stored = cine.attribute("ruler")
    if stored is not None:
        kept = json.loads(stored)
        cine.set_attribute("spacing_source", kept["stated"])
        cine.set_attribute("ruler", None)
        set_spacing(cine, kept["spacing_mm"])
    return of_cine(cine)


def _spacing(cine: Cine, warnings: list[str]) -> tuple[tuple[float, float] | None, str]:
    pair = _row_column(cine, 0)
    source = cine.attribute("spacing_source")
    if source == RULER:
        before = json.loads(cine.attribute("ruler") or "{}")
        if before.get("source", NONE) != NONE:
            row, column = before["spacing_mm"][0]
            warnings.append(f"The ruler replaces {row:.4g} x {column:.4g} mm per pixel from the {before['source']}.")
        return pair, RULER
    warnings.extend(json.loads(cine.attribute("scale_warnings") or "[]"))
    if source is None:
        if is_default(pair):
            warnings.append("The pixels are 1 mm, which 3D Slicer takes where a file has no scale: draw a ruler.")
            return None, NONE
        source = REGION if cine.volume(0).GetAttribute("DICOM.instanceUIDs") else GEOMETRY
    if source == NONE:
        if not any("ruler" in warning for warning in warnings):
            warnings.append("The scale is unknown: draw a ruler over a known distance.")
        return None, NONE
    return pair, source


def _time(cine: Cine, warnings: list[str]) -> tuple[float | None, str]:
    source = cine.attribute("time_source") or SEQUENCE_INDEX
    times = cine.times()
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        if cine.count > 1 and cine.attribute("kind") != "sweep":
            warnings.append("The time between frames is unknown.")
        return None, NONE
    steps = [after - before for before, after in itertools.pairwise(known)]
    if not steps:
        return None, source
    step = statistics.median(steps)
    if not step > 0:
        warnings.append("The times of the frames do not increase.")
        return None, NONE
    return step, source


def _row_column(cine: Cine, index: int) -> tuple[float, float]:
    column, row, _ = cine.volume(index).GetSpacing()
    return row, column


def _ends(ruler: Any) -> list[tuple[float, float, float]]:
    if hasattr(ruler, "GetNumberOfDefinedControlPoints"):
        if ruler.GetNumberOfDefinedControlPoints() != 2:
            raise RulerError("The ruler has not two ends yet: click at both ends of a known distance.")
        ends = []
        for number in range(2):
            at = [0.0, 0.0, 0.0]
            ruler.GetNthControlPointPositionWorld(number, at)
            ends.append(tuple(at))
    else:
        ends = [tuple(map(float, end)) for end in ruler]
    if len(ends) != 2 or any(len(end) != 3 or not all(map(math.isfinite, end)) for end in ends):
        raise RulerError("A ruler has two ends of three numbers each.")
    return ends  # type: ignore[return-value]
