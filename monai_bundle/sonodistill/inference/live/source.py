"""What a live source is, and which one an address names."""

from __future__ import annotations

import re
from collections.abc import Generator
from pathlib import Path
from threading import Event
from typing import Protocol

from sonodistill.errors import SonoDistillError
from sonodistill.frames import Frame

SCHEMES = ("igtl://", "device:")


class SourceError(SonoDistillError):
    """A live source cannot be opened, was lost, or sends what cannot be used."""


class Source(Protocol):
    """An opened source of frames.

    Attributes:
        lost: the connection broke and is being tried again.
        reconnects: how often it came back.
        hint: what may explain that no frame comes; empty where nothing is known.
    """

    lost: bool
    reconnects: int

    @property
    def hint(self) -> str: ...

    def frames(self, stop: Event) -> Generator[Frame, None, None]:
        """Frames as they arrive, numbered from 0, until the source ends or ``stop`` is set; closes the source.

        Errors: SourceError, or what the reader of a file raises.
        """
        ...


def is_live(source: str) -> bool:
    """Whether an address names a live source and no file: ``igtl://...`` or ``device:...``."""
    return source.startswith(SCHEMES)


def name_of(source: str) -> str:
    """What a source's mask files are called after: the name of the file, or the address without special characters."""
    if not is_live(source):
        return Path(source).name
    return re.sub(r"[^A-Za-z0-9.-]+", "_", source).strip("_.")[:80] or "live"


def open_source(source: str) -> Source:
    """Open ``igtl://host:port[/device]``, ``device:[FORMAT:]NAME``, or a file to be played at its own pace.

    Errors: SourceError (malformed address, nobody there, no such device, a package that is not installed).
    """
    if source.startswith("igtl://"):
        from sonodistill.inference.live.igtl import IgtlSource

        return IgtlSource(source)
    if source.startswith("device:"):
        from sonodistill.inference.live.device import DeviceSource

        return DeviceSource(source)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source):
        raise SourceError(
            f"{source!r:.100} is no live source that is known",
            remedy="name igtl://host:port[/device], device:NAME, device:FORMAT:NAME, or a cine or video file",
        )
    from sonodistill.inference.live.paced import PacedFile

    return PacedFile(Path(source))
