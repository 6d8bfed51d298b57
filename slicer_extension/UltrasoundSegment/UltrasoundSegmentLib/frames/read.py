"""One verb for every file that becomes a cine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import Source, build, build_on_worker
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.dicom_cine import decode_dicom
from UltrasoundSegmentLib.frames.tracked import decode_tracked
from UltrasoundSegmentLib.frames.video import decode_video

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".gif")
SEQUENCES = (".igs.mha", ".igs.nrrd", ".igs.mhd")
_PREAMBLE = 128


class UnknownFileError(SegmentError):
    """A file is nothing that has frames."""


def read(path: str | Path, scene: slicer.vtkMRMLScene | None = None) -> Cine:
    """A DICOM image, a video or a tracked sequence of PLUS as a cine; what a file is follows from its content first.

    Errors: UnknownFileError for anything else; what ``load_dicom``, ``load_video`` and ``load_tracked`` raise.
    """
    return build(scene, decode(path))


def read_on_worker(
    path: str | Path,
    scene: slicer.vtkMRMLScene,
    on_main: Callable[[Callable[[], Any]], Any],
    progress: Callable[[int, int, str], None] | None = None,
) -> Cine:
    """As ``read``, on another thread than the scene's, which ``on_main`` runs what touches MRML on.

    ``build_on_worker`` says how.
    """
    return build_on_worker(scene, decode(path), on_main, progress)


def decode(path: str | Path) -> Source:
    """What ``read`` makes a cine of, without a scene."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(_PREAMBLE + 4)
    except OSError as error:
        raise UnknownFileError(f"“{path.name}” cannot be opened: {error}.") from error
    name = path.name.lower()
    if start[_PREAMBLE:] == b"DICM" or name.endswith((".dcm", ".dicom")):
        return decode_dicom(path)
    if name.endswith(SEQUENCES):
        return decode_tracked(path)
    if name.endswith(VIDEOS):
        return decode_video(path)
    raise UnknownFileError(
        f"“{path.name}” is no DICOM file, video or tracked sequence: load images and volumes into 3D Slicer by "
        "Add Data, then choose them here."
    )
