"""Capture devices as frames, through FFmpeg's libavdevice in PyAV."""

from __future__ import annotations

import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from threading import Event

import av
import numpy as np

from sonodistill.frames import Calibration, Frame, Provenance
from sonodistill.frames.bounds import check_size
from sonodistill.inference.live.source import SourceError

_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
# libavformat's flag of a format that opens what it reads by itself, as devices do; its number is part of the ABI.
_AVFMT_NOFILE = 1
_UNCALIBRATED = Calibration(None, note="a captured picture carries no physical scale")


class DeviceSource:
    """A capture device; see ``source.Source``.

    Args:
        address: ``device:NAME`` in the system's own format (v4l2 on Linux, avfoundation on macOS, dshow on Windows),
            or ``device:FORMAT:NAME`` with any capture format that PyAV's FFmpeg has: ``device:lavfi:testsrc``.

    Errors: SourceError when there is no such format or device, or when it gives no picture.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.lost = False
        self.reconnects = 0
        self.hint = ""
        self._format, device = _split(address.removeprefix("device:"))
        try:
            self._container = av.open(device, format=self._format)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise SourceError(
                f"{self._format} cannot open {device!r:.100}: {_short(error)}",
                remedy="list the devices with `v4l2-ctl --list-devices`, or with `ffmpeg -f avfoundation "
                "-list_devices true -i dummy` (dshow on Windows)",
            ) from error
        if not self._container.streams.video:
            self._container.close()
            raise SourceError(f"{device!r:.100} gives no picture", remedy="name a camera or frame grabber")

    def frames(self, stop: Event) -> Generator[Frame, None, None]:
        with self._container as container:
            stream = container.streams.video[0]
            # Threads that decode frames side by side hold back as many frames as there are threads.
            stream.thread_type = "SLICE"
            provenance = Provenance(Path(self.address), "live", None, {"source": self.address, "format": self._format})
            index, start = 0, None
            try:
                for picture in container.decode(stream):
                    if stop.is_set():
                        return
                    check_size(picture.height, picture.width, Path(self.address))
                    start = picture.time if start is None else start
                    known = picture.time is not None and start is not None
                    yield Frame(
                        np.ascontiguousarray(picture.to_ndarray(format="gray"), dtype=np.uint8),
                        index,
                        1000.0 * (picture.time - start) if known else None,
                        _UNCALIBRATED,
                        provenance,
                        None if len(picture.format.components) < 3 else partial(picture.to_ndarray, format="rgb24"),
                    )
                    index += 1
            except (av.FFmpegError, OSError, ValueError) as error:
                raise SourceError(
                    f"{self.address:.100} stopped after {index} frames: {_short(error)}",
                    remedy="check that the device is still connected and that nothing else has taken it",
                ) from error


def _split(text: str) -> tuple[str, str]:
    """(format, device name); a name may hold colons itself, so that only a known capture format counts as one."""
    head, colon, rest = text.partition(":")
    own = _FORMATS.get(sys.platform, "v4l2")
    name, device = (head, rest) if colon and _captures(head) else (own, text)
    if not device:
        raise SourceError("no device is named", remedy="for example: device:/dev/video0")
    if not _captures(name):
        raise SourceError(
            f"the FFmpeg inside PyAV has no capture format {name!r:.40}",
            remedy="install a PyAV that is built with it (`pip install --no-binary av av`), or name device:FORMAT:NAME",
        )
    return name, device


def _captures(name: str) -> bool:
    try:
        found = av.ContainerFormat(name, "r")
    except ValueError:
        return False
    return bool(found.flags & _AVFMT_NOFILE)


def _short(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]
