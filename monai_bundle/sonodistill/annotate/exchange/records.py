"""An annotation without its pixels as JSON, and back; what is read is checked first."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sonodistill.annotate.errors import InvalidLabelError, TooLargeError
from sonodistill.annotate.ids import check_name
from sonodistill.annotate.labels.checks import checked_info
from sonodistill.annotate.model import Item, LabelRow, Status
from sonodistill.frames import Frame

FORMAT = "sonodistill-labels"
VERSION = 1
MAX_JSON = 1 << 27
"""Bytes of a JSON file that is read."""
MAX_ENTRIES = 1_000_000
"""Frames, annotations or files of one import."""

_MAX_TEXT = 256
_MAX_PARTS = 4 * MAX_ENTRIES


@dataclass(frozen=True, slots=True)
class Said:
    """What a file says of a label besides its mask.

    Attributes:
        status, annotator, classification, model, confidence, time: as in ``LabelRow``; None, "" and 0 where the file
            does not say.
        info: as in ``LabelRow``.
    """

    status: Status | None = None
    annotator: str = ""
    classification: str = ""
    model: str = ""
    confidence: float | None = None
    time: float = 0.0
    info: dict[str, object] = field(default_factory=dict)


def record_of(item: Item, row: LabelRow, frame: Frame | None) -> dict[str, Any]:
    """JSON values of an annotation.

    ``mm_per_pixel`` is [row, column] spacing with ``calibration`` saying where it was read, or null with
    ``calibration_note`` saying why it is unknown.

    Args:
        item: that its frame is of.
        row: the annotation.
        frame: its frame, None where that was not read.
    """
    record: dict[str, Any] = {
        "frame": str(row.frame),
        "item": item.id,
        "name": item.name,
        "index": row.frame.index,
        "status": row.status.value,
        "annotator": row.annotator,
        "saved": datetime.fromtimestamp(row.time, timezone.utc).isoformat(timespec="milliseconds"),
        "time": row.time,
        "classification": row.classification,
        "model": row.model,
        "confidence": row.confidence,
        "info": dict(row.info),
    }
    if frame is not None:
        record["rows"], record["columns"] = frame.image.shape
        record["time_ms"] = frame.time_ms
        record["mm_per_pixel"] = None if frame.mm_per_pixel is None else list(frame.mm_per_pixel)
        record["calibration"] = frame.calibration.source
        record["calibration_note"] = frame.calibration.note
    return record


def said_in(record: Mapping[str, Any]) -> Said:
    """What a record of ``record_of`` says.

    Errors: InvalidLabelError, InvalidIdError.
    """
    status = record.get("status")
    if status is not None and status not in [each.value for each in Status]:
        raise InvalidLabelError(f"{str(status)[:40]!r} is no status")
    annotator = _text(record, "annotator")
    info = record.get("info") or {}
    checked_info(info)
    return Said(
        None if status is None else Status(status),
        check_name(annotator) if annotator else "",
        _text(record, "classification"),
        _text(record, "model"),
        _number(record, "confidence", 1.0),
        _number(record, "time", 1e11) or 0.0,
        info,
    )


def head(form: str, labels: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """What each of our JSON files begins with."""
    return {"format": FORMAT, "version": VERSION, "form": form, "labels": list(labels), "classes": list(classes)}


def check_head(said: Mapping[str, Any], form: str) -> tuple[str, ...]:
    """The names of the label numbers 1, 2, ... of a file that begins with ``head``.

    Errors: InvalidLabelError.
    """
    if said.get("format") != FORMAT or said.get("form") != form:
        raise InvalidLabelError(f"it is no {form} export of labels")
    if said.get("version") != VERSION:
        raise InvalidLabelError("another version of SonoDistill wrote it", remedy="import it with that version")
    return names_in(said.get("labels"))


def names_in(found: Any) -> tuple[str, ...]:
    """A list of label names. Errors: InvalidLabelError."""
    if not isinstance(found, list) or len(found) > 255 or not all(isinstance(each, str) for each in found):
        raise InvalidLabelError("it does not name its labels")
    if len(set(found)) < len(found):
        raise InvalidLabelError("it gives two labels one name")
    return tuple(found)


def entries(said: Mapping[str, Any], key: str) -> list[Any]:
    """A list of a JSON object. Errors: InvalidLabelError, TooLargeError."""
    found = said.get(key)
    if not isinstance(found, list):
        raise InvalidLabelError(f"it has no list of {key}")
    if len(found) > MAX_ENTRIES:
        raise TooLargeError(f"it has {len(found)} {key}; {MAX_ENTRIES} are the most")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a file.

    Errors: InvalidLabelError, TooLargeError.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise TooLargeError(f"it has more than {MAX_JSON >> 20} MB", path=path)
        text = path.read_text(encoding="utf-8")
        if text.count("[") + text.count("{") > _MAX_PARTS:
            raise TooLargeError(f"it has more than {_MAX_PARTS} lists and objects", path=path)
        found = json.loads(text, parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidLabelError(f"it is no JSON file ({type(error).__name__})", path=path) from None
    if not isinstance(found, dict):
        raise InvalidLabelError("it holds no JSON object", path=path)
    return found


def to_json(value: Any) -> str:
    """JSON text; no NaN."""
    return json.dumps(value, allow_nan=False)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _text(record: Mapping[str, Any], key: str) -> str:
    found = record.get(key) or ""
    if not isinstance(found, str) or len(found) > _MAX_TEXT:
        raise InvalidLabelError(f"its {key} is no text of {_MAX_TEXT} characters at most")
    return found


def _number(record: Mapping[str, Any], key: str, most: float) -> float | None:
    found = record.get(key)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= most:
        raise InvalidLabelError(f"its {key} is no number of 0 to {most:g}")
    return float(found) if math.isfinite(found) else None
