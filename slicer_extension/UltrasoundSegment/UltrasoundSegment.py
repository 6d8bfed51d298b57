"""The UltrasoundSegment module: cine loops, video and volumes segmented frame by frame, with a model's help."""

from pathlib import Path
from typing import Annotated

import qt
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentWidgets.backend import BackendPanel
from UltrasoundSegmentWidgets.choices import BackendKind, ExportForm, Scope, SweepKind
from UltrasoundSegmentWidgets.desk import Desk
from UltrasoundSegmentWidgets.exchange import ExchangePanel
from UltrasoundSegmentWidgets.learning import LearningPanel
from UltrasoundSegmentWidgets.measure import MeasurePanel
from UltrasoundSegmentWidgets.review import ReviewPanel
from UltrasoundSegmentWidgets.sample_data import register
from UltrasoundSegmentWidgets.segment import SegmentPanel
from UltrasoundSegmentWidgets.shortcuts import Shortcuts
from UltrasoundSegmentWidgets.source import SourcePanel

import slicer
from slicer import (
    vtkMRMLMarkupsLineNode,
    vtkMRMLMarkupsPlaneNode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSequenceBrowserNode,
)

PUMP_MS = 20
"""How often results of the worker are taken over."""


class UltrasoundSegment(ScriptedLoadableModule):
    """What Slicer shows of the module in its list."""

    def __init__(self, parent: object) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("Ultrasound Segment")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Ultrasound")]
        self.parent.dependencies = ["Sequences", "Segmentations", "Markups", "Plots", "Tables"]
        self.parent.contributors = ["SonoDistill contributors"]
        self.parent.helpText = _(
            "Segments ultrasound cine loops, videos and volumes frame by frame, with models on a server or on "
            "this computer. Nothing is sent before Connect is pressed. "
            'See the <a href="https://github.com/sonodistill/sonodistill/tree/main/slicer_extension">documentation</a>.'
        )
        self.parent.acknowledgementText = _("Part of SonoDistill. Research use only.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData() -> None:
    """Add the samples to the Sample Data module."""
    register(Path(__file__).parent / "Resources" / "Icons")


@parameterNodeWrapper
class UltrasoundSegmentParameterNode:
    """What is saved with the scene. The token of a server is not among it.

    Attributes:
        browser, volume, plane, axis: the cine, and what a sweep starts from.
        sweepStepMm: 0 for the spacing of the volume.
        labels: names of the structures, separated by commas; "" for those of the masks or of the model.
        firstFrame, lastFrame: a range, counted from 1, both included; 0 for the last frame.
    """

    sourceFile: str = ""
    browser: vtkMRMLSequenceBrowserNode
    volume: vtkMRMLScalarVolumeNode
    sweepKind: SweepKind = SweepKind.AXIAL
    sweepCount: Annotated[int, WithinRange(1, 1024)] = 64
    sweepStepMm: Annotated[float, WithinRange(0.0, 100.0)] = 0.0
    plane: vtkMRMLMarkupsPlaneNode
    axis: vtkMRMLMarkupsLineNode
    rulerLengthMm: Annotated[float, WithinRange(0.1, 1000.0)] = 10.0
    backendKind: BackendKind = BackendKind.SERVER
    serverUrl: str = ""
    certificate: str = ""
    localModel: str = ""
    labels: str = ""
    model: str = ""
    scope: Scope = Scope.FRAME
    firstFrame: Annotated[int, WithinRange(1, 99999)] = 1
    lastFrame: Annotated[int, WithinRange(0, 99999)] = 0
    live: bool = True
    propagateCount: Annotated[int, WithinRange(1, 99999)] = 30
    annotator: str = ""
    exportForm: ExportForm = ExportForm.SEG_NRRD
    exportFolder: str = ""
    exportDrafts: bool = False
    importFile: str = ""


class UltrasoundSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: sections that share a desk, a timer that takes over results, and the scene's coming and going."""

    def __init__(self, parent: object = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: UltrasoundSegmentLogic | None = None
        self._parameterNode: UltrasoundSegmentParameterNode | None = None
        self._parameterNodeGuiTag: int | None = None
        self._built = False

    def setup(self) -> None:
        """Build the panel when it is shown first."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/UltrasoundSegment.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = UltrasoundSegmentLogic()
        self.desk = self.logic.desk
        self.initializeParameterNode()
        self.source = SourcePanel(self.ui, self.desk, self.parameters)
        self.backend = BackendPanel(self.ui, self.desk, self.parameters)
        self.segment = SegmentPanel(self.ui, self.desk, self.parameters)
        self.review = ReviewPanel(self.ui, self.desk, self.parameters)
        self.measure = MeasurePanel(self.ui, self.desk, self.parameters)
        self.learning = LearningPanel(self.ui, self.desk, self.parameters)
        self.exchange = ExchangePanel(self.ui, self.desk, self.parameters)
        self.shortcuts = Shortcuts(slicer.util.mainWindow(), self.ui)
        self.segment.on(self.ui.labelsEdit, "editingFinished()", self.segment.show_labels)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.timer = qt.QTimer()
        self.timer.setInterval(PUMP_MS)
        self.timer.connect("timeout()", self.onTimer)
        self.timer.start()
        self._built = True
        self.useCine()

    def parameters(self) -> UltrasoundSegmentParameterNode | None:
        """The parameter node in use."""
        return self._parameterNode

    def onTimer(self) -> None:
        """Take over what the worker has done."""
        self.desk.jobs.pump()
        self.segment.tick()

    def useCine(self, *_event: object) -> None:
        """Work on the chosen cine."""
        if self._parameterNode is not None and self._built:
            self.desk.set_annotator(self._parameterNode.annotator.strip())
            try:
                self.desk.use(self._parameterNode.browser)
            except SegmentError as error:
                self.segment.failed(error)

    def cleanup(self) -> None:
        """The application closes, or the module is loaded anew."""
        self.timer.stop()
        self.shortcuts.off()
        self.removeObservers()
        for panel in (self.source, self.segment, self.learning):
            panel.close()
        self.measure.tasks.stop()
        self.exchange.tasks.stop()
        self.setParameterNode(None)
        self.desk.close()

    def enter(self) -> None:
        """The user comes to the module."""
        self.initializeParameterNode()
        self.useCine()
        self.shortcuts.on()

    def exit(self) -> None:
        """The user goes to another module; what runs goes on."""
        self.shortcuts.off()
        self.segment.clear_prompts()
        self.setParameterNode(None)

    def onSceneStartClose(self, *_event: object) -> None:
        """Its nodes are about to go; what is being read belonged to it."""
        self.desk.cancel()
        self.desk.leave()
        self.setParameterNode(None)
        self.desk.cine_changed.emit()

    def onSceneEndClose(self, *_event: object) -> None:
        """A new scene has begun."""
        if self.parent.isEntered:
            self.initializeParameterNode()
            self.useCine()

    def initializeParameterNode(self) -> None:
        """The parameter node of the scene, made where there is none."""
        self.setParameterNode(self.logic.getParameterNode())

    def setParameterNode(self, node: UltrasoundSegmentParameterNode | None) -> None:
        """Bind the widgets to a parameter node, and the one before to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.useCine)
        self._parameterNode = node
        if node is not None:
            self._parameterNodeGuiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.useCine)


class UltrasoundSegmentLogic(ScriptedLoadableModuleLogic):
    """What the module does without a panel; scripts may use it.

    Attributes:
        desk: cine, masks, backend and jobs. Without the panel, call ``desk.jobs.pump()`` for results.
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.desk = Desk()

    def getParameterNode(self) -> UltrasoundSegmentParameterNode:
        return UltrasoundSegmentParameterNode(super().getParameterNode())


class UltrasoundSegmentTest(ScriptedLoadableModuleTest):
    """Run by Slicer's Reload and Test, and by ctest."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_synthetic_cine()

    def test_synthetic_cine(self) -> None:
        """A cine made here is opened, drawn on, accepted and measured."""
        from UltrasoundSegmentWidgets.self_test import draw_and_measure

        self.delayDisplay("A synthetic cine")
        draw_and_measure(self, UltrasoundSegmentLogic())
        self.delayDisplay("Done")
