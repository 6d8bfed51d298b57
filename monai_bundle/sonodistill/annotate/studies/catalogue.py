"""The files of a folder as items that can be annotated, and their frames."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from sonodistill.annotate.errors import ConflictError, UnknownIdError
from sonodistill.annotate.ids import FrameId, check_item_id, parse
from sonodistill.annotate.model import Item
from sonodistill.annotate.studies.frame_source import FrameSource
from sonodistill.annotate.studies.listing import Entry, Listing
from sonodistill.annotate.studies.probe import is_passing
from sonodistill.annotate.studies.upload import UPLOADS, receive, sweep
from sonodistill.errors import UnreadableFileError
from sonodistill.frames import Frame


class FolderCatalogue:
    """Implements :class:`model.Catalogue` on a folder.

    A file is opened once, and the work folder keeps what was learnt of it: later only its size and times are looked
    at. Files that cannot be used are skipped, as are those that leave the folder by a link. A folder of many new files
    is not waited for: they become items little by little, while a thread opens them.

    Args:
        studies: the folder.
        work: where the index is kept; what lies in it is no study.
        cache_bytes: of decoded frames that stay in memory.
        largest_upload: bytes that ``add`` takes.
        patience: seconds that opening the catalogue, or ``refresh``, opens new files for; the thread takes the rest.

    Errors: UnreadableFileError when there is no such folder.
    """

    def __init__(
        self,
        studies: str | Path,
        work: str | Path,
        *,
        cache_bytes: int = 256 << 20,
        largest_upload: int = 2 << 30,
        patience: float = 10.0,
    ) -> None:
        self.studies, self.work = Path(os.path.abspath(studies)), Path(os.path.abspath(work))  # noqa: PTH100
        if not self.studies.is_dir():
            raise UnreadableFileError("there is no such folder of studies", path=self.studies)
        self._largest_upload = largest_upload
        self._closed = False
        self._source = FrameSource(cache_bytes)
        self._listing = Listing(self.studies, self.work, patience)
        sweep(self.studies / UPLOADS)
        self._listing.refresh()

    def close(self) -> None:
        """End the processes that decode and the thread that opens files, and close the index."""
        self._closed = True
        self._source.close()
        self._listing.close()

    @property
    def pending(self) -> int:
        """How many files were found that have not been opened yet."""
        return self._listing.pending

    def items(self) -> list[Item]:
        """All of them that are known so far, by name."""
        return [entry.item for entry in self._listing.entries()]

    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of the files that cannot be annotated."""
        return self._listing.skipped()

    def item(self, id: str) -> Item:
        """Errors: InvalidIdError, UnknownIdError."""
        return self._entry(id).item

    def locate(self, text: str) -> tuple[Item, int | None]:
        """An item, or a frame of one; see :class:`model.Catalogue`."""
        whole = self._listing.get(check_item_id(text))
        if whole is not None:
            return whole.item, None
        id, index = parse(text)
        item = self.item(id)
        if index is not None and index >= item.frames:
            raise UnknownIdError(f"{id} has no frame {index}", remedy=f"its frames are 0 to {item.frames - 1}")
        return item, index if item.is_cine else None

    def read(self, item: Item, only: Collection[int] | None = None) -> Iterator[Frame]:
        """The frames, or those wanted, in their order; see :class:`model.Catalogue`."""
        entry = self._entry(item.id)
        try:
            yield from self._source.read(self._inside(entry), entry.known, only)
        except UnreadableFileError as error:
            self._give_up(entry, error)
            raise

    def frame(self, id: FrameId) -> Frame:
        """One frame, from memory where it was read lately; its array is read-only, and it has no colours."""
        entry = self._entry(id.item)
        if not 0 <= id.index < entry.item.frames:
            raise UnknownIdError(f"{id.item} has no frame {id.index}")
        try:
            return self._source.frame(id.item, self._inside(entry), entry.known, id.index)
        except UnreadableFileError as error:
            self._give_up(entry, error)
            raise

    def file(self, item: Item) -> Path:
        """The item's own file."""
        return self._inside(self._entry(item.id))

    def refresh(self) -> bool:
        """Look for new, changed and vanished files; whether anything changed since the last time this was asked."""
        return self._listing.refresh()

    def add(self, path: str | Path, name: str) -> Item:
        """Copy a file that somebody sent into the studies; it becomes an item once its first frame was decoded.

        Args:
            path: of the file as it came.
            name: the sender's; what is no letter, digit, ``_`` or ``-`` in it is replaced, and folders are dropped.

        Errors: TooLargeError; UnreadableFileError and UnsupportedFormatError when it is no image that can be used.
        """
        target = receive(Path(path), name, self.studies / UPLOADS, self._largest_upload, self._source)
        try:
            return self._listing.add(target).item
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def remove(self, item: Item) -> None:
        """Delete a file that was uploaded. Errors: UnknownIdError; ConflictError for a file of the studies."""
        entry = self._entry(item.id)
        if not self._listing.is_upload(entry):
            raise ConflictError(f"{item.id} was not uploaded here, and only what was is removed")
        self._inside(entry).unlink(missing_ok=True)
        self._listing.drop(entry)
        self._source.forget(item.id)

    def _entry(self, id: str) -> Entry:
        found = self._listing.get(check_item_id(id))
        if found is None:
            raise UnknownIdError(f"there is no image {id!r}", remedy="take ids from the list of images")
        return found

    def _inside(self, entry: Entry) -> Path:
        """The file, if no link took its place since that leaves the folder."""
        if not entry.item.path.resolve().is_relative_to(self._listing.home):
            raise UnknownIdError(f"the file of {entry.item.id} is no longer in the studies")
        return entry.item.path

    def _give_up(self, entry: Entry, error: UnreadableFileError) -> None:
        """Skip a still that turned out to be damaged."""
        if not (entry.item.is_cine or is_passing(error) or self._closed) and entry.item.path.is_file():
            self._listing.skip(entry, error.message)
