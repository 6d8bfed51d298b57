"""STOW-RS for those who send by HTTP (PS3.18 10.5): each part goes to the spool as it arrives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonodistill.dicom.errors import NoRoomError
from sonodistill.dicom.multipart import MultipartError, media_type, parts
from sonodistill.dicom.service.header import HEAD_BYTES, Identity, identify
from sonodistill.dicom.service.http_body import RequestError
from sonodistill.dicom.service.intake import Intake, Outcome
from sonodistill.dicom.source import ULTRASOUND_CLASSES
from sonodistill.errors import SonoDistillError

_LOG = logging.getLogger(__name__)
MAX_PARTS = 1000
# Failure Reason (0008,1197), PS3.18 I.2.2
_NO_ROOM = 0xA700
_WRONG_STUDY = 0xA900
_NOT_UNDERSTOOD = 0xC000
_UNKNOWN_CLASS = 0x0122


@dataclass(slots=True)
class _Answer:
    stored: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    no_room: bool = False

    def fail(self, who: Identity | None, reason: int) -> None:
        self.failed.append({**_referenced(who), "00081197": {"vr": "US", "Value": [reason]}})

    @property
    def status(self) -> int:
        if not self.failed:
            return 200
        if self.stored:
            return 202
        return 507 if self.no_room else 409

    def dataset(self) -> dict[str, Any]:
        found: dict[str, Any] = {"00081190": {"vr": "UR"}}
        for tag, items in (("00081198", self.failed), ("00081199", self.stored)):
            if items:
                found[tag] = {"vr": "SQ", "Value": items}
        return found


def store(
    read: Callable[[int], bytes],
    content_type: str | None,
    study: str | None,
    intake: Intake,
    peer: str,
    *,
    max_bytes: int,
) -> tuple[int, dict[str, Any]]:
    """(HTTP status, answer in DICOM JSON) to the body of a POST to /studies or /studies/{study}.

    200: all are stored, or were; 202: some; 409: none; 507: none, there is no room. What was stored before a body
    breaks off stays stored; sending it again is harmless.

    Args:
        read: gives the next bytes of the body, at most as many as it is asked for; none at the end.
        content_type: of the request.
        study: Study Instance UID of the URL, which every instance has to have.
        intake: takes the files.
        peer: address of the sender.
        max_bytes: of a file; larger ones fail.

    Errors: RequestError (400, 415); whatever ``read`` raises.
    """
    kind, parameters = media_type(content_type)
    if kind != "multipart/related" or media_type(parameters.get("type"))[0] != "application/dicom":
        raise RequestError(415, 'only multipart/related; type="application/dicom" is taken')
    answer = _Answer()
    try:
        for headers, body in parts(read, parameters.get("boundary", ""), max_parts=MAX_PARTS):
            if media_type(headers.get("content-type", "application/dicom"))[0] != "application/dicom":
                raise RequestError(415, "a part is not application/dicom")
            if not intake.has_room():
                answer.no_room = True
                answer.fail(None, _NO_ROOM)
                break
            _part(body, study, intake, peer, max_bytes, answer)
    except MultipartError as error:
        raise RequestError(400, f"the body is malformed: {error.message}") from None
    if not answer.stored and not answer.failed:
        raise RequestError(400, "the body has no part")
    return answer.status, answer.dataset()


def _part(body: Iterator[bytes], study: str | None, intake: Intake, peer: str, max_bytes: int, answer: _Answer) -> None:
    who: Identity | None = None
    try:
        with intake.incoming() as path:
            size = 0
            with path.open("wb") as file:
                for piece in body:
                    size += len(piece)
                    if size > max_bytes:
                        answer.fail(None, _NOT_UNDERSTOOD)
                        intake.turn_away("larger than the limit", via="stow", peer=peer)
                        return
                    file.write(piece)
            who = _identity(path)
            if study is not None and who is not None and who.study_uid != study:
                answer.fail(who, _WRONG_STUDY)
                intake.turn_away("of another study", via="stow", peer=peer)
                return
            receipt = intake.accept(path, via="stow", peer=peer)
    except (OSError, NoRoomError) as error:
        _LOG.error("an instance could not be spooled (%s)", type(error).__name__)
        answer.no_room = True
        answer.fail(who, _NO_ROOM)
        return
    if receipt.outcome is not Outcome.REFUSED and who is not None:
        answer.stored.append(_referenced(who))
    elif who is None or who.sop_class in ULTRASOUND_CLASSES:
        answer.fail(who, _NOT_UNDERSTOOD)
    else:
        answer.fail(who, _UNKNOWN_CLASS)


def _identity(path: Path) -> Identity | None:
    """The UIDs that the answer and the URL speak of; none when the file cannot be read."""
    try:
        with path.open("rb") as file:
            return identify(file.read(HEAD_BYTES))
    except SonoDistillError:
        return None


def _referenced(who: Identity | None) -> dict[str, Any]:
    if who is None:
        return {}
    return {
        "00081150": {"vr": "UI", "Value": [who.sop_class]},
        "00081155": {"vr": "UI", "Value": [who.sop_uid]},
    }
