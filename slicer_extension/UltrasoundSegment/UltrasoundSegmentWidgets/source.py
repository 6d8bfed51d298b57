"""Source: what is worked on, its calibration and frame time with their source, and the region that models see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import vtk
from slicer.i18n import tr as _
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.calibration import clear_ruler, with_ruler
from UltrasoundSegmentLib.frames.sweep import SweepPlan

import slicer

from .choices import SweepKind
from .panel import Panel, browse, coloured
from .prompts import PromptNodes, box_of, points_of


def show_volume(volume: object) -> None:
    """Show a frame in the slice views, which turn into its plane."""
    there = slicer.app.layoutManager() is not None
    slicer.util.setSliceViewerLayers(background=volume, fit=True, rotateToVolumePlane=there)


class SourcePanel(Panel):
    """Opens files, slices volumes, and shows what is known of millimetres and seconds."""

    def setup(self) -> None:
        ui = self.ui
        self.marks = PromptNodes()
        browse(ui.sourceBrowse, ui.sourceEdit, _("Open ultrasound"))
        self.on(ui.openButton, "clicked()", self.open)
        self.on(ui.sweepButton, "clicked()", self.slice_volume)
        self.on(ui.rulerButton, "clicked()", lambda: self.marks.place("ruler"))
        self.on(ui.rulerApplyButton, "clicked()", self.apply_ruler)
        self.on(ui.rulerClearButton, "clicked()", self.clear_ruler)
        self.on(ui.regionButton, "clicked()", lambda: self.marks.place("region"))
        self.on(ui.regionApplyButton, "clicked()", self.apply_region)
        self.on(ui.regionClearButton, "clicked()", lambda: self.set_region(None))
        self.on(ui.sweepCombo, "currentIndexChanged(int)", self.show_sweep)
        self.desk.cine_changed.connect(self.show)
        self.show()
        self.show_sweep()

    def open(self) -> None:
        """Read the chosen file and work on it."""
        self.desk.open(Path(self.parameters.sourceFile.strip()), self.use)

    def use(self, cine: object) -> None:
        """Choose a cine, as if by the selector, and show it in the slice views."""
        if self.parameters is None:  # the user is in another module: the cine is in the scene
            return
        self.parameters.browser = cine.browser
        show_volume(cine.proxy())

    def slice_volume(self) -> None:
        """Sweep the chosen volume, and work on the frames."""
        p = self.parameters
        if p.volume is None:
            raise SegmentError(_("No volume is chosen: choose one to slice."))
        self.desk.slice(p.volume, self._plan(), self.use)

    def _plan(self) -> SweepPlan:
        p = self.parameters
        if p.sweepKind is SweepKind.OBLIQUE:
            if p.plane is None:
                raise SegmentError(_("An oblique sweep needs a plane: draw one in Markups and choose it."))
            matrix = vtk.vtkMatrix4x4()
            p.plane.GetObjectToWorldMatrix(matrix)
            plane = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
            plane[:3, :3] /= np.linalg.norm(plane[:3, :3], axis=0)
            return SweepPlan.oblique(plane, p.sweepCount, p.sweepStepMm or None)
        if p.sweepKind is SweepKind.ROTATIONAL:
            ends = points_of(p.axis)
            if len(ends) < 2:
                raise SegmentError(_("A rotational sweep needs an axis: draw a line in Markups and choose it."))
            return SweepPlan.rotational(tuple(ends.mean(0)), tuple(ends[1] - ends[0]), p.sweepCount)
        return SweepPlan.axis(p.sweepKind.value)

    def show_sweep(self) -> None:
        """Only what a kind of sweep asks for can be set."""
        kind = list(SweepKind)[max(self.ui.sweepCombo.currentIndex, 0)]
        self.ui.sweepCountSpin.enabled = kind in (SweepKind.OBLIQUE, SweepKind.ROTATIONAL)
        self.ui.sweepStepSpin.enabled = self.ui.planeSelector.enabled = kind is SweepKind.OBLIQUE
        self.ui.axisSelector.enabled = kind is SweepKind.ROTATIONAL

    def apply_ruler(self) -> None:
        """Spacing from the drawn line and its true length."""
        cine, line = self.desk.the_cine(), self.marks.node("ruler")
        if len(points_of(line)) < 2:
            raise SegmentError(_("Draw the ruler first: two points with a known distance, such as on the depth scale."))
        with_ruler(line, self.parameters.rulerLengthMm, cine)
        self.marks.clear("ruler")
        self.changed()

    def clear_ruler(self) -> None:
        clear_ruler(self.desk.the_cine())
        self.changed()

    def changed(self) -> None:
        """Calibration or region is another: masks stay on their pixels, and every section shows it."""
        if self.desk.store is not None:
            self.desk.store.follow_geometry()
        self.desk.cine_changed.emit()

    def apply_region(self) -> None:
        """The drawn box, as half-open pixels of every frame."""
        cine = self.desk.the_cine()
        box = box_of(self.marks.node("region"), cine.ijk_to_world(cine.selected))
        if box is None:
            raise SegmentError(_("Draw the region first: two opposite corners around the ultrasound image."))
        x0, y0, x1, y1 = (round(value) for value in box)
        self.set_region((x0, y0, x1 + 1, y1 + 1))
        self.marks.clear("region")

    def set_region(self, box: tuple[int, int, int, int] | None) -> None:
        self.desk.the_cine().set_region(box)
        self.show()

    def show(self) -> None:
        """Calibration, frame time and region of the cine; in colour where they are not known."""
        ui, cine = self.ui, self.desk.cine
        if cine is None:
            ui.calibrationLabel.text = ui.timeLabel.text = _("No cine.")
            ui.regionLabel.text = ""
            return
        known = cine.calibration
        if known.spacing_mm is None:
            text = coloured(_("Unknown: areas are in pixels until a ruler is drawn."), True)
        else:
            row, column = known.spacing_mm
            text = coloured(
                _("{row:.4g} x {column:.4g} mm ({source})").format(row=row, column=column, source=known.source), False
            )
        for warning in known.warnings:
            text += "<br>" + coloured(warning, True)
        ui.calibrationLabel.text = text
        if known.frame_time_s is None:
            ui.timeLabel.text = coloured(_("Unknown: frames are counted, not timed."), cine.count > 1)
        else:
            ui.timeLabel.text = _("{ms:.4g} ms ({source})").format(
                ms=known.frame_time_s * 1e3, source=known.time_source
            )
        box = cine.region
        ui.regionLabel.text = _("whole frame") if box is None else "{}, {} to {}, {}".format(*box)

    def close(self) -> None:
        self.marks.close()
