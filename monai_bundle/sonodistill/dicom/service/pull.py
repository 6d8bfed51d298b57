"""Ultrasound instances from a DICOMweb server that does not send by itself: QIDO-RS finds, WADO-RS fetches."""

from __future__ import annotations

import datetime
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from sonodistill.dicom.errors import NoRoomError, ServiceConfigError
from sonodistill.dicom.qido import search, value
from sonodistill.dicom.service.fetch import Place, RefusedInstanceError, fetch
from sonodistill.dicom.service.intake import Intake
from sonodistill.dicom.settings import Pull
from sonodistill.dicom.source import ULTRASOUND_CLASSES, is_uid
from sonodistill.dicom.web import Client, WebError
from sonodistill.errors import SonoDistillError

_LOG = logging.getLogger(__name__)
_MAX_FOUND = 20_000
_LONGEST_WAIT = 3600.0
_RELIST = 20
# A server that hangs costs a time limit an instance: a look ends after so many.
_FAILURES = 3


class Stop(Protocol):
    """An event, of threading or of multiprocessing."""

    def is_set(self) -> bool: ...

    def wait(self, timeout: float | None = None) -> bool: ...


def pull(settings: Pull, intake: Intake, stop: Stop, known: Callable[[str], bool], *, max_bytes: int = 1 << 30) -> None:
    """Look for new instances and take them, again and again, until ``stop`` is set; it is heeded within a second.

    Studies are searched by ``settings.query`` and, unless that names a Study Date, by the last ``settings.days``.
    Instances of ultrasound storage classes that are not ``known`` by their SOP Instance UID are fetched one after
    another. One that cannot be had is tried again, after a wait that doubles up to an hour; one that is refused for
    what it is, is not. A server that is down is asked again at the next look.

    Args:
        settings: of the server.
        intake: takes the files.
        stop: ends it.
        known: whether an instance became a job before.
        max_bytes: larger files are not taken.

    Errors: ServiceConfigError when the URL, the token's file or a certificate cannot be used at the start.
    """
    client = Client(settings.url, tls=settings.tls, token_file=settings.token_file, user=settings.user)
    look = _Look(settings, client, intake, stop, known, max_bytes)
    with _aborted_by(stop, client):
        while not stop.is_set():
            try:
                look()
            except SonoDistillError as error:
                if not stop.is_set():
                    _LOG.warning("pull from %s: %s", client.host, error.message)
            except Exception as error:  # noqa: BLE001 - a way in goes on, whatever one look meets
                _LOG.error("pull from %s: %s", client.host, type(error).__name__)
            finally:
                client.close()
            stop.wait(settings.poll_seconds)


@contextmanager
def _aborted_by(stop: Stop, client: Client) -> Iterator[None]:
    """Ends the request that is under way when ``stop`` is set."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            if stop.wait(0.2):
                client.abort()
                return

    thread = threading.Thread(target=watch, name="pull-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@dataclass(slots=True)
class _Later:
    """When an instance is tried again."""

    attempts: int = 0
    at: float = 0.0

    def postpone(self, first: float) -> None:
        wait = min(first * 2.0 ** min(self.attempts, 30), _LONGEST_WAIT)
        self.attempts += 1
        self.at = time.monotonic() + wait * random.uniform(0.75, 1.25)  # noqa: S311 - not for secrets


@dataclass(slots=True)
class _Look:
    """One look at the server, and what is remembered of earlier ones; that is no more than the server lists."""

    settings: Pull
    client: Client
    intake: Intake
    stop: Stop
    known: Callable[[str], bool]
    max_bytes: int
    settled: set[str] = field(default_factory=set)
    later: dict[str, _Later] = field(default_factory=dict)
    # Series by the number of their instances when all of them were settled: they are not listed again soon.
    complete: dict[str, int] = field(default_factory=dict)
    looks: int = 0
    failures: int = 0

    def __call__(self) -> None:
        self.looks += 1
        self.failures = 0
        if self.looks % _RELIST == 0:
            self.complete.clear()
        listed: set[str] = set()
        skipped = False
        for study in self._found("/studies", self._query(), "0020000D"):
            for series, count in self._series(study):
                if count is not None and self.complete.get(series) == count:
                    skipped = True
                    continue
                uids = list(self._instances(study, series))
                listed.update(uids)
                for uid in uids:
                    if self.stop.is_set():
                        return
                    self._take(Place(study, series, uid))
                if count == len(uids) and self.settled.issuperset(uids):
                    self.complete[series] = count
        if not skipped:
            self.settled &= listed
        self.later = {uid: when for uid, when in self.later.items() if uid in listed - self.settled}

    def _query(self) -> dict[str, str | int]:
        query: dict[str, str | int] = dict(self.settings.query)
        if not {"StudyDate", "00080020"} & set(query):
            first = datetime.date.today() - datetime.timedelta(days=self.settings.days)
            query["StudyDate"] = f"{first:%Y%m%d}-"
        return query

    def _series(self, study: str) -> Iterator[tuple[str, int | None]]:
        for item in self._items(f"/studies/{study}/series", {}):
            uid, modality, count = value(item, "0020000E"), value(item, "00080060"), value(item, "00201209")
            if isinstance(uid, str) and is_uid(uid) and modality in (None, "US"):
                yield uid, int(count) if str(count).isdecimal() else None

    def _instances(self, study: str, series: str) -> Iterator[str]:
        for item in self._items(f"/studies/{study}/series/{series}/instances", {}):
            uid = value(item, "00080018")
            if isinstance(uid, str) and is_uid(uid) and value(item, "00080016") in ULTRASOUND_CLASSES:
                yield uid

    def _found(self, path: str, query: dict[str, str | int], tag: str) -> list[str]:
        uids = [value(item, tag) for item in self._items(path, query)]
        return [uid for uid in uids if isinstance(uid, str) and is_uid(uid)]

    def _items(self, path: str, query: dict[str, str | int]) -> Iterator[dict[str, Any]]:
        return search(self.client, path, query, _MAX_FOUND, self.stop.is_set)

    def _take(self, place: Place) -> None:
        uid = place.sop
        if uid in self.settled or (uid in self.later and self.later[uid].at > time.monotonic()):
            return
        if self.known(uid):
            self.settled.add(uid)
            return
        if not self.intake.has_room():
            raise WebError("there is no room on the disk; nothing is fetched")
        when = self.later.setdefault(uid, _Later())
        try:
            with self.intake.incoming() as path:
                fetch(self.client, place, path, batch=self.settings.frames_per_request, max_bytes=self.max_bytes)
                self.intake.accept(path, via="dicomweb", peer=self.client.host)
            self.settled.add(uid)
            self.failures = 0
        except RefusedInstanceError as error:
            _LOG.warning("pull from %s: an instance is refused: %s", self.client.host, error.message)
            self.intake.turn_away("out of bounds", via="dicomweb", peer=self.client.host)
            self.settled.add(uid)
        except (ServiceConfigError, NoRoomError):
            raise
        except SonoDistillError as error:
            if not self.stop.is_set():
                when.postpone(self.settings.poll_seconds)
                _LOG.warning("pull from %s: an instance is left for later: %s", self.client.host, error.message)
                self.failures += 1
                if self.failures == _FAILURES and isinstance(error, WebError):
                    raise WebError(f"{_FAILURES} instances in a row could not be had; the rest is left") from None
        except Exception as error:  # noqa: BLE001 - one instance does not end the look
            when.postpone(self.settings.poll_seconds)
            _LOG.error("pull from %s: an instance is left for later: %s", self.client.host, type(error).__name__)
