"""What a model says of its own answer, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def unfamiliarity_of(params: Mapping[str, Any]) -> float | None:
    """``unfamiliarity`` of one frame, 0 and more, where the model says it."""
    given = params.get("unfamiliarity")
    given = given[0] if isinstance(given, list) and given else given
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < math.inf:
        return None
    return float(given)


def confidence_of(params: Mapping[str, Any]) -> float | None:
    """``confidence`` of one frame, 0 to 1, where the model says it."""
    given = params.get("confidence")
    given = given[0] if isinstance(given, list) and given else given
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
        return None
    return float(given)
