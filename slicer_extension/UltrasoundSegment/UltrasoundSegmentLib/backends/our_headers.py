"""What our server says of a mask in the headers of its answer."""

from __future__ import annotations

from urllib.parse import unquote

from UltrasoundSegmentLib.backends import scores
from UltrasoundSegmentLib.backends.client import Answer


def header(answer: Answer, name: str) -> str:
    return unquote(answer.headers.get(f"X-SonoDistill-{name}", ""))[:200]


def header_number(answer: Answer, name: str) -> float | None:
    try:
        return scores.confidence_of({"confidence": float(header(answer, name))})
    except ValueError:
        return None
