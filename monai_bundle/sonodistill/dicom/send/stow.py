"""Results to a PACS by STOW-RS (PS3.18 10.5)."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import config, dcmread

from sonodistill.dicom.errors import DeliveryError, RefusedDeliveryError, ServiceConfigError
from sonodistill.dicom.settings import DestinationSettings
from sonodistill.dicom.source import is_uid
from sonodistill.dicom.web import Client, Response, WebError

_LOG = logging.getLogger(__name__)
_JSON = "application/dicom+json"
_CHUNK = 1 << 18
_MAX_ANSWER = 1 << 20
# What is said about the objects themselves. Everything else is about the place or the moment: a token that is being
# changed (401, 403), a server that is being moved or set up (3xx, 404, 405), load (408, 429, 503), no room (507).
# It may be over when it is tried again, and the number of attempts is bounded.
_REFUSED = frozenset({400, 406, 409, 413, 414, 415, 422})
_DUPLICATE = 0x0111
# Failure Reason (0008,1197), PS3.18 I.2.2 and PS3.4 GG.4.2: processing failure, not authorized, out of resources.
_MAY_PASS = frozenset({0x0110, 0x0124})
_OUT_OF_RESOURCES = range(0xA700, 0xA800)


class StowDestination:
    """A DICOMweb server that stores.

    Attributes:
        name: as the configuration has it.

    Errors: ServiceConfigError when its URL cannot be used, or a token would travel in the clear.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        self.name = settings.name
        self._client = Client(
            settings.url,
            tls=settings.tls,
            token_file=settings.token_file,
            user=settings.user,
            timeout=settings.timeout_seconds,
        )

    def send(self, paths: Sequence[Path]) -> None:
        """Send DICOM files in one request, streamed; returns when the server has named each of them as stored.

        Errors: DeliveryError and RefusedDeliveryError, as of ``Destination.send``.
        """
        if not paths:
            return
        uids = [_uid(path) for path in paths]
        boundary = uuid.uuid4().hex
        starts = [_start(boundary, first=index == 0) for index in range(len(paths))]
        end = f"\r\n--{boundary}--\r\n".encode()
        length = sum(map(len, starts)) + sum(path.stat().st_size for path in paths) + len(end)
        try:
            with self._client.post(
                "/studies",
                _body(paths, starts, end),
                length=length,
                content_type=f'multipart/related; type="application/dicom"; boundary={boundary}',
                accept=_JSON,
            ) as response:
                self._judge(response, uids)
        except (WebError, ServiceConfigError) as error:
            # The latter is a token that cannot be read: its file may be being replaced.
            raise DeliveryError(f"destination {self.name}: {error.message}", path=error.path) from None
        finally:
            self._client.close()

    def close(self) -> None:
        """Give back the connection."""
        self._client.close()

    def _judge(self, response: Response, uids: Sequence[str]) -> None:
        status = response.status
        stored, failed, unnamed = _answer(response) if status in (200, 202, 409) else (set(), {}, set())
        reasons = {reason for uid, reason in failed.items() if uid in uids} | unnamed
        missing = set(uids) - stored - {uid for uid, reason in failed.items() if reason == _DUPLICATE}
        reasons -= {_DUPLICATE}
        if status in (200, 202, 409) and not missing and not reasons:
            return
        shown = ", ".join(f"0x{reason:04X}" for reason in sorted(reasons)[:5])
        text = f"destination {self.name} answered {status}" + (f" with failure {shown}" if shown else "")
        if reasons:
            passing = all(reason in _MAY_PASS or reason in _OUT_OF_RESOURCES for reason in reasons)
            raise (DeliveryError if passing else RefusedDeliveryError)(text)
        if status in _REFUSED:
            raise RefusedDeliveryError(text)
        if status in (200, 202):
            raise DeliveryError(f"{text}, and did not confirm {len(missing)} of {len(set(uids))} objects")
        if 300 <= status < 400:
            raise DeliveryError(text, remedy="redirects are not followed: set url to where the server is")
        raise DeliveryError(text)


def _answer(response: Response) -> tuple[set[str], dict[str, int], set[int]]:
    """(UIDs in Referenced SOP Sequence, reason by UID in Failed SOP Sequence, reasons without a UID)."""
    try:
        found = response.json(_MAX_ANSWER)
    except WebError:
        # A refusal is one whether or not it says why; Orthanc's does, but not that it is JSON.
        if response.status == 409:
            return set(), {}, set()
        raise
    # Some servers wrap the data set into a list, as QIDO-RS does.
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    stored, failed, unnamed = set(), {}, set()
    for item in _items(found, "00081199"):
        stored.add(str(_value(item, "00081155")))
        if _value(item, "00081196") is not None:
            _LOG.info("an object was stored with a warning")
    for item in _items(found, "00081198"):
        reason, uid = _value(item, "00081197"), _value(item, "00081155")
        number = reason if isinstance(reason, int) and 0 <= reason <= 0xFFFF else 0x0110
        if isinstance(uid, str):
            failed[uid] = number
        else:
            unnamed.add(number)
    return stored, failed, unnamed


def _items(found: Any, tag: str) -> list[Any]:
    element = found.get(tag) if isinstance(found, dict) else None
    items = element.get("Value") if isinstance(element, dict) else None
    return items if isinstance(items, list) else []


def _value(item: Any, tag: str) -> Any:
    return next(iter(_items(item, tag)), None)


def _uid(path: Path) -> str:
    try:
        with config.disable_value_validation():
            uid = str(dcmread(path, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise RefusedDeliveryError(f"the result cannot be read ({type(error).__name__})", path=path) from None
    if not is_uid(uid):
        raise RefusedDeliveryError("the result has no SOP Instance UID", path=path)
    return uid


def _start(boundary: str, *, first: bool) -> bytes:
    return f"{'' if first else chr(13) + chr(10)}--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()


def _body(paths: Sequence[Path], starts: Sequence[bytes], end: bytes) -> Iterator[bytes]:
    for path, start in zip(paths, starts, strict=True):
        yield start
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    yield end
