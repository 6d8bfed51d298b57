"""Prompts drawn on the current frame through Markups: points, a box, scribbles, as pixels of the frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import vtk
from numpy.typing import NDArray
from slicer.i18n import tr as _
from UltrasoundSegmentLib.backends.model import Prompts
from UltrasoundSegmentLib.signal import Signal

import slicer

_CLASSES = {
    "include": "vtkMRMLMarkupsFiducialNode",
    "exclude": "vtkMRMLMarkupsFiducialNode",
    "box": "vtkMRMLMarkupsROINode",
    "scribble": "vtkMRMLMarkupsCurveNode",
    "erase": "vtkMRMLMarkupsCurveNode",
    "ruler": "vtkMRMLMarkupsLineNode",
    "region": "vtkMRMLMarkupsROINode",
}
_COLOURS = {
    "include": (0.0, 0.62, 0.45),
    "exclude": (0.84, 0.37, 0.0),
    "box": (0.0, 0.45, 0.7),
    "scribble": (0.0, 0.62, 0.45),
    "erase": (0.84, 0.37, 0.0),
    "ruler": (0.94, 0.89, 0.26),
    "region": (0.8, 0.47, 0.65),
}
TOOLS = ("include", "exclude", "box", "scribble", "erase")


def _names() -> dict[str, str]:
    return {
        "include": _("Prompt +"),
        "exclude": _("Prompt -"),
        "box": _("Prompt box"),
        "scribble": _("Prompt scribble +"),
        "erase": _("Prompt scribble -"),
        "ruler": _("Calibration ruler"),
        "region": _("Ultrasound region"),
    }


def to_pixels(points: NDArray[np.float64], ijk_to_ras: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3) RAS in mm to (N, 2) column, row of a frame; what lies off the plane is dropped onto it."""
    homogeneous = np.c_[np.asarray(points, dtype=float).reshape(-1, 3), np.ones(len(points))]
    return (np.linalg.inv(ijk_to_ras) @ homogeneous.T).T[:, :2]


def points_of(node: Any) -> NDArray[np.float64]:
    """(N, 3) RAS of the control points that are set."""
    found = []
    for index in range(node.GetNumberOfControlPoints() if node is not None else 0):
        if node.GetNthControlPointPositionStatus(index) == node.PositionDefined:
            place = [0.0, 0.0, 0.0]
            node.GetNthControlPointPositionWorld(index, place)
            found.append(place)
    return np.array(found, dtype=float).reshape(-1, 3)


def box_of(node: Any, ijk_to_ras: NDArray[np.float64]) -> tuple[float, float, float, float] | None:
    """(x0, y0, x1, y1) of a ROI in a frame's pixels; None while it is not drawn."""
    if node is None or max(node.GetSize()) <= 0:
        return None
    half = np.array(node.GetSize()) / 2
    matrix = node.GetObjectToWorldMatrix()
    to_world = np.array([[matrix.GetElement(r, c) for c in range(4)] for r in range(4)])
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = (to_world @ np.c_[signs * half, np.ones(8)].T).T[:, :3]
    pixels = to_pixels(corners, ijk_to_ras)
    (x0, y0), (x1, y1) = pixels.min(0), pixels.max(0)
    return float(x0), float(y0), float(x1), float(y1)


class PromptNodes:
    """Markups nodes that hold what is drawn; made when first drawn, not saved with the scene.

    Attributes:
        changed: Signal(tool), after a point was placed or let go.
    """

    def __init__(self) -> None:
        self.changed = Signal()
        self._nodes: dict[str, list[Any]] = {}
        self._observed: list[tuple[Any, int]] = []

    def node(self, tool: str) -> Any:
        """The newest node of a tool, or None."""
        kept = [n for n in self._nodes.get(tool, []) if n.GetScene() is not None]
        self._nodes[tool] = kept
        return kept[-1] if kept else None

    def create(self, tool: str) -> Any:
        """A node to draw with: a new one for every scribble, one for all points."""
        node = self.node(tool)
        if node is not None and not (tool in ("scribble", "erase") and node.GetNumberOfControlPoints()):
            return node
        node = slicer.mrmlScene.AddNewNodeByClass(_CLASSES[tool], _names()[tool])
        node.SetSaveWithScene(False)
        node.CreateDefaultDisplayNodes()
        display = node.GetDisplayNode()
        if display is not None:
            display.SetColor(*_COLOURS[tool])
            display.SetSelectedColor(*_COLOURS[tool])
            display.SetPointLabelsVisibility(False)
            display.SetPropertiesLabelVisibility(False)
        for event in (node.PointPositionDefinedEvent, node.PointEndInteractionEvent, node.PointRemovedEvent):
            self._observed.append((node, node.AddObserver(event, self._told(tool))))
        self._nodes.setdefault(tool, []).append(node)
        return node

    def place(self, tool: str) -> None:
        """Let the user draw in the slice views."""
        logic = slicer.modules.markups.logic()
        logic.SetActiveList(self.create(tool))
        logic.StartPlaceMode(tool in ("include", "exclude", "scribble", "erase"))

    @staticmethod
    def stop() -> None:
        """Back from drawing to looking."""
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if interaction is not None:
            interaction.SwitchToViewTransformMode()
            interaction.SetPlaceModePersistence(0)

    def prompts(self, ijk_to_ras: NDArray[np.float64], label: int) -> Prompts:
        """What is drawn, in the pixels of a frame.

        Args:
            ijk_to_ras: (4, 4) of the frame.
            label: number of the structure.
        """

        def pixels(node: Any) -> tuple[tuple[float, float], ...]:
            return tuple((float(x), float(y)) for x, y in to_pixels(points_of(node), ijk_to_ras))

        def lines(tool: str) -> tuple[tuple[tuple[float, float], ...], ...]:
            self.node(tool)  # forgets what was removed from the scene
            return tuple(pixels(n) for n in self._nodes.get(tool, []) if n.GetNumberOfControlPoints() > 1)

        return Prompts(
            pixels(self.node("include")),
            pixels(self.node("exclude")),
            box_of(self.node("box"), ijk_to_ras),
            lines("scribble"),
            lines("erase"),
            label=label,
        )

    def clear(self, *tools: str) -> None:
        """Take the nodes of these tools (default: every prompt) out of the scene."""
        for tool in tools or TOOLS:
            for node in self._nodes.pop(tool, []):
                for observed, tag in [pair for pair in self._observed if pair[0] is node]:
                    observed.RemoveObserver(tag)
                    self._observed.remove((observed, tag))
                if node.GetScene() is not None:
                    node.GetScene().RemoveNode(node)

    def close(self) -> None:
        self.clear(*_CLASSES)

    def _told(self, tool: str) -> Callable[[vtk.vtkObject, str], None]:
        return lambda *_: self.changed.emit(tool)
