"""What a client means by an image id: one frame, or the frames of a cine, a volume or a series."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk

from lib.listing import is_planar
from lib.notes import Notes
from sonodistill.annotate.errors import ConflictError, InvalidIdError, TooLargeError, UnknownIdError
from sonodistill.annotate.exchange.nifti_file import Geometry
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Catalogue, Item
from sonodistill.annotate.studies.file_index import Known
from sonodistill.annotate.studies.frame_source import FrameSource
from sonodistill.annotate.studies.probe import learn
from sonodistill.errors import UnreadableFileError
from sonodistill.frames import Frame

MAX_STACK = 512 << 20
"""Bytes of the frames of a cine or volume that are handled as one file."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_PREFIXES = (tempfile.gettempprefix(), "sonodistill-")
_RECEIVED, _RECEIVED_CACHE, _SENT = 256, 128 << 20, "sent-"


@dataclass(frozen=True)
class Target:
    """Frames that a client handles as one image.

    Attributes:
        id: as the client wrote it.
        items: that the frames are of: one, or the stills of a series.
        frames: in the order of the slices.
        planar: whether it is one frame, whose masks are (H, W); otherwise they are (frames, H, W).
        volume: the file that the client has where it is a volume, else None.
        images: where the pixels come from.
    """

    id: str
    items: tuple[Item, ...]
    frames: tuple[FrameId, ...]
    planar: bool
    volume: Path | None
    images: Images

    def __len__(self) -> int:
        return len(self.frames)

    def frame(self, position: int) -> Frame:
        return self.images.frame(self, position)

    def read(self, positions: Collection[int] | None = None) -> Iterator[Frame]:
        """All frames, or those at these positions, in their order."""
        return self.images.read(self, positions)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, H, W). Errors: TooLargeError above ``MAX_STACK``."""
        height, width = self.frame(0).image.shape
        if len(self) * height * width > MAX_STACK:
            raise TooLargeError(
                f"{self.id} has {len(self)} frames of {height} x {width}", remedy="ask for its frames one by one"
            )
        return len(self), height, width

    def geometry(self) -> Geometry:
        """Where the voxels of the file lie that the client has; of a still as if it were no DICOM: pixels."""
        if self.volume is not None and (found := _of_file(self.volume, self.shape)) is not None:
            return found
        spacing = None if self.planar else self.frame(0).mm_per_pixel
        return Geometry() if spacing is None else Geometry((spacing[1], spacing[0], 1.0), millimetres=True)


class Images:
    """Finds the images of a catalogue, and those that came with a request.

    Args:
        catalogue: of the studies.
        notes: keep under which name a client uploaded an image.
    """

    def __init__(self, catalogue: Catalogue, notes: Notes) -> None:
        self._catalogue, self._notes = catalogue, notes
        self._source = FrameSource(_RECEIVED_CACHE)
        self._received: OrderedDict[str, Known] = OrderedDict()

    def close(self) -> None:
        self._source.close()

    def find(self, text: str) -> Target:
        """Errors: InvalidIdError, UnknownIdError; ConflictError for a series that is no stack of frames."""
        try:
            item, index = self._catalogue.locate(text)
        except (UnknownIdError, InvalidIdError):
            items = self._series(text) or self._uploaded(text)
            if len(items) != 1:
                if items:
                    return self._stack(text, items)
                raise
            item, index = items[0], None
        if index is not None:
            return self._of(text, (item,), (FrameId(item.id, index),), planar=True)
        frames = tuple(FrameId(item.id, at) for at in range(item.frames))
        return self._of(text, (item,), frames, planar=is_planar(item))

    def file(self, path: Path) -> Target:
        """Of a file that came with a request or lies in a session. Errors: UnreadableFileError."""
        stamp = path.stat()
        digest = hashlib.sha256(f"{path} {stamp.st_size} {stamp.st_mtime_ns}".encode()).hexdigest()[:20]
        known = self._received.get(digest) or learn(path, digest, b"")
        if known.reason:
            raise UnreadableFileError(f"what was sent is no image: {known.reason}")
        self._received[digest] = known
        while len(self._received) > _RECEIVED:
            self._received.popitem(last=False)
        item = Item(f"{_SENT}{digest}", "an image that was sent", known.kind, known.frames, path)
        frames = tuple(FrameId(item.id, at) for at in range(item.frames))
        return Target(item.id, (item,), frames, is_planar(item), path if item.kind == "volume" else None, self)

    def frame(self, target: Target, position: int) -> Frame:
        item = target.items[0]
        known = self._received.get(item.id.removeprefix(_SENT))
        if known is None:
            return self._catalogue.frame(target.frames[position])
        return self._source.frame(item.id, item.path, known, position)

    def read(self, target: Target, positions: Collection[int] | None = None) -> Iterator[Frame]:
        wanted = range(len(target)) if positions is None else sorted(positions)
        item = target.items[0]
        if len(target.items) > 1 or len(wanted) == 1:
            return (self.frame(target, position) for position in wanted)
        only = None if len(wanted) == item.frames else [target.frames[position].index for position in wanted]
        known = self._received.get(item.id.removeprefix(_SENT))
        return self._catalogue.read(item, only) if known is None else self._source.read(item.path, known, only)

    def _of(self, text: str, items: tuple[Item, ...], frames: tuple[FrameId, ...], *, planar: bool) -> Target:
        volume = self._catalogue.file(items[0]) if not planar and items[0].kind == "volume" else None
        return Target(text, items, frames, planar, volume, self)

    def _series(self, text: str) -> list[Item]:
        if not isinstance(text, str) or not _UID.fullmatch(text):
            return []
        listed = getattr(self._catalogue, "series", None)
        if listed is None:
            return [item for item in self._catalogue.items() if item.series == text]
        try:
            return list(listed(text))
        except UnknownIdError:
            return []

    def _uploaded(self, text: str) -> list[Item]:
        id = self._notes.upload(text)
        try:
            return [self._catalogue.item(id)] if id else []
        except UnknownIdError:  # removed since
            return []

    def _stack(self, text: str, items: list[Item]) -> Target:
        if any(item.is_cine for item in items):
            raise ConflictError(
                f"the series holds {len(items)} files, cines among them, which are no one image",
                remedy=f"ask for one of them, {items[0].id} say",
            )
        frames = tuple(FrameId(item.id, 0) for item in items)
        shapes = {self._catalogue.frame(frame).image.shape for frame in frames}
        if len(shapes) > 1:
            raise ConflictError(
                f"the series holds {len(items)} stills of different sizes, which are no one image",
                remedy=f"ask for one of them, {items[0].id} say",
            )
        return self._of(text, tuple(items), frames, planar=False)


def received(text: object, folder: Path | None = None) -> Path | None:
    """The file that this server wrote for a request, or that lies in ``folder``; None for any other text.

    Clients send paths, too, but in the place of ids, where they are none.
    """
    if not isinstance(text, (str, Path)) or not str(text).startswith("/"):
        return None
    path = Path(text)
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        return None
    if not real.is_file():
        return None
    if folder is not None and folder.is_dir() and real.is_relative_to(folder.resolve()):
        return real
    home = Path(tempfile.gettempdir()).resolve()
    if real.is_relative_to(home) and real.relative_to(home).parts[0].startswith(_PREFIXES) and real == path.resolve():
        return real
    return None


def _of_file(path: Path, shape: tuple[int, int, int]) -> Geometry | None:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size = tuple(reversed(reader.GetSize()))
    if size == shape:
        matrix = reader.GetDirection()
        rows = tuple(tuple(matrix[start : start + 3]) for start in (0, 3, 6))
        return Geometry(reader.GetSpacing(), reader.GetOrigin(), rows, millimetres=True)
    if size == shape[1:]:
        return Geometry((*reader.GetSpacing(), 1.0), (*reader.GetOrigin(), 0.0), millimetres=True)
    return None
