"""What may be kept with a label: checked before it is."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Sequence

from sonodistill.annotate.errors import ConflictError, InvalidLabelError
from sonodistill.annotate.ids import MAX_FRAMES, FrameId, check_item_id, check_name
from sonodistill.annotate.model import MODEL, LabelRow, Status

BY_MODEL = (Status.PREDICTED, Status.PROPAGATED)
"""What a model may say."""

_MAX_NAMES = 255
_MAX_TEXT = 200
_MAX_INFO = 16 << 10
_MAX_DEPTH = 8


def checked_frame(frame: FrameId) -> FrameId:
    """The frame, its index a plain int. Errors: InvalidIdError; InvalidLabelError for an index that no frame has."""
    check_item_id(frame.item)
    try:
        index = operator.index(frame.index)
    except TypeError:
        index = -1
    if not 0 <= index < MAX_FRAMES:
        raise InvalidLabelError(f"no frame has the index {str(frame.index)[:20]}")
    return FrameId(frame.item, index)


def check_names(names: Sequence[str], what: str) -> None:
    """Errors: InvalidLabelError for more names than a uint8 counts, one twice, or one that is empty or very long."""
    if len(names) > _MAX_NAMES or len(set(names)) != len(names) or not all(0 < len(name) <= 64 for name in names):
        raise InvalidLabelError(
            f"{', '.join(names)[:200]!r} are no names of a {what}",
            remedy=f"give {_MAX_NAMES} different ones at most, of 64 characters each",
        )


def known_status(status: Status | str) -> Status:
    """Errors: InvalidLabelError."""
    try:
        return Status(status)
    except ValueError:
        known = ", ".join(one.value for one in Status)
        raise InvalidLabelError(f"{str(status)[:40]!r} is no status of a label", remedy=f"choose of {known}") from None


def checked_status(status: Status | str, annotator: str) -> Status:
    """The status, if this annotator may give it. Errors: InvalidIdError, InvalidLabelError."""
    check_name(annotator)
    status = known_status(status)
    if annotator == MODEL and status not in BY_MODEL:
        raise InvalidLabelError(
            f"a model cannot say that a label is {status.value}", remedy="give the name of the person who does"
        )
    return status


def check_class(name: str, classes: Sequence[str]) -> str:
    """The class, which may be "". Errors: InvalidLabelError."""
    if name and name not in classes:
        raise InvalidLabelError(f"{str(name)[:40]!r} is no class", remedy=f"choose of {', '.join(classes)}")
    return name


def check_text(text: str) -> str:
    """A short text that can be printed. Errors: InvalidLabelError."""
    if not isinstance(text, str) or len(text) > _MAX_TEXT or not (text.isprintable() and text.isascii()):
        raise InvalidLabelError(
            f"{str(text)[:40]!r} is no name of a model", remedy=f"{_MAX_TEXT} ASCII characters at most"
        )
    return text


def checked_confidence(value: float | None) -> float | None:
    """0 to 1, or None. Errors: InvalidLabelError."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise InvalidLabelError(f"a confidence of {str(value)[:20]}", remedy="give a probability, 0 to 1")
    return number


def checked_info(info: dict[str, object] | None) -> str:
    """The JSON text of an object. Errors: InvalidLabelError for other values, for too many, and for too deep ones."""
    if info is None:
        return "{}"
    if not isinstance(info, dict) or not _is_json(info, _MAX_DEPTH):
        raise InvalidLabelError(f"info is no JSON object of at most {_MAX_DEPTH} levels")
    text = json.dumps(info, separators=(",", ":"))
    if len(text) > _MAX_INFO:
        raise InvalidLabelError(f"info takes {len(text)} characters", remedy=f"keep it under {_MAX_INFO}")
    return text


def _is_json(value: object, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and all(_is_text(key) and _is_json(one, depth - 1) for key, one in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_json(one, depth - 1) for one in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or _is_text(value) or (isinstance(value, int) and abs(value) < 1 << 63)


def _is_text(value: object) -> bool:
    """Whether it can be written as UTF-8: with half a surrogate pair no list that holds it could be."""
    return isinstance(value, str) and not any("\ud800" <= one <= "\udfff" for one in value)


def check_seen(row: LabelRow | None, expected: int | None) -> None:
    """Errors: ConflictError when the row is newer than the revision that the caller expects."""
    if expected is not None and row is not None and row.revision > expected:
        raise ConflictError(
            f"the label of frame {row.frame} by {row.annotator} was saved again since (revision {row.revision})",
            remedy="load it, and decide which one is right",
        )


def check_keeps_people(rows: Sequence[LabelRow], annotator: str) -> None:
    """Whether a prediction may be kept under this name beside or in place of the rows there are of its frame.

    Errors: ConflictError when it would replace what a person said, or be a model's about a frame of which one did.
    """
    for row in rows:
        if row.status not in BY_MODEL and annotator in (row.annotator, MODEL):
            raise ConflictError(
                f"frame {row.frame} is {row.status.value} by {row.annotator}, which no prediction replaces",
                remedy="predict frames that nobody labelled",
            )
