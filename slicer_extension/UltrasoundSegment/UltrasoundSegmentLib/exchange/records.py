"""The label of a frame without its pixels as JSON, in the layout of ``sonodistill label export``."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePath
from typing import Any

from UltrasoundSegmentLib.exchange.errors import NotLabelsError
from UltrasoundSegmentLib.exchange.files import read_bytes
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MODEL, MaskStore

FORMAT = "sonodistill-labels"
VERSION = 1
MAX_JSON = 1 << 27
MAX_ENTRIES = 1_000_000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_FRAME = re.compile(r"(?P<item>.+)\.f(?P<index>[0-9]{5,6})")


@dataclass(frozen=True)
class Said:
    """What a file says of a label besides its mask; "" and None where it does not say."""

    status: Status | None = None
    annotator: str = ""
    model: str = ""
    confidence: float | None = None
    time: float | None = None
    source: str = ""


def item_of(cine: Any) -> str:
    """Id of the cine as the annotation server has it: what the server gave, else that of a file of its name alone."""
    given = cine.attribute("item")
    if given:
        return str(given)
    file = cine.attribute("file") or cine.attribute("path") or ""
    return _item_id(re.split(r"[\\/]", file)[-1] or cine.name)


def source_of(cine: Any) -> str:
    """What tells a DICOM image from others of its file's name, without its identifier; "" for anything else."""
    uids = " ".join(sorted((cine.volume(0).GetAttribute("DICOM.instanceUIDs") or "").split()))
    return hashlib.sha256(uids.encode()).hexdigest()[:16] if uids else ""


def frame_id(cine: Any, index: int) -> str:
    """``<item>.f00012``."""
    return f"{item_of(cine)}.f{index:05d}"


def parse_frame(text: str) -> tuple[str, int]:
    """(item, index) of the id of a frame; index 0 of an item's id, which stands for its only frame."""
    match = _FRAME.fullmatch(text)
    return (match["item"], int(match["index"])) if match else (text, 0)


def head(form: str, labels: Sequence[str]) -> dict[str, Any]:
    """What each JSON file begins with."""
    return {"format": FORMAT, "version": VERSION, "form": form, "labels": list(labels), "classes": []}


def record_of(cine: Any, store: MaskStore, index: int) -> dict[str, Any]:
    """JSON values of the label of a frame.

    ``mm_per_pixel`` is [row, column] with ``calibration`` saying where it was read, null where it is unknown.
    """
    info, calibration, seconds = store.info(index), cine.calibration, cine.time(index)
    width, height = cine.volume(index).GetImageData().GetDimensions()[:2]
    spacing = calibration.spacing_mm
    status: Status = info["status"]
    return {
        "frame": frame_id(cine, index),
        "item": item_of(cine),
        "name": cine.name,
        "source": source_of(cine) or None,
        "index": index,
        "status": status.value,
        "annotator": MODEL if status.by_model else named(info["annotator"]),
        "saved": datetime.fromtimestamp(info["time"], timezone.utc).isoformat(timespec="milliseconds"),
        "time": info["time"],
        "classification": "",
        "model": info["model"],
        "confidence": info["confidence"],
        "info": {},
        "rows": height,
        "columns": width,
        "time_ms": None if seconds is None else seconds * 1000,
        "mm_per_pixel": None if spacing is None else list(spacing),
        "calibration": None if spacing is None else calibration.source,
        "calibration_note": "; ".join(calibration.warnings) or None,
    }


def said_in(record: Mapping[str, Any]) -> Said:
    """What a record says. Errors: NotLabelsError for values that are none."""
    status = record.get("status")
    if status is not None and status not in [each.value for each in Status]:
        raise NotLabelsError(f"{str(status)[:40]!r} is no status")
    return Said(
        None if status is None else Status(status),
        _text(record, "annotator"),
        _text(record, "model"),
        _number(record, "confidence", 1.0),
        _number(record, "time", 1e11),
        _text(record, "source"),
    )


def check_head(said: Mapping[str, Any], form: str) -> tuple[str, ...]:
    """The names of the label numbers 1, 2, ... of a file that begins with ``head``. Errors: NotLabelsError."""
    if said.get("format") != FORMAT or said.get("form") != form:
        raise NotLabelsError(f"It is no {form} export of labels.")
    if said.get("version") != VERSION:
        raise NotLabelsError("Another version of SonoDistill wrote these labels: import them with that version.")
    return names_in(said.get("labels"))


def names_in(found: Any) -> tuple[str, ...]:
    """A list of label names. Errors: NotLabelsError."""
    if not isinstance(found, list) or not 0 < len(found) <= 255 or not all(isinstance(each, str) for each in found):
        raise NotLabelsError("It does not name its labels.")
    if len(set(found)) < len(found):
        raise NotLabelsError("It gives two labels one name.")
    return tuple(found)


def entries(said: Mapping[str, Any], key: str) -> list[Any]:
    """A list of a JSON object. Errors: NotLabelsError."""
    found = said.get(key)
    if not isinstance(found, list) or len(found) > MAX_ENTRIES:
        raise NotLabelsError(f"It has no list of {key}, or a longer one than is read.")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file. Errors: ExchangeError."""
    return parse_json(read_bytes(path, MAX_JSON), path.name)


def parse_json(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Errors: NotLabelsError."""
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise NotLabelsError(f"“{what}” is no JSON ({type(error).__name__}).") from None
    if not isinstance(found, dict):
        raise NotLabelsError(f"“{what}” holds no JSON object.")
    return found


def to_json(value: Any) -> bytes:
    """JSON text; no NaN."""
    return json.dumps(value, allow_nan=False).encode()


def named(annotator: str) -> str:
    """A person's name as the server takes it: ASCII letters, digits and ``._@-``, 64 at most."""
    if not annotator or _NAME.fullmatch(annotator):
        return annotator
    plain = re.sub(r"[^A-Za-z0-9_.@-]+", "_", annotator)[:64].lstrip("_.@-")
    return plain or "person"


def _item_id(name: str) -> str:
    """As ``sonodistill.annotate.ids.item_id`` names a file."""
    posix = PurePath(name).as_posix()
    stem = re.sub(r"[^A-Za-z0-9]+", "-", posix.rsplit(".", 1)[0] if "." in posix else posix)
    digest = hashlib.sha256(posix.encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{stem.strip('-')[-80:].strip('-') or 'item'}-{digest}"


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _text(record: Mapping[str, Any], key: str) -> str:
    found = record.get(key) or ""
    if not isinstance(found, str) or len(found) > 256:
        raise NotLabelsError(f"its {key} is no text of 256 characters at most")
    return found


def _number(record: Mapping[str, Any], key: str, most: float) -> float | None:
    found = record.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= most:
        raise NotLabelsError(f"its {key} is no number of 0 to {most:g}")
    return float(found) if math.isfinite(found) else None
