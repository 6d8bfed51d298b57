"""Registers the Segment Editor effect of ultrasound prompts; hidden from the list of modules."""

from __future__ import annotations

from pathlib import Path

from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleTest

import slicer


class SegmentEditorUltrasound(ScriptedLoadableModule):
    """What Slicer knows of the module."""

    def __init__(self, parent: object) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "SegmentEditorUltrasound"
        self.parent.categories = ["Segmentation"]
        self.parent.dependencies = ["Segmentations", "UltrasoundSegment"]
        self.parent.contributors = ["SonoDistill contributors"]
        self.parent.hidden = True
        self.parent.helpText = _("This hidden module registers the Segment Editor effect “Ultrasound prompts”.")
        self.parent.acknowledgementText = _("Part of SonoDistill. Research use only.")
        slicer.app.connect("startupCompleted()", self.registerEditorEffect)

    def registerEditorEffect(self) -> None:
        """Tell Segment Editor of the effect."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        instance = effects.qSlicerSegmentEditorScriptedEffect(None)
        source = Path(__file__).parent / f"{self.__class__.__name__}Lib" / "SegmentEditorEffect.py"
        instance.setPythonSource(source.as_posix())
        instance.self().register()


class SegmentEditorUltrasoundTest(ScriptedLoadableModuleTest):
    """Run by ctest in Slicer."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        self.test_effect_is_offered()

    def test_effect_is_offered(self) -> None:
        """Segment Editor lists the effect, and it can be chosen."""
        widget = slicer.qMRMLSegmentEditorWidget()
        widget.setMRMLScene(slicer.mrmlScene)
        names = list(widget.availableEffectNames())
        self.assertIn("Ultrasound prompts", names)
