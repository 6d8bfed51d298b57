"""A cine or video file that hands its frames out at the times the file states: a live session rehearsed."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from threading import Event

from sonodistill.frames import Frame, read
from sonodistill.frames.find import kind_of
from sonodistill.inference.live.source import SourceError


class PacedFile:
    """A file played in real time; see ``source.Source``. The times are the file's, none is assumed."""

    def __init__(self, path: Path) -> None:
        kind_of(path)  # a missing, empty or unknown file is refused here
        self.path = path
        self.lost = False
        self.reconnects = 0
        self.hint = ""

    def frames(self, stop: Event) -> Generator[Frame, None, None]:
        start = None
        for frame in read(self.path):
            if frame.time_ms is None:
                raise SourceError(
                    f"frame {frame.index + 1} states no time, so that the file cannot be played at its own pace",
                    path=self.path,
                    remedy="use a cine or video that states its frame times, or segment it without a latency budget",
                )
            now = time.monotonic()
            start = now - frame.time_ms / 1000 if start is None else start
            if stop.wait(max(0.0, start + frame.time_ms / 1000 - now)):
                return
            yield frame
