"""DICOM stills and clips as a cine, with the scale, region and frame times their header states."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import Facts, Source, build, set_times
from UltrasoundSegmentLib.frames.calibration import NONE, REGION, record, set_spacing
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.dicom_pixels import decoded
from UltrasoundSegmentLib.frames.dicom_regions import Scale, scale_of

# Enhanced US Volume Storage.
_VOLUME = "1.2.840.10008.5.1.4.1.1.6.2"


class DicomError(SegmentError):
    """A DICOM file cannot become a cine; says why and what helps."""


def load_dicom(path: str | Path, scene: slicer.vtkMRMLScene | None = None) -> Cine:
    """A still or multi-frame image as a cine, named after the file and not the patient.

    Colours stay for display; ``Cine.frame`` gives their luma. Deeper gray values become eight bits by their window.
    The scale is known only where a 2-D region fits the image and is in centimetres (``dicom_regions``), the time only
    where the header states it.

    Errors: DicomError (no DICOM, no image, a frame that cannot be decoded); nothing stays in the scene then.
    """
    return build(scene, decode_dicom(path))


def decode_dicom(path: str | Path) -> Source:
    """As ``load_dicom``, without a scene: the header is read, frames are decoded as they are taken."""
    path = Path(path)
    ds = _header(path)
    scale, (times, time_source) = scale_of(ds), frame_times(ds)
    facts = Facts(
        source=NONE if scale.spacing_mm is None else REGION,
        time_source=time_source,
        warnings=_notes(ds, scale, times),
        scale_warnings=scale.warnings,
        key=str(ds.get("SOPInstanceUID") or "") or None,
        region=scale.region,
        attributes={"kind": "dicom", "file": str(path.resolve())},
        instances=str(ds.get("SOPInstanceUID") or "") or None,
    )
    place = upright(scale.spacing_mm)
    slices = ((values, place) for values in _named(decoded(path, ds), path))
    return Source(path.stem or path.name, slices, times, facts, int(ds.get("NumberOfFrames") or 1))


def describe_from_dicom(cine: Cine, path: str | Path) -> Cine:
    """Give a cine that 3D Slicer loaded what its file says and the loading lost: scale, region, frame times, warnings.

    3D Slicer takes 1 mm without a word where a file has no scale or several regions, believes a region that does not
    fit, and counts frames in place of seconds.

    Errors: DicomError where the file is another one.
    """
    ds = _header(Path(path))
    first = cine.volume(0)
    columns, rows, _ = first.GetImageData().GetDimensions()
    stated = int(ds.get("NumberOfFrames") or 1), int(ds.Rows), int(ds.Columns)
    if stated != (cine.count, rows, columns):
        raise DicomError(
            f"“{Path(path).name}” has {stated[0]} frames of {stated[2]} x {stated[1]} pixels, “{cine.name}” "
            f"{cine.count} of {columns} x {rows}: choose the file it was loaded from."
        )
    known = (first.GetAttribute("DICOM.instanceUIDs") or "").split()
    if known and str(ds.get("SOPInstanceUID")) not in known:
        raise DicomError(f"“{Path(path).name}” is another DICOM object than “{cine.name}”.")
    scale, (times, time_source) = scale_of(ds), frame_times(ds)
    set_spacing(cine, [scale.spacing_mm or (1.0, 1.0)])
    if times is not None:
        set_times(cine, times)
    cine.set_region(scale.region)
    cine.set_attribute("file", str(Path(path).resolve()))
    source = NONE if scale.spacing_mm is None else REGION
    record(cine, source, time_source, _notes(ds, scale, times), scale.warnings)
    cine.refresh()
    return cine


def file_of(cine: Cine) -> Path | None:
    """The DICOM file a cine was read from: as recorded, else from 3D Slicer's DICOM database; None where it is gone."""
    stored = cine.attribute("file")
    if stored and Path(stored).is_file():
        return Path(stored)
    database = getattr(slicer, "dicomDatabase", None)
    instances = (cine.volume(0).GetAttribute("DICOM.instanceUIDs") or "").split()
    found = database.fileForInstance(instances[0]) if database is not None and instances else ""
    return Path(found) if found and Path(found).is_file() else None


def frame_times(ds: Any) -> tuple[list[float] | None, str]:
    """(seconds of each frame since the first, the attribute they come from); (None, "none") where nothing says.

    The attribute that Frame Increment Pointer names comes first, then Frame Time Vector, Frame Time, Cine Rate and
    Recommended Display Frame Rate (PS3.3 C.7.6.5). A vector holds the milliseconds since the frame before, the first
    being 0.
    """
    frames = int(ds.get("NumberOfFrames") or 1)
    pointer = ds.get("FrameIncrementPointer")
    pointers = list(pointer) if isinstance(pointer, (list, tuple)) or hasattr(pointer, "__iter__") else [pointer]
    named = ["FrameTime"] if 0x00181063 in pointers else []
    for keyword in (*named, "FrameTimeVector", "FrameTime", "CineRate", "RecommendedDisplayFrameRate"):
        value = ds.get(keyword)
        if value is None or value == "":
            continue
        steps = _numbers(value)
        if keyword == "FrameTimeVector":
            if len(steps) == frames and all(step >= 0 for step in steps):
                return [float(time) for time in (np.cumsum(steps) - steps[0]) / 1000.0], keyword
        elif len(steps) == 1 and steps[0] > 0:
            step = steps[0] / 1000.0 if keyword == "FrameTime" else 1.0 / steps[0]
            return [index * step for index in range(frames)], keyword
    return None, NONE


def upright(spacing_mm: tuple[float, float] | None) -> NDArray[np.float64]:
    """(4, 4) IJK to RAS that shows a frame upright in an axial view: columns to the left of the patient, rows down."""
    row, column = spacing_mm or (1.0, 1.0)
    return np.diag([-column, -row, 1.0, 1.0])


def _header(path: Path) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise DicomError("Reading DICOM needs pydicom: pip install pydicom.") from error
    try:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        rows, columns = int(ds.Rows), int(ds.Columns)
    except (OSError, EOFError) as error:
        raise DicomError(f"“{path.name}” cannot be opened: {error}.") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise DicomError(f"“{path.name}” holds no image.") from error
    except pydicom.errors.InvalidDicomError as error:
        raise DicomError(f"“{path.name}” is no DICOM file.") from error
    if rows < 1 or columns < 1:
        raise DicomError(f"“{path.name}” states an image of {columns} x {rows} pixels.")
    return ds


def _notes(ds: Any, scale: Scale, times: list[float] | None) -> list[str]:
    warnings = list(scale.notes)
    if times is not None and any(after <= before for before, after in itertools.pairwise(times)):
        warnings.append("Some frames have the same time: the slider counts frames.")
    if ds.get("SOPClassUID") == _VOLUME:
        warnings.append("The frames are planes of a 3-D volume, whose places are not read: they lie over each other.")
    if str(ds.get("BurnedInAnnotation") or "").upper() == "YES":
        warnings.append("The file says that text about the patient may be written in its pixels.")
    return warnings


def _named(frames: Iterator[NDArray], path: Path) -> Iterator[NDArray]:
    """The frames; whatever a decoder throws becomes a DicomError that says which one."""
    number = 0
    while True:
        number += 1
        try:
            values = next(frames)
        except StopIteration:
            return
        except SegmentError:
            raise
        except Exception as error:
            raise DicomError(
                f"Frame {number} of “{path.name}” cannot be decoded: {_short(error)}. Fetch the file again, or install "
                "the decoders: pip install sonodistill[dicom]."
            ) from error
        yield values


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]


def _numbers(value: Any) -> list[float]:
    values = list(value) if hasattr(value, "__iter__") and not isinstance(value, str) else [value]
    try:
        numbers = [float(one) for one in values]
    except (TypeError, ValueError, OverflowError):
        return []
    return numbers if all(map(math.isfinite, numbers)) else []
