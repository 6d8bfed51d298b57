"""The masks of a cine: a sequence of segmentations beside the images, one for every frame, each with its status."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.image import matrix_of
from UltrasoundSegmentLib.masks import notes, pixels
from UltrasoundSegmentLib.masks.labels import SegmentList
from UltrasoundSegmentLib.masks.sequence import find_sequence, make_sequence, node_of, prefill, show
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.watch import EditWatch
from UltrasoundSegmentLib.signal import Signal

MODEL = "model"
"""The annotator of what a model made; people have other names."""


class MaskStore:
    """Masks of a Cine, in MRML and nowhere else: what is saved with the scene is all there is.

    Every frame has a segmentation of its own with the same segments, made in advance, and SaveChanges is on. Without
    that Slicer shows one frame's mask on others, and stores copies of it on frames that were merely visited. Status,
    annotator, time, confidence, model and unfamiliarity are attributes of each frame's segmentation.

    Attributes:
        cine: the frames.
        sequence: vtkMRMLSequenceNode of the masks.
        changed: Signal(index), after the mask or the status of a frame changed.
    """

    def __init__(self, cine: Any, sequence: Any) -> None:
        self.cine = cine
        self.sequence = sequence
        self.changed = Signal()
        self._list = SegmentList(sequence)
        self._watch: EditWatch | None = None
        self._writing = 0

    @classmethod
    def of(cls, cine: Any, labels: Sequence[str] = ()) -> MaskStore:
        """The store of a cine, made where there is none yet; labels that it lacks are added after those it has.

        Errors: SegmentError for names that are no labels, or a new store without any.
        """
        sequence = find_sequence(cine)
        if sequence is None:
            store = cls(cine, make_sequence(cine, labels))
        else:
            store = cls(cine, sequence)
            for label in labels:
                if label not in store.labels:
                    store.add_label(label)
        with store._our_own():
            prefill(cine, store.sequence, store._list)
            store.follow_geometry()
            store.show()
            store._adopt()
        return store

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the label numbers 1, 2, ..."""
        return self._list.names

    @property
    def segment_ids(self) -> tuple[str, ...]:
        """Of the label numbers 1, 2, ..., in every frame's segmentation."""
        return self._list.ids

    def add_label(self, name: str, segment_id: str | None = None) -> int:
        """Add a label, an empty segment, to every frame; its number.

        Args:
            name: new among the labels.
            segment_id: that it has in segmentations that have it already.

        Errors: SegmentError for a name that is none or is there.
        """
        with self._our_own():
            number = self._list.add(name, segment_id)
            prefill(self.cine, self.sequence, self._list)
            self.show()
        return number

    def complete(self, index: int) -> None:
        """Give a frame the segments back that it lacks, empty."""
        with self._our_own():
            node, volume = self._node(index), self.cine.volume(index)
            self._list.complete(node.GetSegmentation(), matrix_of(volume))
            self.show()

    def rename_label(self, number: int, name: str) -> None:
        """Give the label of a number another name, in every frame."""
        with self._our_own():
            self._list.rename(number, name)
            prefill(self.cine, self.sequence, self._list)

    def mask(self, index: int) -> NDArray[np.uint8]:
        """(H, W) uint8 label numbers of a frame, 0 for background."""
        segmentation = self._follow(index).GetSegmentation()
        volume = self.cine.volume(index)
        width, height = volume.GetImageData().GetDimensions()[:2]
        return pixels.read(segmentation, self.segment_ids, (height, width), matrix_of(volume))

    def write(
        self,
        index: int,
        mask: NDArray[np.uint8],
        status: Status,
        *,
        annotator: str = "",
        confidence: float | None = None,
        model: str = "",
        when: float | None = None,
        replace: bool = False,
        unfamiliarity: float | None = None,
    ) -> bool:
        """Replace the mask of a frame.

        Args:
            index: of the frame, from 0.
            mask: (H, W) uint8 label numbers.
            status: how it came to be.
            annotator: the person, "" where a model made it.
            confidence: 0 to 1 of a model's, or None.
            model: that made it or that the person started from, or "".
            when: seconds since 1970 that it was made, None for now.
            replace: a model's also where a person's label is; only for what that person asks for.
            unfamiliarity: above 1 for a frame unlike those that the model was made for; None where it does not say.

        Returns:
            False where a person's label is there and this one is a model's: nothing was changed.

        Errors: SegmentError for a mask that does not fit the frame or the labels, or a model that accepts.
        """
        status = Status(status)
        self._check_said(status, annotator)
        mask = self._checked(index, mask)
        if status.by_model and self.status(index).by_person and not replace:
            return False
        with self._our_own():
            node = self._follow(index)
            pixels.draw(node.GetSegmentation(), self.segment_ids, mask, matrix_of(self.cine.volume(index)))
            self._say(index, status, annotator, confidence, model, when, unfamiliarity)
        self.changed.emit(index)
        return True

    def status(self, index: int) -> Status:
        return notes.status_of(self._node(index))

    def statuses(self) -> list[Status]:
        """Of all frames."""
        return [self.status(index) for index in range(self.cine.count)]

    def info(self, index: int) -> dict[str, Any]:
        """status, annotator, time (seconds since 1970, 0 where nothing was written), confidence or None, model."""
        return notes.read(self._node(index))

    def unfamiliarity(self, index: int) -> float | None:
        """How far a frame is from those that the model of its mask was made for: above 1 unlike them, None unknown."""
        return notes.unfamiliarity_of(self._node(index))

    def mark(self, index: int, status: Status, annotator: str = "") -> bool:
        """Change the status alone. A skipped frame keeps its pixels, so that a mistake can be undone.

        Returns:
            False where a person's label is there and this status is a model's: nothing was changed.

        Errors: SegmentError for a model that accepts.
        """
        status = Status(status)
        if status is Status.EMPTY:
            self.clear(index)
            return True
        self._check_said(status, annotator)
        if status.by_model and self.status(index).by_person:
            return False
        before = self.info(index)
        with self._our_own():
            kept = self.unfamiliarity(index)
            self._say(index, status, annotator, before["confidence"], before["model"], None, kept)
        self.changed.emit(index)
        return True

    def clear(self, index: int) -> None:
        """Nobody looked at this frame: no mask, EMPTY."""
        with self._our_own():
            shape = self.mask(index).shape
            matrix = matrix_of(self.cine.volume(index))
            segmentation = self._node(index).GetSegmentation()
            pixels.draw(segmentation, self.segment_ids, np.zeros(shape, np.uint8), matrix)
            self._say(index, Status.EMPTY, "", None, "", 0.0)
        self.changed.emit(index)

    def segmentation_proxy(self) -> Any:
        """vtkMRMLSegmentationNode that shows the selected frame's mask, and that Segment Editor edits."""
        return self.cine.browser.GetProxyNode(self.sequence)

    def show(self) -> None:
        """Bring the proxy up to the selected frame, with the image that Segment Editor draws on."""
        show(self.cine, self.sequence)

    def follow_geometry(self) -> None:
        """Masks stay on their pixels when the size or place of those changed, by a drawn ruler say."""
        for index in range(self.cine.count):
            self._follow(index)

    def watch(self, annotator: str = "") -> None:
        """From now on an edit of the proxy, by Segment Editor say, makes the selected frame EDITED, and no other."""
        self.unwatch()
        self._watch = EditWatch(self, annotator)

    def unwatch(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    @property
    def writing(self) -> bool:
        """Whether a change under way is the store's own."""
        return self._writing > 0

    def edited(self, index: int, annotator: str) -> None:
        """A person changed the pixels of a frame: its status says so; the model that it started from is kept."""
        with self._our_own():
            self._say(index, Status.EDITED, annotator, None, self.info(index)["model"])
        self.changed.emit(index)

    def _adopt(self) -> None:
        """What was drawn while nobody watched, before the module was opened say, is a person's too."""
        for index, status in enumerate(self.statuses()):
            drawn = status is Status.EMPTY and pixels.has_map(self._node(index).GetSegmentation(), self.segment_ids)
            if drawn and self.mask(index).any():
                self._say(index, Status.EDITED, "", None, "")

    @contextmanager
    def _our_own(self) -> Iterator[None]:
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1
            if self._watch is not None and not self._writing:
                self._watch.know()

    def _node(self, index: int) -> Any:
        return node_of(self.cine, self.sequence, index)

    def _follow(self, index: int) -> Any:
        """The segmentation of a frame, on the grid that its image has now."""
        node, volume = self._node(index), self.cine.volume(index)
        before, now = pixels.grid_of(node), matrix_of(volume)
        if before is None or not pixels.same(before, now):
            with self._our_own():
                if before is not None:
                    pixels.move(node.GetSegmentation(), self.segment_ids, now @ np.linalg.inv(before))
                for each in self._shown(index):
                    pixels.set_grid(each, now, volume.GetImageData().GetDimensions())
        return node

    def _say(self, index: int, status: Status, *said: Any) -> None:
        notes.write(self._shown(index), status, *said)

    def _shown(self, index: int) -> list[Any]:
        """The segmentation of a frame, and the proxy where it shows it.

        The proxy's attributes are copied over the frame's with the next edit: they have to be the same.
        """
        proxy = self.segmentation_proxy() if index == self.cine.selected else None
        return [each for each in (self._node(index), proxy) if each is not None]

    def _checked(self, index: int, mask: NDArray[Any]) -> NDArray[np.uint8]:
        width, height = self.cine.volume(index).GetImageData().GetDimensions()[:2]
        mask = np.asarray(mask)
        if mask.shape != (height, width) or mask.dtype.kind not in "bui":
            raise SegmentError(
                f"The mask of frame {index + 1} is {mask.shape} {mask.dtype}, the frame {(height, width)} pixels: "
                "give label numbers of each of its pixels."
            )
        if mask.size and (int(mask.max()) > len(self.labels) or int(mask.min()) < 0):
            raise SegmentError(
                f"The mask of frame {index + 1} holds {int(mask.max())}; there are {len(self.labels)} labels: add one."
            )
        return mask.astype(np.uint8, copy=False)

    @staticmethod
    def _check_said(status: Status, annotator: str) -> None:
        if status.by_person and annotator == MODEL:
            raise SegmentError(f"A model cannot make a frame {status.value}: name the person who does.")
