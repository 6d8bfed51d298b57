"""Which frames are embedded, in which order, and what is left to do."""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sonodistill.annotate.acquire.store import Key
from sonodistill.annotate.errors import ConflictError, UnknownIdError, UnreachableError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Catalogue, Item
from sonodistill.frames import Frame

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a file are embedded: every k-th, from the first one on, and those that have a label.

    Attributes:
        every: k is at least this.
        most: of a file; k is as large as this needs: 79 of a cine of 10,000 frames.
    """

    every: int = 1
    most: int = 128

    def of(self, frames: int) -> range:
        """The indices for a file of so many frames."""
        return range(0, frames, max(1, self.every, math.ceil(frames / self.most)))


class Walk:
    """What is embedded and what is to be.

    Args:
        catalogue: of the files.
        sampling: of each file's frames.
        seed: of the order of the files, which is drawn, so that the first ones represent the others.

    Attributes:
        items: id -> item, as of the last look.
        total: frames to embed, without those of failed files.
        embedded: how many of these are.
        looks: how often it looked.
    """

    def __init__(self, catalogue: Catalogue, sampling: Sampling, seed: int) -> None:
        self._catalogue, self._sampling, self._seed = catalogue, sampling, seed
        self._kept: dict[FrameId, str] = {}
        self._failed: dict[str, tuple[str, str, str]] = {}
        self._stamps: dict[str, str] = {}
        self._seen: tuple[list[Item], frozenset[FrameId]] | None = None
        self._looked = -math.inf
        self.items: dict[str, Item] = {}
        self.total = self.embedded = self.looks = 0

    def begin(self, kept: Sequence[Key]) -> None:
        """Go on where these rows are kept."""
        self._kept, self._seen = dict(kept), None

    def again(self) -> None:
        """Look again at the next opportunity."""
        self._seen = None

    def failed(self) -> list[tuple[str, str]]:
        """(name, reason) of the files that could not be read."""
        return [(name, reason) for _, name, reason in list(self._failed.values())]

    def changed(self, wanted: Collection[FrameId]) -> bool:
        """Whether to look again: the catalogue or the wanted frames changed, or a minute is over."""
        now = (self._catalogue.items(), frozenset(wanted))
        return now != self._seen or time.monotonic() - self._looked > _LOOK_SECONDS

    def look(self, wanted: Collection[FrameId]) -> list[tuple[Item, list[int]]]:
        """The files that have frames to embed, and which.

        Args:
            wanted: frames that come before all others, whichever index they have: those with a label.
        """
        found, self._looked = self._catalogue.items(), time.monotonic()
        self.looks += 1
        self._seen = found, frozenset(wanted)
        self.items = {item.id: item for item in found}
        of_item = defaultdict(set)
        for frame in wanted:
            of_item[frame.item].add(frame.index)
        total = missing = 0
        first: list[tuple[Item, list[int]]] = []
        others: list[tuple[Item, list[int]]] = []
        for at in np.random.default_rng(self._seed).permutation(len(found)).tolist():
            item = found[at]
            stamp = self._stamps[item.id] = _stamp(item)
            if item.id in self._failed:
                if self._failed[item.id][0] == stamp:
                    continue
                del self._failed[item.id]
            asked = {index for index in of_item.get(item.id, ()) if index < item.frames}
            wished = sorted(asked.union(self._sampling.of(item.frames)))
            left = [index for index in wished if not self._has_now(FrameId(item.id, index), stamp)]
            total, missing = total + len(wished), missing + len(left)
            if left:
                (others if asked.isdisjoint(left) else first).append((item, left))
        self.total, self.embedded = total, total - missing
        return first + others

    def frames(self, item: Item, indices: Sequence[int]) -> Iterator[tuple[FrameId, Frame]]:
        """The frames; a file that cannot be read ends early and is listed in :meth:`failed`.

        Errors: UnreachableError, ConflictError: of the catalogue as a whole.
        """
        left = set(indices)
        try:
            for frame in self._catalogue.read(item, only=indices):
                left.discard(frame.index)
                yield FrameId(item.id, frame.index), frame
        except (UnreachableError, ConflictError):
            raise
        except UnknownIdError:  # gone since it was listed
            self.total -= len(left)
        except Exception as error:  # noqa: BLE001 - whatever a decoder raises is a fault of this file
            logger.info("%s is not embedded: %s", item.id, type(error).__name__)
            said = getattr(error, "message", None) or type(error).__name__
            self._failed[item.id] = (self._stamps.get(item.id, ""), item.name, str(said)[:300])
            self.total -= len(left)

    def key(self, frame: FrameId) -> Key:
        """What its row is kept under."""
        item = self.items.get(frame.item)
        return frame, "" if item is None else _stamp(item)

    def done(self, keys: Sequence[Key]) -> None:
        """These rows are kept now."""
        self._kept.update(keys)
        self.embedded += len(keys)

    def has(self, frame: FrameId) -> bool:
        """Whether a row of this frame is kept."""
        return frame in self._kept

    def is_current(self, key: Key) -> bool:
        """Whether a row is of a frame that is in the catalogue as it was then."""
        frame, stamp = key
        item = self.items.get(frame.item)
        return item is not None and frame.index < item.frames and _same(stamp, self._stamps.get(frame.item, ""))

    def _has_now(self, frame: FrameId, stamp: str) -> bool:
        kept = self._kept.get(frame)
        return kept is not None and _same(kept, stamp)


def _stamp(item: Item) -> str:
    """Changes when the file is replaced; "" where that cannot be known (a remote file that is not here)."""
    try:
        return str(item.path.stat().st_size)
    except OSError:
        return ""


def _same(a: str, b: str) -> bool:
    return a == b or not a or not b
