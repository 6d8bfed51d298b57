"""The ultrasound that a DICOMweb server keeps, as items to annotate."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sonodistill.annotate import ids
from sonodistill.annotate.errors import UnknownIdError, UnreachableError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Item
from sonodistill.annotate.remote.cache import FileCache
from sonodistill.annotate.remote.index import Index, load, save
from sonodistill.annotate.remote.listing import Instance, list_studies
from sonodistill.annotate.studies.file_index import Known
from sonodistill.annotate.studies.frame_source import FrameSource
from sonodistill.annotate.studies.probe import learn
from sonodistill.dicom.errors import DeliveryError
from sonodistill.dicom.send.stow import StowDestination
from sonodistill.dicom.service.fetch import RefusedInstanceError, fetch
from sonodistill.dicom.settings import DestinationSettings
from sonodistill.dicom.web import Client, WebError
from sonodistill.errors import UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill.frames import Frame

_LOG = logging.getLogger(__name__)
_ULTRASOUND = {"ModalitiesInStudy": "US"}
_PAUSE_SECONDS = 5.0
_RELIST_SECONDS = 600.0
_FRAMES_PER_REQUEST = 32
_AT_ONCE = 16
_LARGEST_INSTANCE = 4 << 30
_FRAME_BYTES = 256 << 20
_SALT_BYTES = 16


class WebCatalogue:
    """Implements ``model.Catalogue`` for a DICOMweb server: each ultrasound instance is an item.

    An item's id is its SOP Instance UID, its group the hash of the patient, or of the study where the server names no
    patient. Instances are fetched when they are first needed, checked, and kept in a folder of bounded size. The list
    is kept too: a server that is down does not make items vanish.

    Args:
        url: of the service; https, but on this machine.
        folder: of the copies, the list, and the salt of the groups; made for this user alone.
        query: QIDO-RS parameters of the studies; those with ultrasound by default.
        token_file: file with a bearer token or, for a user, the password.
        user: for Basic authentication.
        cache_bytes: of the copies together.
        pause: seconds between two questions for the list.

    Errors: UnreachableError when the server gives no list and none was kept; ServiceConfigError when the URL cannot be
        used, or a token would travel in the clear.
    """

    def __init__(
        self,
        url: str,
        folder: str | Path,
        *,
        query: Mapping[str, str] | None = None,
        token_file: Path | None = None,
        user: str = "",
        cache_bytes: int = 20 << 30,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        self.url = url.rstrip("/")
        self.folder = Path(folder)
        self.query = dict(_ULTRASOUND if query is None else query)
        self._token_file, self._user, self._pause = token_file, user, pause
        self._client().close()
        self._cache = FileCache(self.folder, cache_bytes)
        self._source = FrameSource(_FRAME_BYTES)
        self._known: dict[str, Known] = {}
        self._salt = _salt(self.folder / "salt")
        self._refused: dict[str, str] = {}
        self._open: set[Client] = set()
        self._closed = False
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_AT_ONCE)
        self._asking = threading.Lock()
        self._listed_at, self._relisted_at = -float("inf"), time.monotonic()
        self._list = self.folder / "list.json"
        self._studies = load(self._list, self.url, self.query)
        self._index = Index.of(self._studies or {}, self._cache.path)
        try:
            self.refresh()
        except UnreachableError as error:
            if self._studies is None:
                self.close()
                raise
            _LOG.warning("%s; the list of %d items is the last one", error.message, len(self._index.items))

    def items(self) -> list[Item]:
        """The instances, by study, series and number; from memory."""
        return [item for item in self._index.items if item.id not in self._refused]

    def skipped(self) -> list[tuple[str, str]]:
        """(UID, reason) of the instances that cannot be annotated, as far as that is known."""
        return [*self._index.skipped, *self._refused.items()]

    def item(self, id: str) -> Item:
        """Errors: InvalidIdError, UnknownIdError."""
        found = self._index.by_id.get(ids.check_item_id(id))
        if found is None or id in self._refused:
            raise UnknownIdError(f"there is no item {id}", remedy="take ids from the list of images")
        return found

    def locate(self, text: str) -> tuple[Item, int | None]:
        """What a client means: an item (index None) or a frame of one (None for a still); a series of one instance is
        that instance.

        Errors: InvalidIdError; UnknownIdError, also for a frame that the item does not have, and for a series of
            several instances.
        """
        id, index = ids.parse(text)
        series = self._index.by_series.get(id, ())
        if len(series) > 1:
            raise UnknownIdError(
                f"the series holds {len(series)} images and cines", remedy="name one of them by its SOP Instance UID"
            )
        item = self.item(series[0].id if series else id)
        if index is None or (index == 0 and not item.is_cine):
            return item, None
        if index >= item.frames:
            raise UnknownIdError(f"{item.id} has {item.frames} frames", remedy="frames are counted from 0")
        return item, index

    def series(self, uid: str) -> list[Item]:
        """The items of a series, in the order of their Instance Number. Errors: InvalidIdError, UnknownIdError."""
        found = [item for item in self._index.by_series.get(ids.check_item_id(uid), ()) if item.id not in self._refused]
        if not found:
            raise UnknownIdError(f"there is no series {uid}", remedy="take ids from the list of images")
        return found

    def study(self, item: Item) -> str:
        """Study Instance UID of an item of the list. Errors: UnknownIdError."""
        return self._placed(item).place.study

    def has_study(self, uid: str) -> bool:
        """Whether a Study Instance UID is one of the list."""
        return uid in (self._studies or {})

    def read(self, item: Item, only: Collection[int] | None = None) -> Iterator[Frame]:
        """The frames, or those wanted, decoded by an isolated reader, without their colours.

        Errors: UnreachableError when it has to be fetched and cannot; UnreadableFileError and UnsupportedFormatError as
            of ``frames.read``.
        """
        with self._held(item) as path:
            yield from self._source.read(path, self._learnt(item, path), only)

    def frame(self, id: FrameId) -> Frame:
        """One frame, from memory where it was read lately. Errors: UnknownIdError, and those of ``read``."""
        item, index = self.locate(str(id))
        with self._held(item) as path:
            return self._source.frame(item.id, path, self._learnt(item, path), index or 0)

    def file(self, item: Item) -> Path:
        """Its copy, fetched if need be; a later fetch may take its place. Errors: UnreachableError."""
        with self._held(item) as path:
            return path

    def refresh(self) -> bool:
        """Ask the server for its list, unless it was asked a few seconds ago or another thread is asking.

        Returns: whether the list changed.

        Errors: UnreachableError; the list stays as it was.
        """
        if not self._asking.acquire(blocking=False):
            return False
        try:
            now = time.monotonic()
            if self._closed or now - self._listed_at < self._pause:
                return False
            return self._asked(now)
        finally:
            self._asking.release()

    def _asked(self, now: float) -> bool:
        try:
            relisted = now - self._relisted_at > _RELIST_SECONDS
            known = {} if relisted else self._studies or {}
            with self.connected() as client:
                studies = list_studies(client, self.query, known, self._salt)
            if relisted:
                self._relisted_at = now
            changed = studies != self._studies
            if changed:
                save(self._list, self.url, self.query, studies)
                self._studies, self._index = studies, Index.of(studies, self._cache.path)
            return changed
        except WebError as error:
            raise UnreachableError(error.message, remedy="see whether the DICOMweb server runs") from None
        finally:
            self._listed_at = time.monotonic()

    def store(self, paths: Sequence[str | Path]) -> None:
        """Send DICOM files to the server (STOW-RS); returns when it confirmed each.

        Errors: UnreachableError, also when it refuses them.
        """
        destination = StowDestination(
            DestinationSettings("pacs", "stow", url=self.url, token_file=self._token_file, user=self._user)
        )
        try:
            destination.send([Path(path) for path in paths])
        except DeliveryError as error:
            raise UnreachableError(error.message, path=error.path) from None
        finally:
            destination.close()

    def close(self) -> None:
        """End what is being fetched, and the processes that decode."""
        with self._lock:
            self._closed = True
            clients = list(self._open)
        for client in clients:
            client.abort()
        self._source.close()

    @contextmanager
    def _held(self, item: Item) -> Iterator[Path]:
        instance = self._placed(item)

        def arrive(path: Path) -> None:
            try:
                with self.connected() as client:
                    limit = min(_LARGEST_INSTANCE, self._cache.max_bytes)
                    fetch(client, instance.place, path, batch=_FRAMES_PER_REQUEST, max_bytes=limit)
            except WebError as error:
                raise UnreachableError(error.message, remedy="see whether the DICOMweb server runs") from None
            except RefusedInstanceError as error:
                self._refused[item.id] = error.message
                raise
            _LOG.info("fetched %s: %d bytes", item.id, path.stat().st_size)

        here = self._cache.path(item.id).is_file()
        with nullcontext() if here else self.waiting(), self._cache.held(item.id, arrive) as path:
            yield path

    def _placed(self, item: Item) -> Instance:
        instance = self._index.instances.get(item.id)
        if instance is None:
            raise UnknownIdError(f"there is no item {item.id}", remedy="take ids from the list of images")
        return instance

    def _learnt(self, item: Item, path: Path) -> Known:
        known = self._known.get(item.id)
        if known is None:
            known = learn(path, item.id, self._salt)
            if known.reason:
                raise UnreadableFileError(known.reason, path=path)
            self._known[item.id] = known
        return known

    def _client(self) -> Client:
        return Client(self.url, token_file=self._token_file, user=self._user)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """One of the few that may wait for the server at a time: one that stalls must not take all threads.

        Errors: UnreachableError when there are as many.
        """
        if not self._waiting.acquire(blocking=False):
            raise UnreachableError("too many wait for the DICOMweb server", remedy="ask again in a while")
        try:
            yield
        finally:
            self._waiting.release()

    @contextmanager
    def connected(self) -> Iterator[Client]:
        """A connection of this thread, which ``close`` aborts."""
        client = self._client()
        with self._lock:
            if self._closed:
                raise UnreachableError("the catalogue is closed")
            self._open.add(client)
        try:
            yield client
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()


def _salt(path: Path) -> bytes:
    """Random bytes, the same for as long as the folder is kept: the groups of labels depend on them."""
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.chmod(0o600)
            temporary.write_bytes(secrets.token_bytes(_SALT_BYTES))
    return path.read_bytes()
