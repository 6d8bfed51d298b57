"""The prompts that are being drawn on a frame: which mask they go on from, and what was there before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends.model import Prompts
from UltrasoundSegmentLib.masks.status import Status

if TYPE_CHECKING:
    from UltrasoundSegmentLib.masks.store import MaskStore


class Drawing:
    """One label of one frame at a time.

    Attributes:
        wrote: time of the mask that the prompts made last, which a further answer may replace.
    """

    def __init__(self, store: MaskStore) -> None:
        self._store = store
        self._begun: tuple[int, int, NDArray[np.uint8], dict[str, Any]] | None = None
        self._last = Prompts()
        self.wrote: float | None = None

    def goes_on_from(self, index: int, prompts: Prompts) -> NDArray[np.uint8]:
        """(H, W): the mask so far where prompts were added, else the mask from before the first of them."""
        begun, last = self._begun, self._last
        if begun is None or begun[:2] != (index, prompts.label) or self.drawn_over:
            info = {**self._store.info(index), "unfamiliarity": self._store.unfamiliarity(index)}
            begun = self._begun = index, prompts.label, self._store.mask(index), info
            last = Prompts()
        self._last = prompts
        return self._store.mask(index) if continues(last, prompts) else begun[2]

    @property
    def drawn_over(self) -> bool:
        """Whether the frame was changed by anything else since, such as a person's hand."""
        if self._begun is None:
            return False
        return self._store.info(self._begun[0])["time"] not in (self._begun[3]["time"], self.wrote)

    def end(self, *, undo: bool) -> None:
        """``undo``: the frame becomes as it was before the first prompt, unless it was drawn over."""
        undo = undo and not self.drawn_over
        begun, self._begun, self._last = self._begun, None, Prompts()
        if not undo or begun is None:
            return
        index, _, mask, info = begun
        if not info["status"].by_person:
            self._store.clear(index)  # a model's mask may not replace a person's
        if info["status"] is not Status.EMPTY:
            said = {name: info[name] for name in ("annotator", "confidence", "model", "unfamiliarity")}
            self._store.write(index, mask, info["status"], **said)


def continues(before: Prompts, now: Prompts) -> bool:
    """Whether prompts were added only: a click that was taken back must not leave its mask."""
    if before.box != now.box or before.empty:
        return False
    pairs = (
        (before.positive, now.positive),
        (before.negative, now.negative),
        (before.scribbles, now.scribbles),
        (before.negative_scribbles, now.negative_scribbles),
    )
    return all(new[: len(old)] == old for old, new in pairs)
