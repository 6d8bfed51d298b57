"""What became of each frame that was to be written or read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Skipped(NamedTuple):
    """What was left out, and why.

    Attributes:
        what: id of the frame, else what an entry of a file is called.
        reason: one sentence.
    """

    what: str
    reason: str


@dataclass
class Report:
    """Attributes:
    written: ids of the frames whose labels were written or taken over.
    skipped: what was not.
    unchanged: ids of the frames that had the same label already; of an import only.
    files: that were written; of an export only.
    """

    written: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    def skip(self, what: object, reason: object) -> None:
        """Note what was left out; long texts are cut."""
        self.skipped.append(Skipped(str(what)[:300], str(reason)[:300]))
