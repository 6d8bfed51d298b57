"""What to label next, asked of the acquisition in this process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.saved import annotator_of
from sonodistill.annotate.workbench import Workbench

_MOST = 100


class Next(Strategy):
    """The frame that a strategy would have labelled next; ``n`` of them if asked.

    Args:
        workbench: whose acquisition is asked.
        name: of the strategy.
        description: for people.
    """

    def __init__(self, workbench: Workbench, name: str, description: str) -> None:
        super().__init__(description)
        self.workbench, self.name = workbench, name

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:  # noqa: ARG002
        """{"id", "score", "why"}, with {"frames"} where more than one is asked for; {} when nothing is left."""
        asked = request.get("n", 1)
        count = min(max(asked, 1), _MOST) if type(asked) is int else 1
        choices = self.workbench.acquisition.next(self.name, count, annotator=annotator_of(request))
        if not choices:
            return {}
        first = choices[0]
        score = float(first.score) if math.isfinite(first.score) else None
        found: dict[str, Any] = {"id": str(first.frame), "score": score, "why": first.why}
        if count > 1:
            found["frames"] = [str(choice.frame) for choice in choices]
        return found


def strategies(workbench: Workbench) -> dict[str, Strategy]:
    """All of them, the default first: clients show the first."""
    from sonodistill.annotate.acquire.queue import DEFAULT, STRATEGIES

    names = [DEFAULT, *(name for name in STRATEGIES if name != DEFAULT)]
    return {name: Next(workbench, name, STRATEGIES[name]) for name in names}
