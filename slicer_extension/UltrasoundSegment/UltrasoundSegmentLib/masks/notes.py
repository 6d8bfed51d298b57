"""What is said of a frame's mask besides its pixels: attributes of its segmentation, saved with the scene."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

from UltrasoundSegmentLib.masks.status import Status

_STATUS, _ANNOTATOR, _TIME = "SonoDistill.status", "SonoDistill.annotator", "SonoDistill.time"
_CONFIDENCE, _MODEL = "SonoDistill.confidence", "SonoDistill.model"
_UNFAMILIARITY = "SonoDistill.unfamiliarity"


def status_of(node: Any) -> Status:
    """EMPTY where nothing was said."""
    try:
        return Status(node.GetAttribute(_STATUS) or "empty")
    except ValueError:
        return Status.EMPTY


def read(node: Any) -> dict[str, Any]:
    """status, annotator, time (seconds since 1970, 0 where nothing was written), confidence or None, model."""
    return {
        "status": status_of(node),
        "annotator": node.GetAttribute(_ANNOTATOR) or "",
        "time": _number(node, _TIME) or 0.0,
        "confidence": _number(node, _CONFIDENCE),
        "model": node.GetAttribute(_MODEL) or "",
    }


def unfamiliarity_of(node: Any) -> float | None:
    """Above 1 for a frame unlike those that the model was made for; None where no model said it."""
    return _number(node, _UNFAMILIARITY)


def _number(node: Any, key: str) -> float | None:
    """None where there is none, or a damaged scene holds something else."""
    try:
        value = float(node.GetAttribute(key) or "nan")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def write(
    nodes: Iterable[Any],
    status: Status,
    annotator: str = "",
    confidence: float | None = None,
    model: str = "",
    when: float | None = None,
    unfamiliarity: float | None = None,
) -> None:
    """Say it of each node; ``when`` is seconds since 1970, None for now."""
    said = {
        _STATUS: status.value,
        _ANNOTATOR: annotator,
        _TIME: f"{time.time() if when is None else when:.3f}",
        _CONFIDENCE: "" if confidence is None else f"{confidence:.6g}",
        _MODEL: model,
        _UNFAMILIARITY: "" if unfamiliarity is None else f"{unfamiliarity:.6g}",
    }
    for node in nodes:
        modifying = node.StartModify()
        for key, value in said.items():
            node.SetAttribute(key, value)
        node.EndModify(modifying)
