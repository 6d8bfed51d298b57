"""The effect “Ultrasound prompts”: click on a structure, and a model proposes the segment; Apply takes it over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import qt
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _
from UltrasoundSegmentLib.errors import Cancelled, SegmentError

# Nothing of this folder: Slicer runs this file as a module of the folder's name, which is no package then.
from UltrasoundSegmentWidgets.effect import Clicks, same, shown
from vtk.util.numpy_support import vtk_to_numpy

import slicer

LIVE = "Ultrasound.Live"


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    """Left click includes, with Shift it excludes. The backend is the one connected in Ultrasound Segment."""

    def __init__(self, scriptedEffect: Any) -> None:
        scriptedEffect.name = "Ultrasound prompts"
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.clicks: Clicks | None = None
        self.preview: np.ndarray | None = None

    def clone(self) -> Any:
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        cloned = effects.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(Path(__file__).as_posix())
        return cloned

    def icon(self) -> Any:
        path = Path(__file__).parent / "SegmentEditorEffect.png"
        return qt.QIcon(str(path)) if path.is_file() else qt.QIcon()

    def helpText(self) -> str:
        return _(
            "Click on a structure of an ultrasound frame, and Shift-click on what does not belong to it. "
            "The interactive model connected in Ultrasound Segment proposes the segment; Apply takes it over."
        )

    def setupOptionsFrame(self) -> None:
        self.liveCheck = qt.QCheckBox(_("Ask after every click"))
        self.liveCheck.setToolTip(_("Otherwise when Ask is pressed."))
        self.askButton = qt.QPushButton(_("Ask"))
        self.undoButton = qt.QPushButton(_("Take point back"))
        self.clearButton = qt.QPushButton(_("Clear points"))
        self.applyButton = qt.QPushButton(_("Apply"))
        self.applyButton.setToolTip(_("Replace the segment on this frame by the proposal; Undo takes it back."))
        self.stateLabel = qt.QLabel()
        self.stateLabel.setWordWrap(True)
        for widget in (self.liveCheck, self.askButton, self.undoButton, self.clearButton, self.applyButton):
            self.scriptedEffect.addOptionsWidget(widget)
        self.scriptedEffect.addOptionsWidget(self.stateLabel)
        self.liveCheck.connect("toggled(bool)", self.updateMRMLFromGUI)
        self.askButton.connect("clicked()", self.ask)
        self.undoButton.connect("clicked()", self.undo)
        self.clearButton.connect("clicked()", self.clear)
        self.applyButton.connect("clicked()", self.onApply)
        self.applyButton.enabled = False

    def setMRMLDefaults(self) -> None:
        self.scriptedEffect.setParameterDefault(LIVE, 1)

    def updateGUIFromMRML(self) -> None:
        blocked = self.liveCheck.blockSignals(True)
        self.liveCheck.checked = bool(self.scriptedEffect.integerParameter(LIVE))
        self.liveCheck.blockSignals(blocked)

    def updateMRMLFromGUI(self) -> None:
        self.scriptedEffect.setParameter(LIVE, 1 if self.liveCheck.checked else 0)

    def activate(self) -> None:
        """The user chose the effect."""
        self.clicks = Clicks(self.desk(), self.proposed, self.failed)
        self.preview = None

    def deactivate(self) -> None:
        """The user chose another one: the proposal is dropped."""
        self.clicks, self.preview = None, None

    @staticmethod
    def desk() -> Any:
        """Of the panel of Ultrasound Segment, whose timer takes over what the backend answers."""
        return slicer.modules.ultrasoundsegment.widgetRepresentation().self().desk

    def processInteractionEvents(self, callerInteractor: Any, eventId: int, viewWidget: Any) -> bool:
        if eventId != vtk.vtkCommand.LeftButtonPressEvent or viewWidget.className() != "qMRMLSliceWidget":
            return False
        position = callerInteractor.GetEventPosition()
        ras = self.xyToRas(position, viewWidget)
        self.click(tuple(ras), inside=not callerInteractor.GetShiftKey())
        return True

    def click(self, ras: tuple[float, float, float], inside: bool) -> None:
        """A point in RAS; with live asking the model is asked at once."""
        if self.clicks is None:
            self.activate()
        try:
            self.clicks.add(*shown(self.desk(), self._volume()), ras, inside)
        except SegmentError as error:
            self.failed(error)
            return
        self.tell(_("{count} points").format(count=len(self.clicks.positive) + len(self.clicks.negative)))
        if self.scriptedEffect.integerParameter(LIVE):
            self.ask()

    def ask(self) -> None:
        try:
            if self._is_current():
                self.clicks.ask()
                self.tell(_("Asking..."))
        except SegmentError as error:
            self.failed(error)

    def undo(self) -> None:
        self.clicks.undo()
        if self.clicks.positive:
            self.ask()
        else:
            self.clear()

    def clear(self) -> None:
        self.clicks.clear()
        self.proposed(None)

    def proposed(self, mask: np.ndarray | None) -> None:
        """The model's answer; None for none."""
        self.preview = mask
        self.applyButton.enabled = mask is not None and bool(mask.any())
        if mask is None:
            self.tell("")
        else:
            self.tell(_("Proposal of {count} pixels. Apply takes it over.").format(count=int(mask.sum())))

    def failed(self, error: Exception) -> None:
        if not isinstance(error, Cancelled):
            self.tell(str(error))

    def tell(self, text: str) -> None:
        self.stateLabel.text = text

    def onApply(self) -> None:
        """Replace the segment by the proposal; can be undone."""
        if self.preview is None or not self._is_current():
            return
        labelmap = self.scriptedEffect.defaultModifierLabelmap()
        columns, rows, slices = labelmap.GetDimensions()
        if (slices, rows, columns) != (1, *self.preview.shape):
            self.tell(_("The segmentation has another geometry than the image: set it to the image's first."))
            return
        self.scriptedEffect.saveStateForUndo()
        vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(rows, columns)[:] = self.preview
        labelmap.Modified()
        self.scriptedEffect.modifySelectedSegmentByLabelmap(
            labelmap, slicer.qSlicerSegmentEditorAbstractEffect.ModificationModeSet
        )
        self.clear()

    def _volume(self) -> Any:
        volume = self.scriptedEffect.parameterSetNode().GetSourceVolumeNode()
        if volume is None:
            raise SegmentError(_("No source volume is chosen in Segment Editor."))
        return volume

    def _is_current(self) -> bool:
        """Whether the points are of the frame on display; those of another one are dropped, and that is told."""
        try:
            frame, _region = shown(self.desk(), self._volume())
        except SegmentError as error:
            self.failed(error)
            return False
        if self.clicks.frame is None or same(self.clicks.frame, frame):
            return True
        self.clear()
        self.tell(_("Another frame is on display: click on the structure there."))
        return False
