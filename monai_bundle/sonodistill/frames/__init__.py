"""Any ultrasound file becomes frames: gray uint8 images with time, calibration and provenance."""

from sonodistill.frames.find import find_files
from sonodistill.frames.frame import Calibration, Frame, Provenance
from sonodistill.frames.read import read

__all__ = ["Calibration", "Frame", "Provenance", "find_files", "read"]
