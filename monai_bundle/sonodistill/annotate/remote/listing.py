"""What ultrasound a DICOMweb server keeps (QIDO-RS, PS3.18 10.6): studies, their series, the instances of these."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sonodistill.annotate.ids import MAX_FRAMES
from sonodistill.dicom.qido import JSON, MAX_PAGE_BYTES, AnsweredError, search, value
from sonodistill.dicom.service.fetch import Place
from sonodistill.dicom.source import ULTRASOUND_CLASSES, US_IMAGE, is_uid
from sonodistill.dicom.web import Client

_MAX_STUDIES = 20_000
_MAX_OF_STUDY = 20_000
# Of a class that has one frame, whatever is not stated.
_STILLS = frozenset({US_IMAGE, "1.2.840.10008.5.1.4.1.1.6"})


@dataclass(frozen=True, slots=True)
class Instance:
    """An ultrasound image or cine on the server.

    Attributes:
        place: its UIDs.
        frames: how many.
        number: Instance Number, 0 where there is none.
    """

    place: Place
    frames: int
    number: int


@dataclass(frozen=True, slots=True)
class Study:
    """A study as it was listed last.

    Attributes:
        counts: numbers of its series and instances by the server; it is listed again when they change. Empty where the
            server states none.
        group: the patient's, else the study's, opaque.
        instances: in the order of series, then Instance Number.
        skipped: (name, reason) of what is no ultrasound image.
    """

    counts: tuple[int, ...]
    group: str
    instances: tuple[Instance, ...]
    skipped: tuple[tuple[str, str], ...]


def list_studies(client: Client, query: Mapping[str, str], known: Mapping[str, Study], salt: bytes) -> dict[str, Study]:
    """The studies that ``query`` finds, by Study Instance UID, in the order of these.

    Args:
        client: of the server.
        query: QIDO-RS parameters of studies.
        known: what was listed before; a study of the same counts is not asked about again.
        salt: of the hashes that patients become.

    Errors: WebError.
    """
    found = {}
    for item in search(client, "/studies", dict(query), _MAX_STUDIES):
        uid = value(item, "0020000D")
        if not isinstance(uid, str) or not is_uid(uid):
            continue
        counts = tuple(_number(value(item, tag)) for tag in ("00201206", "00201208"))
        before = known.get(uid)
        if before is not None and all(counts) and before.counts == counts:
            found[uid] = before
            continue
        group = _group(item, uid, salt)
        try:
            found[uid] = _study(client, uid, counts if all(counts) else (), group)
        except AnsweredError as error:  # of this study alone; it may have been deleted in the meantime
            found[uid] = before or Study((), group, (), ((uid, error.message),))
    return dict(sorted(found.items()))


def _study(client: Client, study: str, counts: tuple[int, ...], group: str) -> Study:
    instances: list[Instance] = []
    skipped: list[tuple[str, str]] = []
    for item in search(client, f"/studies/{study}/series", {"Modality": "US"}, _MAX_OF_STUDY):
        series = value(item, "0020000E")
        if value(item, "00080060") not in (None, "US"):
            continue
        if not isinstance(series, str) or not is_uid(series):
            skipped.append((f"a series of {study}", "its Series Instance UID is malformed"))
            continue
        path = f"/studies/{study}/series/{series}/instances"
        listed = []
        for each in search(client, path, {"includefield": "00280008"}, _MAX_OF_STUDY):
            sop = value(each, "00080018")
            if not isinstance(sop, str) or not is_uid(sop):
                skipped.append((f"an instance of {series}", "its SOP Instance UID is malformed"))
            elif value(each, "00080016") not in ULTRASOUND_CLASSES:
                skipped.append((sop, "it is no ultrasound image"))
            else:
                place = Place(study, series, sop)
                frames = _frames(client, place, each)
                if 1 <= frames <= MAX_FRAMES:
                    listed.append(Instance(place, frames, _number(value(each, "00200013"))))
                else:
                    skipped.append((sop, f"it states {frames} frames"))
        instances += sorted(listed, key=lambda each: (each.number, each.place.sop))
    return Study(counts, group, tuple(instances), tuple(skipped))


def _frames(client: Client, place: Place, item: Mapping[str, Any]) -> int:
    """Number of Frames from the search, or from the metadata where a cine's was not returned."""
    stated = value(item, "00280008")
    if stated is None and value(item, "00080016") not in _STILLS:
        with client.get(f"{place.url}/metadata", accept=JSON) as response:
            found = response.json(MAX_PAGE_BYTES) if response.status == 200 else None
        if not isinstance(found, list) or not found or not isinstance(found[0], dict):
            raise AnsweredError(f"{client.host} gives no metadata of an instance")
        stated = value(found[0], "00280008")
    return 1 if stated is None else _number(stated)


def _group(item: Mapping[str, Any], study: str, salt: bytes) -> str:
    patient = value(item, "00100020")
    text = f"patient {patient} of {value(item, '00100021')}" if patient else f"study {study}"
    return hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()[:16]


def _number(text: Any) -> int:
    """IS as a number; 0 for anything else."""
    return int(text) if str(text).isascii() and str(text).isdecimal() and len(str(text)) <= 12 else 0
