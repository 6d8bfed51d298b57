"""What every way in shares: a file is spooled whole, looked at, and becomes a job once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol


class Outcome(str, Enum):
    """What became of a file that arrived; the first two are a success for whoever sent it."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a file.

    Attributes:
        outcome: accepted (it is a job now, safe on disk), known (it was one already), or refused.
        job: number of the job; a refused file has one too, so that it is accounted for.
        reason: why it was refused; empty otherwise.
    """

    outcome: Outcome
    job: int
    reason: str = ""


class Intake(Protocol):
    """Where files go that arrive."""

    def has_room(self) -> bool:
        """Whether the disk has room above the watermark; when not, nothing is taken."""
        ...

    def incoming(self) -> AbstractContextManager[Path]:
        """A new path in the spool to write a file to; what is still there at the end of the block is removed."""
        ...

    def turn_away(self, reason: str, *, via: str, peer: str) -> None:
        """Note what was refused before there was a whole file: it is accounted for, though it is no job."""
        ...

    def accept(self, path: Path, *, via: str, peer: str) -> Receipt:
        """Take a file of ``incoming``, complete but not yet flushed to disk; it is moved away.

        Args:
            path: from ``incoming``.
            via: "dimse", "stow", "watch" or "dicomweb".
            peer: AE title, address or folder it came from.
        """
        ...
