"""Renders a frame with its mask as a slice view shows it, without a window, for the documentation.

Needs an environment of its own: pip install slicer-core trame trame-vtk trame-vuetify pydicom lxml requests webcolors;
pip install --no-deps trame-slicer slicer-layer-dm py-undo-stack

python tests/slicer/slice_picture.py slicer_extension/Screenshots/slice.png
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import vtk

import slicer

EXTENSION = Path(__file__).resolve().parents[2] / "slicer_extension" / "UltrasoundSegment"
FRAME, SIDE = 8, (480, 360)


def main(out: Path) -> None:
    """Write the PNG."""
    from trame_slicer.core import SlicerApp
    from trame_slicer.views import DirectViewFactory, ViewLayoutDefinition

    translation = types.ModuleType("slicer.i18n")
    translation.tr = lambda text: text
    sys.modules["slicer.i18n"] = translation
    sys.path.insert(0, str(EXTENSION))
    application = SlicerApp()
    slicer.mrmlScene = application.scene
    sequences = slicer.vtkSlicerSequencesLogic()
    sequences.SetMRMLApplicationLogic(application.app_logic)
    sequences.SetMRMLScene(application.scene)
    slicer.modules = types.SimpleNamespace(sequences=types.SimpleNamespace(logic=lambda: sequences))

    import numpy as np
    from UltrasoundSegmentLib.frames.cine import Cine
    from UltrasoundSegmentLib.masks.status import Status
    from UltrasoundSegmentLib.masks.store import MaskStore
    from UltrasoundSegmentWidgets import sample_data

    cine = Cine.of_sequence(sample_data.make_cine(scene=application.scene))
    store = MaskStore.of(cine, ["cavity"])
    x, y, a, b = sample_data.ellipse(FRAME)
    row, column = np.mgrid[: sample_data.ROWS, : sample_data.COLUMNS]
    mask = (((column - x) / a) ** 2 + ((row - y) / b) ** 2 < 1).astype(np.uint8)
    store.write(FRAME, mask, Status.ACCEPTED, annotator="anna")
    cine.select(FRAME)
    cine.refresh()
    proxy = cine.proxy()
    proxy.CreateDefaultDisplayNodes()
    segmentation = store.segmentation_proxy()
    segmentation.CreateDefaultDisplayNodes()

    application.view_manager.register_factory(DirectViewFactory(do_render_offscreen=True))
    definition = ViewLayoutDefinition.axial_view()
    view = application.view_manager.create_view(definition)
    view = getattr(view, "slicer_view", view)
    node = application.scene.GetNodeByID(view.get_view_node_id())
    node.RotateToVolumePlane(proxy)
    view.set_background_volume_id(proxy.GetID())
    window = view.render_window()
    window.SetOffScreenRendering(True)
    window.SetSize(*SIDE)
    node.SetDimensions(*SIDE, 1)
    view.fit_view_to_content()
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetCompressionLevel(9)
    writer.SetFileName(str(out))
    writer.SetInputConnection(grab.GetOutputPort())
    writer.Write()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
