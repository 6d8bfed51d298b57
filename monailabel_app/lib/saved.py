"""What a client says with a label: whose it is, what it is, and which of its numbers means what."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import InvalidIdError, InvalidLabelError
from sonodistill.annotate.ids import check_name
from sonodistill.annotate.model import MODEL, LabelRow, Status

FINAL, ORIGINAL = "final", "original"
AUTHOR_KEYS = ("annotator", "user", "client_id")
"""Of parameters and label information; the first that is there says who annotates."""
NOBODY = "annotator"


def annotator_of(given: Mapping[str, Any]) -> str:
    """The annotator that a request names, or "annotator". A name with other characters becomes one without."""
    text = next((str(given[key]) for key in AUTHOR_KEYS if given.get(key)), NOBODY)
    name = re.sub(r"[^A-Za-z0-9_.@-]+", "-", text).strip("-_.@")[:64] or NOBODY
    return f"{name}-{NOBODY}" if name == MODEL else name


def tag_of(row: LabelRow) -> str:
    """The tag that a label is listed under, "" for a frame that was skipped."""
    if row.status is Status.ACCEPTED:
        return FINAL
    if row.status in (Status.PREDICTED, Status.PROPAGATED):
        return ORIGINAL
    return row.annotator if row.status is Status.EDITED else ""


def of_tag(row: LabelRow, tag: str) -> bool:
    """Whether a label is found under a tag: "final", "original", or the name of its annotator."""
    return row.annotator == tag if tag not in (FINAL, ORIGINAL) else tag_of(row) == tag


@dataclass(frozen=True)
class Saved:
    """One request to save a label.

    Attributes:
        status, annotator: that it is saved with.
        names: of the label numbers of the store.
        info: what was sent with it.
    """

    status: Status
    annotator: str
    names: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, tag: str, info: dict[str, Any], names: Sequence[str]) -> Saved:
        """Errors: InvalidIdError for a tag that is no name, or that of the models."""
        if tag == ORIGINAL:
            return cls(Status.PREDICTED, MODEL, tuple(names), info)
        if tag == FINAL:
            return cls(Status.ACCEPTED, annotator_of(info), tuple(names), info)
        if check_name(tag, "tag") == MODEL:
            raise InvalidIdError(f"{MODEL!r} is the name of the models", remedy=f"use the tag {ORIGINAL}")
        return cls(Status.EDITED, tag, tuple(names), info)

    def frames(self, count: int) -> frozenset[int]:
        """Positions that are saved whatever they hold. Errors: InvalidLabelError for those that do not exist."""
        given = self.info.get("frames") or []
        if not isinstance(given, list) or any(type(at) is not int or not 0 <= at < count for at in given):
            raise InvalidLabelError("frames are a list of positions", remedy=f"0 to {count - 1}")
        return frozenset(given)

    def numbered(self, stack: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
        """The stack with the store's label numbers in place of the client's.

        A client that sends ``label_info`` has its own numbers. Slicer numbers what it exports 1 to n, but counts in
        ``idx`` the segments that it left out, too: where ``idx`` is no such count, the order is meant.

        Errors: InvalidLabelError for a number that nothing, or no label of the store, is named by.
        """
        named = self._named()
        if not named:
            return stack
        present = [int(value) for value in np.unique(stack) if value]
        table = {}
        for value in present:
            name = named.get(value)
            if name not in self.names:
                what = f"the label {name!r}" if name else f"the number {value}, which it does not name,"
                raise InvalidLabelError(
                    f"{what} is none of the labels here"[:200], remedy=f"name it one of {', '.join(self.names)}"
                )
            table[value] = self.names.index(name) + 1
        if all(value == number for value, number in table.items()):
            return stack
        numbered = np.zeros(stack.shape, np.uint8)
        for value, number in table.items():
            numbered[stack == value] = number
        return numbered

    def row(self, at: int, before: LabelRow | None) -> dict[str, Any]:
        """The arguments of ``LabelStore.save`` for the frame at a position.

        Args:
            at: the position.
            before: this annotator's label of the frame; its class stays where none is sent.
        """
        params = self.info.get("params")
        said = params if isinstance(params, Mapping) else {}
        model = str(self.info.get("model") or said.get("model") or "")[:100]
        if model and said.get("version"):
            model = f"{model} {said['version']}"
        drop = {*AUTHOR_KEYS, "params", "model", "classification", "frames"}
        return {
            "status": self.status,
            "annotator": self.annotator,
            "classification": str(self.info.get("classification", before.classification if before else "") or ""),
            "model": model,
            "confidence": _confidence(said, at),
            "info": {key: value for key, value in self.info.items() if key not in drop},
        }

    def _named(self) -> dict[int, str]:
        """Number -> name as the client has them; {} where it does not say."""
        given = self.info.get("label_info")
        if not isinstance(given, list):
            return {}
        entries = [one for one in given[:255] if isinstance(one, Mapping) and one.get("name")]
        if not entries:
            return {}
        numbers = [one.get("idx") for one in entries]
        if sorted(number for number in numbers if type(number) is int) != list(range(1, len(entries) + 1)):
            numbers = list(range(1, len(entries) + 1))
        return {number: str(one["name"]) for number, one in zip(numbers, entries, strict=True) if type(number) is int}


def _confidence(params: Mapping[str, Any], at: int) -> float | None:
    """That of one frame of a prediction."""
    given = params.get("confidence")
    if isinstance(given, list):
        positions = params.get("frames")
        place = positions.index(at) if isinstance(positions, list) and at in positions else at
        given = given[place] if place < len(given) else None
    return float(given) if isinstance(given, (int, float)) and 0 <= given <= 1 else None
