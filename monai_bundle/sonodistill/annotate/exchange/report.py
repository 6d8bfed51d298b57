"""What became of each label that was to be written or read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

_LONGEST = 300


class Skipped(NamedTuple):
    """What was left out, and why.

    Attributes:
        what: id of the frame or item, else the name of a file or of an entry of one.
        reason: one sentence.
    """

    what: str
    reason: str


@dataclass(slots=True)
class Report:
    """Attributes:
    written: ids of the frames whose labels were written or taken over.
    skipped: what was not.
    unchanged: ids of the frames that had the same label already; of an import only.
    """

    written: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)

    def skip(self, what: object, reason: object) -> None:
        """Note what was left out; long texts are cut."""
        self.skipped.append(Skipped(str(what)[:_LONGEST], str(reason)[:_LONGEST]))
