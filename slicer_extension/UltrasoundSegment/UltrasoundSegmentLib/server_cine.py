"""An item of the server as a cine: it keeps where it is from, and finds itself again in the scene."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from UltrasoundSegmentLib.frames.build import Facts, build_cine
from UltrasoundSegmentLib.frames.calibration import GEOMETRY
from UltrasoundSegmentLib.frames.cine import PREFIX, Cine
from UltrasoundSegmentLib.masks.status import Status

if TYPE_CHECKING:
    from UltrasoundSegmentLib.backends.items import Fetched, Label
    from UltrasoundSegmentLib.masks.store import MaskStore


def make_cine(scene: Any, found: Fetched, server: str) -> Cine:
    """The frames in the scene: rows to the patient's foot, columns to the left, as Slicer shows stills.

    Where the server does not say the size of a pixel, it is one unit of no length.
    """
    rows, columns = found.spacing_mm or (1.0, 1.0)
    place = np.diag([-columns, -rows, 1.0, 1.0])
    attributes = {"item": found.id, "server": server, "server_labels": json.dumps(list(found.names))}
    known = {"source": GEOMETRY} if found.spacing_mm else {"scale_warnings": ("The server does not say the scale.",)}
    facts = Facts(attributes=attributes, key=f"{server}/{found.id}", **known)  # type: ignore[arg-type]
    return build_cine(scene, found.name, ((frame, place) for frame in found.frames), None, facts)


def cine_of(scene: Any, server: str, item: str) -> Cine | None:
    """The cine of an item that is open already."""
    for number in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceNode")):
        node = scene.GetNthNodeByClass(number, "vtkMRMLSequenceNode")
        if (node.GetAttribute(PREFIX + "item"), node.GetAttribute(PREFIX + "server")) == (item, server):
            return Cine.of_sequence(node)
    return None


def labels_of(cine: Cine) -> tuple[str, ...]:
    """The server's labels, in the order of its numbers."""
    try:
        names = json.loads(cine.attribute("server_labels") or "[]")
    except ValueError:
        names = []
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def keep(store: MaskStore, index: int, label: Label) -> None:
    """Take over the server's label of a frame, unless something is there already."""
    if store.status(index) is not Status.EMPTY:
        return
    if label.status == Status.SKIPPED.value:
        store.mark(index, Status.SKIPPED, label.annotator)
    elif label.mask is not None:
        status = Status(label.status)
        who = label.annotator if status.by_person else ""
        store.write(index, label.mask, status, annotator=who, confidence=label.confidence)
