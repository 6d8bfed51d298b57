"""What sequences and their browsers hold."""

from __future__ import annotations

from collections.abc import Iterator

import vtk

import slicer


def data_nodes(sequence: slicer.vtkMRMLSequenceNode) -> Iterator[slicer.vtkMRMLNode]:
    """The nodes a sequence holds, in its order."""
    return (sequence.GetNthDataNode(index) for index in range(sequence.GetNumberOfDataNodes()))


def sequences_of(browser: slicer.vtkMRMLSequenceBrowserNode) -> list[slicer.vtkMRMLSequenceNode]:
    """Every sequence of a browser, its master first."""
    found = vtk.vtkCollection()
    browser.GetSynchronizedSequenceNodes(found, True)
    return [found.GetItemAsObject(index) for index in range(found.GetNumberOfItems())]


def images_of(browser: slicer.vtkMRMLSequenceBrowserNode | None) -> slicer.vtkMRMLSequenceNode | None:
    """The first sequence of a browser that holds volumes, its master where that does; None where none does."""
    if browser is None or browser.GetMasterSequenceNode() is None:
        return None
    holding = (sequence for sequence in sequences_of(browser) if sequence.GetNumberOfDataNodes())
    return next((sequence for sequence in holding if is_volume(sequence.GetNthDataNode(0))), None)


def is_volume(node: slicer.vtkMRMLNode) -> bool:
    """Whether a node is an image, and no label map."""
    return node.IsA("vtkMRMLVolumeNode") and not node.IsA("vtkMRMLLabelMapVolumeNode")
