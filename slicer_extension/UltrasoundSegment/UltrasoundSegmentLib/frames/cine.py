"""A cine: a sequence browser whose images are one-slice volumes, read frame by frame."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.calibration import Calibration, of_cine
from UltrasoundSegmentLib.frames.frame import Frame, NoFrameError
from UltrasoundSegmentLib.frames.image import gray, matrix_of, pixels
from UltrasoundSegmentLib.frames.sequences import data_nodes, images_of, is_volume
from UltrasoundSegmentLib.frames.world import parents_to_world

PREFIX = "SonoDistill."
"""What the attributes of this extension begin with; they stand on the image sequence and are saved with the scene."""

_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3}


class NotACineError(SegmentError):
    """A browser or sequence holds no images."""


class Cine:
    """The images of a sequence browser, whoever loaded them.

    Nothing is kept outside the scene: two objects of one browser are the same cine, and so is one of a scene that was
    saved and loaded.

    Attributes:
        browser: the vtkMRMLSequenceBrowserNode.
        images: the sequence of one-slice volumes. It is the browser's master sequence, or, where that holds something
            else (transforms of a tracker), the first synchronised sequence of volumes.

    Errors: NotACineError where there is none.
    """

    def __init__(self, browser: slicer.vtkMRMLSequenceBrowserNode) -> None:
        self.browser = browser
        images = images_of(browser)
        if images is None:
            name = browser.GetName() if browser is not None else "nothing"
            raise NotACineError(f"“{name}” holds no sequence of images: choose a browser of an ultrasound cine.")
        self.images: slicer.vtkMRMLSequenceNode = images
        self._master = browser.GetMasterSequenceNode()
        if self.attribute("key") is None:
            self.set_attribute("key", _new_key(self.volume(0), images))

    @classmethod
    def of_sequence(cls, images: slicer.vtkMRMLSequenceNode) -> Cine:
        """The cine of a sequence of volumes: of the browser it is the master of, or of a new one."""
        scene = images.GetScene()
        if not any(is_volume(node) for node in data_nodes(images)):
            raise NotACineError(f"“{images.GetName()}” holds no images: choose a sequence of ultrasound images.")
        for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
            browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
            if browser.GetMasterSequenceNode() is images:
                return cls(browser)
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", f"{images.GetName()} browser")
        browser.SetAndObserveMasterSequenceNodeID(images.GetID())
        browser.SetSelectedItemNumber(0)
        return cls(browser)

    @property
    def scene(self) -> slicer.vtkMRMLScene:
        return self.browser.GetScene()

    @property
    def name(self) -> str:
        return self.images.GetName() or "cine"

    @property
    def count(self) -> int:
        """Number of frames."""
        return self._master.GetNumberOfDataNodes()

    @property
    def key(self) -> str:
        """What names the cine for good: the SOP instance UID of its file, or an identifier of its own."""
        return self.attribute("key") or self.images.GetID()

    @property
    def calibration(self) -> Calibration:
        return of_cine(self)

    @property
    def selected(self) -> int:
        """The frame on display."""
        return self.browser.GetSelectedItemNumber()

    def select(self, index: int) -> None:
        """Put a frame on display."""
        self._check(index)
        self.browser.SetSelectedItemNumber(index)
        if self.browser.GetProxyNode(self.images) is None:
            self.refresh()

    def volume(self, index: int) -> slicer.vtkMRMLVolumeNode:
        """The data node of a frame, kept in the sequence; it is not on display."""
        self._check(index)
        if self.images is self._master:
            return self.images.GetNthDataNode(index)
        node = self.images.GetDataNodeAtValue(self._master.GetNthIndexValue(index), False)
        if node is None:
            raise NoFrameError(f"“{self.name}” has no image for item {index + 1} of {self.count}.")
        return node

    def ijk_to_world(self, index: int) -> NDArray[np.float64]:
        """(4, 4) IJK to world RAS of a frame, with the transforms that the volume on display is under.

        A transform that follows the browser as well, as a tracker's does, has its value of that frame.

        Errors: NoLinearTransformError.
        """
        return parents_to_world(self.proxy(), lambda node: self._at(node, index)) @ matrix_of(self.volume(index))

    def proxy(self) -> slicer.vtkMRMLVolumeNode:
        """The volume on display: the selected frame."""
        if self.browser.GetProxyNode(self.images) is None:
            self.refresh()
        return self.browser.GetProxyNode(self.images)

    def refresh(self) -> None:
        """Bring what is on display up to date with the data nodes."""
        modules = getattr(slicer, "modules", None)
        module = getattr(modules, "sequences", None)
        logic = module.logic() if module is not None else None
        if logic is not None and logic.GetMRMLScene() is self.scene:
            logic.UpdateProxyNodesFromSequences(self.browser)
            return
        logic = slicer.vtkSlicerSequencesLogic()
        logic.SetMRMLScene(self.scene)
        logic.UpdateProxyNodesFromSequences(self.browser)
        logic.SetMRMLScene(None)

    def frame(self, index: int) -> Frame:
        """A frame as gray image.

        Errors: NoFrameError; NoPixelsError where its volume is empty or has several slices.
        """
        volume = self.volume(index)
        values = pixels(volume)
        low, high = (0.0, 255.0) if values.dtype == "uint8" else self.range()
        return Frame(gray(values, low, high), index, self.time(index), matrix_of(volume), f"{self.key}#{index}")

    def frames(self) -> Iterator[Frame]:
        """All frames, one at a time."""
        return (self.frame(index) for index in range(self.count))

    def range(self) -> tuple[float, float]:
        """(lowest, highest) value of all frames, which become 0 and 255 where a pixel has more than eight bits."""
        stored = self.attribute("range")
        if stored is None:
            ends = [self.volume(index).GetImageData().GetScalarRange() for index in range(self.count)]
            stored = f"{min(low for low, _ in ends)!r} {max(high for _, high in ends)!r}"
            self.set_attribute("range", stored)
        low, high = map(float, stored.split())
        return low, high

    def time(self, index: int) -> float | None:
        """Seconds from the first frame, None where unknown.

        Read from the index of the sequence where its unit is one of time; a frame number is no time.
        """
        self._check(index)
        stored = self.attribute("times")
        if stored is not None:
            return json.loads(stored)[index]
        factor = _SECONDS.get((self._master.GetIndexUnit() or "").strip().lower())
        if factor is None:
            return None
        first, value = (_number(self._master.GetNthIndexValue(i)) for i in (0, index))
        return None if first is None or value is None else (value - first) * factor

    def times(self) -> list[float | None]:
        """``time`` of every frame."""
        stored = self.attribute("times")
        return json.loads(stored) if stored is not None else [self.time(index) for index in range(self.count)]

    @property
    def region(self) -> tuple[int, int, int, int] | None:
        """(x0, y0, x1, y1), half-open pixels, of the part that shows tissue; None: the whole frame."""
        stored = self.attribute("region")
        if not stored:
            return None
        x0, y0, x1, y1 = map(int, stored.split())
        return x0, y0, x1, y1

    def set_region(self, box: tuple[int, int, int, int] | None) -> None:
        """Keep (x0, y0, x1, y1), half-open, clipped to the frame; None for the whole frame.

        Errors: SegmentError where nothing of the box lies in the frame.
        """
        if box is None:
            self.set_attribute("region", None)
            return
        columns, rows, _ = self.volume(0).GetImageData().GetDimensions()
        x0, y0, x1, y1 = (round(value) for value in box)
        inside = max(x0, 0), max(y0, 0), min(x1, columns), min(y1, rows)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise SegmentError(
                f"The region {x0}, {y0} to {x1}, {y1} is outside the frame of {columns} x {rows} pixels."
            )
        self.set_attribute("region", " ".join(map(str, inside)))

    def attribute(self, name: str) -> str | None:
        """An attribute of the cine, kept on its image sequence."""
        return self.images.GetAttribute(PREFIX + name)

    def set_attribute(self, name: str, value: str | None) -> None:
        """Keep an attribute of the cine; None takes it away."""
        if value is None:
            self.images.RemoveAttribute(PREFIX + name)
        else:
            self.images.SetAttribute(PREFIX + name, value)

    def _at(self, proxy: slicer.vtkMRMLNode, index: int) -> slicer.vtkMRMLNode:
        """What a proxy of this browser shows at a frame; any other node itself."""
        sequence = self.browser.GetSequenceNode(proxy)
        node = None if sequence is None else sequence.GetDataNodeAtValue(self._master.GetNthIndexValue(index), False)
        return proxy if node is None else node

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise NoFrameError(f"There is no frame {index + 1}: “{self.name}” has {self.count}.")


def _new_key(volume: slicer.vtkMRMLVolumeNode, images: slicer.vtkMRMLSequenceNode) -> str:
    # Identifiers of nodes are given anew when a scene is read into another one.
    instances = (volume.GetAttribute("DICOM.instanceUIDs") or "").split()
    return instances[0] if instances else f"{images.GetID()}-{uuid.uuid4().hex[:12]}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
