"""Where results go: one verb for every destination, and errors that say whether trying again can help."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Destination(Protocol):
    """A place that takes results.

    Attributes:
        name: as the configuration has it.
    """

    name: str

    def send(self, paths: Sequence[Path]) -> None:
        """Send DICOM files; returns only when the destination has confirmed each of them.

        Sending one again is harmless: its UID is the same, so that a PACS keeps one.

        Errors: DeliveryError (it may work later: no connection, no answer, out of resources) and
            RefusedDeliveryError (it never will).
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...
