"""One image that 3D Slicer loaded as a volume, as a cine of one frame."""

from __future__ import annotations

import slicer
from UltrasoundSegmentLib.frames.build import Facts, build_cine
from UltrasoundSegmentLib.frames.calibration import GEOMETRY, NONE, REGION, is_default
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.image import pixels
from UltrasoundSegmentLib.frames.world import ijk_to_world


def cine_of_still(volume: slicer.vtkMRMLVolumeNode, scene: slicer.vtkMRMLScene | None = None) -> Cine:
    """A volume of one slice, gray or colour, as a cine of one frame where it lies in the world.

    Its scale is unknown where its pixels are exactly 1 mm, which 3D Slicer takes where a file has none.

    Errors: NoPixelsError where it has several slices (``sweep`` takes those), NoLinearTransformError.
    """
    values = pixels(volume)
    instances = volume.GetAttribute("DICOM.instanceUIDs")
    column, row, _ = volume.GetSpacing()
    source = (REGION if instances else GEOMETRY) if not is_default((row, column)) else NONE
    warnings = ["The pixels are 1 mm, which 3D Slicer takes where a file has no scale: draw a ruler."]
    facts = Facts(
        source=source,
        scale_warnings=warnings if source == NONE else [],
        key=instances.split()[0] if instances else None,
        attributes={"kind": "still"},
        instances=instances,
    )
    name = f"{volume.GetName()} frame"
    return build_cine(scene or volume.GetScene(), name, [(values, ijk_to_world(volume))], None, facts)
