"""Measurements: area and diameter of the frame, area over time as table and chart, volume of a sweep."""

from __future__ import annotations

from collections.abc import Iterator

from slicer.i18n import tr as _
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.sweep import swept_volume
from UltrasoundSegmentLib.masks.measure import measure
from UltrasoundSegmentLib.masks.status import Status

import slicer

from .panel import Panel, coloured
from .tasks import Tasks


class MeasurePanel(Panel):
    """Millimetres where the calibration is known, pixels and a warning where it is not."""

    def setup(self) -> None:
        self.tasks = Tasks(self.failed)
        self.on(self.ui.plotButton, "clicked()", self.plot)
        self.on(self.ui.volumeButton, "clicked()", self.reassemble)
        self.on(self.ui.measureSection, "contentsCollapsed(bool)", self.show)
        self.on(self.ui.labelCombo, "currentIndexChanged(int)", self.show)
        self.desk.frame_changed.connect(lambda _: self.show())
        self.desk.mask_changed.connect(lambda index: self.show() if index == self._selected() else None)
        self.desk.cine_changed.connect(self.show)
        self.show()

    def _selected(self) -> int:
        return self.desk.cine.selected if self.desk.cine else -1

    def label(self) -> int:
        """Number of the chosen structure, from 1."""
        return max(self.ui.labelCombo.currentIndex, 0) + 1

    def of_frame(self, index: int) -> object:
        """Measurement of the chosen structure on a frame."""
        cine = self.desk.the_cine()
        return measure(self.desk.store.mask(index) == self.label(), cine.calibration.spacing_mm)

    def show(self) -> None:
        """The frame on display."""
        if self.ui.measureSection.collapsed:
            return
        store, index = self.desk.store, self._selected()
        if store is None or not store.status(index).has_mask or self.label() > len(store.labels):
            self.ui.measureLabel.text = _("No mask.")
            return
        found = self.of_frame(index)
        if found.area_mm2 is None:
            text = _("{area} pixels; in mm² once calibrated").format(area=found.area_px)
        else:
            text = _("{area:.1f} mm², longest diameter {longest:.1f} mm").format(
                area=found.area_mm2, longest=found.longest_mm or 0.0
            )
        self.ui.measureLabel.text = coloured(text, found.area_mm2 is None)

    def plot(self) -> None:
        """A table of frame, time and area, and its chart in a plot view; some frames at a time."""
        if self.desk.store is None:
            raise SegmentError(_("There are no masks yet: segment a frame first."))
        self.tasks.start(self._plot(), _("Measuring"))

    def _plot(self) -> Iterator[None]:
        cine, store, number = self.desk.cine, self.desk.store, self.label()
        name = store.labels[number - 1]
        spacing = cine.calibration.spacing_mm
        rows = []
        for index, status in enumerate(store.statuses()):
            if status.has_mask:
                found = measure(store.mask(index) == number, spacing)
                moment = cine.time(index)
                area = found.area_mm2 if spacing else float(found.area_px)
                rows.append((index + 1, index + 1 if moment is None else moment, area, status is Status.ACCEPTED))
                yield
        if not rows:
            raise SegmentError(_("No frame has a mask of {name}.").format(name=name))
        timed = cine.calibration.frame_time_s is not None
        self.chart = chart(rows, name, timed, spacing is not None)
        slicer.modules.plots.logic().ShowChartInLayout(self.chart)

    def reassemble(self) -> None:
        """Masks of a sweep as one 3-D segmentation in the volume that was swept."""
        cine, store = self.desk.the_cine(), self.desk.store
        volume = swept_volume(cine)
        if volume is None:
            raise SegmentError(_("This cine was not sliced from a volume: slice one in Source."))
        if store is None:
            raise SegmentError(_("There are no masks yet: segment a frame first."))
        self.ui.volumeLabel.text = _("Putting the masks together...")
        self.tasks.start(self._reassemble(cine, store, volume), _("Putting the masks together"))

    def _reassemble(self, *of: object) -> Iterator[None]:
        from UltrasoundSegmentLib.masks.measure import volume_mm3
        from UltrasoundSegmentLib.masks.reassemble import reassemble_steps

        segmentation = yield from reassemble_steps(*of)
        sizes = volume_mm3(segmentation)
        text = ", ".join(f"{name}: {size / 1000:.2f} ml" for name, size in sizes.items())
        self.ui.volumeLabel.text = text or _("No structure was drawn.")


def chart(rows: list[tuple[int, float, float, bool]], name: str, timed: bool, calibrated: bool) -> object:
    """vtkMRMLPlotChartNode with the table it draws.

    Args:
        rows: frame, time in seconds (or frame number), area in mm² (or pixels), whether accepted.
        timed, calibrated: whether those are seconds and mm².
    """
    import vtk

    scene = slicer.mrmlScene
    table = scene.AddNewNodeByClass("vtkMRMLTableNode", scene.GenerateUniqueName(_("Area of {name}").format(name=name)))
    x = _("time (s)") if timed else _("frame")
    y = _("area (mm²)") if calibrated else _("area (pixels)")
    columns = [vtk.vtkIntArray(), vtk.vtkDoubleArray(), vtk.vtkDoubleArray(), vtk.vtkIntArray()]
    for column, title in zip(columns, (_("number"), x, y, _("accepted")), strict=True):
        column.SetName(title)
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.InsertNextValue(int(value) if isinstance(value, bool) else value)
    for column in columns:
        table.GetTable().AddColumn(column)
    table.Modified()
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName(x)
    series.SetYColumnName(y)
    series.SetPlotType(series.PlotTypeScatter)
    series.SetMarkerStyle(series.MarkerStyleCircle)
    series.SetColor(0.0, 0.45, 0.7)
    made = scene.AddNewNodeByClass("vtkMRMLPlotChartNode", table.GetName())
    made.AddAndObservePlotSeriesNodeID(series.GetID())
    made.SetTitle(table.GetName())
    made.SetXAxisTitle(x)
    made.SetYAxisTitle(y)
    made.SetLegendVisibility(False)
    return made
