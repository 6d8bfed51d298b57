"""Errors that say what was found and what to do about it."""

from __future__ import annotations


class SegmentError(Exception):
    """Something the user can mend; its text is shown as it is."""


class Cancelled(SegmentError):
    """The user stopped it."""

    def __init__(self, what: str = "Stopped.") -> None:
        super().__init__(what)
