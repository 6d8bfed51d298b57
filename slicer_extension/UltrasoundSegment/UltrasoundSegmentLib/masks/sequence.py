"""The MRML side of the masks: a sequence of segmentations that is whole, synchronised and saved as it is edited."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import vtk

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import matrix_of
from UltrasoundSegmentLib.masks import pixels
from UltrasoundSegmentLib.masks.labels import SegmentList

_ROLE = "SonoDistill.role"
_MASKS = "masks"


def find_sequence(cine: Any) -> Any:
    """vtkMRMLSequenceNode of the masks of a cine, or None."""
    found = vtk.vtkCollection()
    cine.browser.GetSynchronizedSequenceNodes(found, False)
    for place in range(found.GetNumberOfItems()):
        sequence = found.GetItemAsObject(place)
        if sequence.GetAttribute(_ROLE) == _MASKS:
            return sequence
    return None


def make_sequence(cine: Any, labels: Sequence[str]) -> Any:
    """A new one beside the images, with an empty segmentation for every frame."""
    if not labels:
        raise SegmentError("Masks need a label: name at least one structure.")
    images, master = cine.images, cine.browser.GetMasterSequenceNode()
    sequence = slicer.vtkMRMLSequenceNode()
    sequence.SetName(f"{images.GetName()} masks")
    sequence.SetIndexName(master.GetIndexName())
    sequence.SetIndexUnit(master.GetIndexUnit())
    sequence.SetIndexType(master.GetIndexType())
    sequence.SetNumericIndexValueTolerance(master.GetNumericIndexValueTolerance())
    sequence.SetAttribute(_ROLE, _MASKS)
    names = SegmentList(sequence)
    for label in labels:
        names.add(label)
    cine.scene.AddNode(sequence)
    prefill(cine, sequence, names)
    cine.browser.AddSynchronizedSequenceNode(sequence.GetID())
    return sequence


def prefill(cine: Any, sequence: Any, names: SegmentList) -> None:
    """Every frame has a segmentation with every segment, and what is edited is kept; nothing that is there is lost."""
    master = cine.browser.GetMasterSequenceNode()
    for index in range(cine.count):
        value = master.GetNthIndexValue(index)
        node = sequence.GetDataNodeAtValue(value, True)
        if node is None:
            node = sequence.SetDataNodeAtValue(_empty(cine, index, names), value)
        else:
            names.complete(node.GetSegmentation(), matrix_of(cine.volume(index)))
    browser = cine.browser
    if browser.IsSynchronizedSequenceNode(sequence) and not browser.GetSaveChanges(sequence):
        browser.SetSaveChanges(sequence, True)
    # Should a frame be added later: by default Slicer would copy the mask of the frame before onto it.
    mode = browser.MissingItemCreateFromDefault
    if browser.IsSynchronizedSequenceNode(sequence) and browser.GetMissingItemMode(sequence) != mode:
        browser.SetMissingItemMode(sequence, mode)


def node_of(cine: Any, sequence: Any, index: int) -> Any:
    """vtkMRMLSegmentationNode of a frame, in the sequence. Errors: SegmentError."""
    if not 0 <= index < cine.count:
        raise SegmentError(f"There is no frame {index + 1}: the cine has {cine.count}.")
    master = cine.browser.GetMasterSequenceNode()
    if master is None or sequence.GetScene() is None:
        raise SegmentError("The cine or its masks were removed from the scene: choose a cine again.")
    value = master.GetNthIndexValue(index)
    if sequence.GetNthIndexValue(index) == value:
        return sequence.GetNthDataNode(index)
    node = sequence.GetDataNodeAtValue(value, True)
    if node is None:
        raise SegmentError(f"Frame {index + 1} has no mask: open the cine again after frames were added.")
    return node


def show(cine: Any, sequence: Any) -> None:
    """Bring the proxy up to the selected frame: its pixels are the frame's own, and it draws on the frame's image."""
    proxy = cine.browser.GetProxyNode(sequence)
    if proxy is None or cine.selected < 0:
        return
    node = node_of(cine, sequence, cine.selected)
    if proxy.GetSegmentation() is not node.GetSegmentation():
        proxy.CopyContent(node, False)
    for key in node.GetAttributeNames():
        if key.startswith("SonoDistill."):
            proxy.SetAttribute(key, node.GetAttribute(key))
    if proxy.GetDisplayNode() is None:
        proxy.CreateDefaultDisplayNodes()
    image = cine.proxy()
    role = proxy.GetReferenceImageGeometryReferenceRole()
    if image is not None and proxy.GetNodeReferenceID(role) != image.GetID():
        proxy.SetNodeReferenceID(role, image.GetID())
    if image is not None and proxy.GetTransformNodeID() != image.GetTransformNodeID():
        proxy.SetAndObserveTransformNodeID(image.GetTransformNodeID())  # of a tracker, say: masks move with images


def _empty(cine: Any, index: int, names: SegmentList) -> Any:
    volume = cine.volume(index)
    grid = matrix_of(volume)
    node = slicer.vtkMRMLSegmentationNode()
    segmentation = node.GetSegmentation()
    segmentation.SetSourceRepresentationName(pixels.BINARY)
    pixels.set_grid(node, grid, volume.GetImageData().GetDimensions())
    names.complete(segmentation, grid)
    return node
