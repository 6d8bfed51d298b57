"""Notices what a person draws on the selected frame, in Segment Editor or elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.masks.labels import MAX_LABELS

if TYPE_CHECKING:
    from UltrasoundSegmentLib.masks.store import MaskStore

_EVENTS = (
    "SourceRepresentationModified",
    "RepresentationModified",
    "SegmentAdded",
    "SegmentRemoved",
    "SegmentModified",
)


class EditWatch:
    """Tells the store when the pixels of the selected frame are others than they were.

    Slicer says that a segmentation changed also when another frame is shown or nothing was drawn; the pixels decide.

    Args:
        store: whose proxy is watched.
        annotator: who draws.
    """

    def __init__(self, store: MaskStore, annotator: str) -> None:
        self._store = store
        self._annotator = annotator
        self._known: tuple[int, NDArray[np.uint8]] | None = None
        self._looking = False
        self._nodes: tuple[Any, Any] = (None, None)
        self._observed: list[tuple[Any, int]] = []
        self._browser = store.cine.browser
        self._tag = self._browser.AddObserver("ModifiedEvent", self._selected)
        self._observe()
        self.know()

    def close(self) -> None:
        """Watch no longer."""
        self._browser.RemoveObserver(self._tag)
        self._observe(None, None)

    def _observe(self, *nodes: Any) -> None:
        """Watch the proxies of now, by default: Slicer makes others where somebody removed them from the scene."""
        cine = self._store.cine
        mask, image = nodes or (self._store.segmentation_proxy(), cine.browser.GetProxyNode(cine.images))
        if mask is self._nodes[0] and image is self._nodes[1]:
            return
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._nodes, self._observed = (mask, image), []
        if mask is not None:
            events = [getattr(slicer.vtkSegmentation, each) for each in _EVENTS]
            self._observed = [(mask, mask.AddObserver(event, self._look)) for event in events]
        if image is not None:
            event = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
            self._observed.append((image, image.AddObserver(event, self._placed)))

    def _placed(self, *_: Any) -> None:
        """The image went under another transform: its masks go along, else what is drawn on it lies beside them."""
        mask, image = self._nodes
        if mask is not None and mask.GetTransformNodeID() != image.GetTransformNodeID():
            self._store.show()

    def know(self) -> None:
        """The pixels of the selected frame as they are now are nobody's edit."""
        index = self._store.cine.selected
        if 0 <= index < self._store.cine.count:
            self._known = index, self._store.mask(index)

    def _selected(self, *_: Any) -> None:
        self._observe()
        if self._known is None or self._known[0] != self._store.cine.selected:
            self.know()

    def _look(self, *_: Any) -> None:
        store = self._store
        if store.writing or self._looking:
            return
        self._looking = True
        try:
            index = store.cine.selected
            if self._known is None or self._known[0] != index:
                self.know()
                return
            self._keep_list(index)
            mask = store.mask(index)
            if not np.array_equal(mask, self._known[1]):
                self._known = index, mask
                store.edited(index, self._annotator)
        finally:
            self._looking = False

    def _keep_list(self, index: int) -> None:
        """A segment added or renamed here is one of every frame; one removed here is only empty here."""
        store = self._store
        before = self._known
        segmentation = store.segmentation_proxy().GetSegmentation()
        for segment_id in segmentation.GetSegmentIDs():
            name = segmentation.GetSegment(segment_id).GetName() or segment_id
            if segment_id not in store.segment_ids:
                if len(store.labels) < MAX_LABELS:
                    store.add_label(_free(name, store.labels), segment_id)
            elif (number := store.segment_ids.index(segment_id)) is not None and store.labels[number] != name:
                store.rename_label(number + 1, _free(name, store.labels))
        if any(segmentation.GetSegment(each) is None for each in store.segment_ids):
            store.complete(index)
        self._known = before


def _free(name: str, taken: tuple[str, ...]) -> str:
    """The name, with a number where it is taken."""
    name = "".join(each for each in name.strip() if each.isprintable())[:56] or "label"
    number, found = 2, name
    while found in taken:
        found, number = f"{name} {number}", number + 1
    return found
