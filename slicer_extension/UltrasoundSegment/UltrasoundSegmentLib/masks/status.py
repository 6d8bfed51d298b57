"""How the mask of a frame came to be."""

from __future__ import annotations

from enum import Enum


class Status(str, Enum):
    """Of a frame; the values are those of the annotation server. Only people accept.

    EMPTY: nobody looked at it. PREDICTED: by a model, unseen. PROPAGATED: carried on from another frame by a model.
    EDITED: drawn or corrected by a person, unfinished. ACCEPTED: a person says it is right, be it empty. SKIPPED: a
    person says the frame is not to be labelled.
    """

    EMPTY = "empty"
    PREDICTED = "predicted"
    PROPAGATED = "propagated"
    EDITED = "edited"
    ACCEPTED = "accepted"
    SKIPPED = "skipped"

    @property
    def by_person(self) -> bool:
        """Whether a model may not replace it."""
        return self in (Status.EDITED, Status.ACCEPTED, Status.SKIPPED)

    @property
    def by_model(self) -> bool:
        return self in (Status.PREDICTED, Status.PROPAGATED)

    @property
    def has_mask(self) -> bool:
        """Whether the mask says something, be it that there is nothing."""
        return self not in (Status.EMPTY, Status.SKIPPED)
