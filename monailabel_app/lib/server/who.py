"""Who annotates, and what they mean by an id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request

from lib.saved import annotator_of as named
from lib.server.guard import ANNOTATOR
from sonodistill.annotate.errors import InvalidIdError
from sonodistill.annotate.ids import FrameId, check_name
from sonodistill.annotate.model import MODEL, Catalogue

DEFAULT = "annotator"


def signed_in(request: Request) -> bool:
    """Whether a token says who it is."""
    return request.scope.get(ANNOTATOR) is not None


def annotator_of(request: Request, given: Any = None) -> str:
    """The name that a label is kept under: whose token it is; without tokens what the client says, or "annotator".

    Errors: InvalidIdError for no name, and for the name of the model.
    """
    signed: str | None = request.scope.get(ANNOTATOR)
    if signed is not None:
        return signed
    if given is None or given == "":
        return DEFAULT
    if check_name(given) == MODEL:
        raise InvalidIdError(f"{MODEL!r} is the name of the models", remedy="give your own")
    return str(given)


def sender_of(request: Request, given: Mapping[str, Any]) -> str:
    """As ``annotator_of``, of a stock client, which says it in its own way: any text becomes a name."""
    signed: str | None = request.scope.get(ANNOTATOR)
    return signed if signed is not None else named(given)


def frame_of(catalogue: Catalogue, text: str) -> FrameId:
    """The frame that is meant. Errors: InvalidIdError, also for an item of several frames; UnknownIdError."""
    item, index = catalogue.locate(text)
    if index is None and item.frames > 1:
        raise InvalidIdError(f"{item.id} has {item.frames} frames", remedy=f"name one, as {FrameId(item.id, 0)}")
    return FrameId(item.id, index or 0)
