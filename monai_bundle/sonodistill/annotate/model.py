"""What is annotated and what an annotation is."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.ids import FrameId
from sonodistill.frames import Frame

MODEL = "model"
"""The annotator of what a model predicted; people have other names."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file that frames come from.

    Attributes:
        id: see ``ids``.
        name: for people: the path relative to the studies, or "US <n> frames" in a PACS (no text of a tag).
        kind: "image", "dicom", "video" or "volume".
        frames: how many, 1 or more.
        path: where the file lies; of an instance of a PACS, where its copy lies once it was fetched.
        group: what is never divided between training and validation: the patient's, study's or folder's, as an
            opaque text; "" where unknown, which makes the item its own group.
        series: Series Instance UID of DICOM, else "".
    """

    id: str
    name: str
    kind: str
    frames: int
    path: Path
    group: str = ""
    series: str = ""

    @property
    def is_cine(self) -> bool:
        return self.frames > 1


class Catalogue(Protocol):
    """The items that can be annotated. Every method may be called from any thread."""

    def items(self) -> list[Item]:
        """All of them, in a stable order; no file is read for it."""
        ...

    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of the files that cannot be annotated."""
        ...

    def item(self, id: str) -> Item:
        """Errors: InvalidIdError, UnknownIdError."""
        ...

    def locate(self, text: str) -> tuple[Item, int | None]:
        """What a client means: an item (index None), or a frame of one. The only frame of a still is None too.

        Errors: InvalidIdError; UnknownIdError, also for a frame that the item does not have.
        """
        ...

    def read(self, item: Item, only: Collection[int] | None = None) -> Iterator[Frame]:
        """The frames, or those wanted, in their order; DICOM decoded by the isolated reader. See ``frames.read``."""
        ...

    def frame(self, id: FrameId) -> Frame:
        """One frame, from memory where it was read lately."""
        ...

    def file(self, item: Item) -> Path:
        """The item's own file, fetched where it is remote."""
        ...

    def refresh(self) -> bool:
        """Look for new and vanished files; whether anything changed."""
        ...

    def close(self) -> None: ...


class Status(str, Enum):
    """How a label came to be; only people accept.

    PREDICTED: by a model, unseen. PROPAGATED: carried on from another frame by a model. EDITED: drawn or corrected by
    a person, unfinished. ACCEPTED: a person says it is right; this is what is trained on. SKIPPED: a person says the
    frame is not to be labelled; it has no mask.
    """

    PREDICTED = "predicted"
    PROPAGATED = "propagated"
    EDITED = "edited"
    ACCEPTED = "accepted"
    SKIPPED = "skipped"


FINAL = (Status.ACCEPTED,)
"""What is trained on and exported by default."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """An annotation without its pixels.

    Attributes:
        frame: which.
        annotator: who; ``MODEL`` for what nobody touched.
        status: how it came to be.
        classification: class of the frame as a whole, "" where none was given.
        time: seconds since 1970, UTC, when it was saved.
        model: what it started from, "interactive 3" say, or "".
        confidence: 0 to 1 of a prediction or propagation, else None.
        revision: grows with every write of the store; of this write.
        shape: (H, W) of the mask, None where there is none (skipped, or classified only).
        pixels: how many are not background.
        info: what a client wants kept with it, JSON values.
    """

    frame: FrameId
    annotator: str
    status: Status
    classification: str = ""
    time: float = 0.0
    model: str = ""
    confidence: float | None = None
    revision: int = 0
    shape: tuple[int, int] | None = None
    pixels: int = 0
    info: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Label:
    """An annotation: its row, and its mask (H, W) uint8 of label numbers, 0 for background, or None."""

    row: LabelRow
    mask: NDArray[np.uint8] | None


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a person says of one structure in one frame, in pixels of the frame, (x, y) from the centre of the first.

    Attributes:
        positive, negative: points (x, y) that belong to it, and that do not.
        box: (x0, y0, x1, y1) around it, or None.
        mask: (H, W) bool, the mask so far, or None.
    """

    positive: tuple[tuple[float, float], ...] = ()
    negative: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None
    mask: NDArray[np.bool_] | None = None
