"""Choices that the parameter node keeps and combo boxes show; a name is stored, a label is translated."""

from __future__ import annotations

from enum import Enum

from slicer.i18n import tr as _


class SweepKind(Enum):
    """How planes pass through a volume."""

    AXIAL = "axial"
    SAGITTAL = "sagittal"
    CORONAL = "coronal"
    OBLIQUE = "oblique"
    ROTATIONAL = "rotational"

    def label(self) -> str:
        return {
            "axial": _("Axial"),
            "sagittal": _("Sagittal"),
            "coronal": _("Coronal"),
            "oblique": _("Oblique plane"),
            "rotational": _("Rotational"),
        }[self.value]


class BackendKind(Enum):
    """Where models run."""

    SERVER = "server"
    LOCAL = "local"

    def label(self) -> str:
        return {"server": _("MONAI Label server"), "local": _("This computer")}[self.value]


class Scope(Enum):
    """Which frames a model segments."""

    FRAME = "frame"
    RANGE = "range"
    ALL = "all"

    def label(self) -> str:
        return {"frame": _("This frame"), "range": _("Range"), "all": _("All frames")}[self.value]


class ExportForm(Enum):
    """Files that masks are written to; the value is what the exchange package calls it."""

    SEG_NRRD = "seg.nrrd"
    PNG = "png"
    COCO = "coco"
    DICOM_SEG = "dicom_seg"

    def label(self) -> str:
        return {
            "seg.nrrd": _("Segmentation (seg.nrrd)"),
            "png": _("PNG and JSON"),
            "coco": _("COCO"),
            "dicom_seg": _("DICOM SEG"),
        }[self.value]
