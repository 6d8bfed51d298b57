"""A propagation along frames of our server, which saves proposals there; they are fetched one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import png, scores
from UltrasoundSegmentLib.backends.model import BackendError, Cancel, Result
from UltrasoundSegmentLib.backends.our_headers import header
from UltrasoundSegmentLib.backends.refusal import RefusedError

if TYPE_CHECKING:
    from UltrasoundSegmentLib.backends.server import SonoDistillServer
    from UltrasoundSegmentLib.frames.frame import Frame

_AT_ONCE = 10
"""Frames of one request to propagate: what a cancel waits for, and the step of the progress."""
_MODEL = "model"


class Carried:
    """One propagation along frames of the server, a few at a time: it saves proposals there, and they are fetched."""

    def __init__(
        self,
        server: SonoDistillServer,
        frames: Sequence[Frame],
        mask: NDArray[np.uint8],
        model: str,
        cancel: Cancel,
        on_result: Callable[[int, Result], None],
    ) -> None:
        self.server, self.frames, self.mask, self.model = server, frames, mask, model
        self.cancel, self.on_result, self._owner = cancel, on_result, ""

    def held(self) -> bool:
        """Whether the mask is the label of its frame on the server, which carries no other."""
        client, id = self.server.client, self.server.frame_id(self.frames[0].index)
        try:
            answer = client.request("GET", f"/sonodistill/label/{id}", self.cancel)
        except RefusedError as error:
            if error.status == 404:
                return False
            raise
        self._owner = header(answer, "Annotator")
        shape = (self.mask.shape[0], self.mask.shape[1])
        return bool(answer.content) and np.array_equal(png.decode(answer.content, shape), self.mask)

    def run(self) -> str:
        """See ``Backend.propagate``; ``held`` first."""
        if len(self.frames) < 2:
            return ""
        first, second = self.frames[0].index, self.frames[1].index
        step = 1 if second > first else -1
        owner, at, left = self._owner, first, len(self.frames) - 1
        while left:
            self.cancel.check()
            count = min(left, _AT_ONCE)
            reached, why = self._carry(at, count, step, owner)
            if reached < count:
                return why
            owner, at, left = _MODEL, at + step * count, left - count
        return ""

    def _carry(self, at: int, count: int, step: int, owner: str) -> tuple[int, str]:
        """How many frames it got on, and why no further."""
        client = self.server.client
        body: dict[str, Any] = {"count": count, "backward": step < 0}
        if owner and owner != _MODEL:
            body["annotator"] = owner
        path = f"/sonodistill/propagate/{self.server.frame_id(at)}"
        said = client.json("POST", path, self.cancel, body=body)
        rows = said.get("frames") if isinstance(said, dict) else None
        if not isinstance(rows, list):
            raise BackendError("The server's answer to a propagation cannot be read: is it of another version?")
        stopped = "; ".join(
            f"{one.get('label', '')}: {one.get('why', '')}"[:200]
            for one in said.get("stopped") or []
            if isinstance(one, dict) and one.get("reason") != "count"
        )
        confidences = {row.get("frame"): row for row in rows if isinstance(row, dict)}
        for done in range(count):
            index = at + step * (done + 1)
            row = confidences.get(self.server.frame_id(index))
            if row is None:
                return done, stopped or f"The server stopped before frame {index + 1}."
            if not row.get("saved"):
                return done, f"Frame {index + 1} has a label of a person on the server: it stays."
            self.on_result(index, self._fetched(index, row.get("confidence")))
        return count, ""

    def _fetched(self, index: int, confidence: Any) -> Result:
        self.cancel.check()
        path = f"/sonodistill/label/{self.server.frame_id(index)}"
        answer = self.server.client.request("GET", path, self.cancel, query={"annotator": _MODEL})
        mask = png.decode(answer.content, (self.mask.shape[0], self.mask.shape[1]))
        return Result(mask, scores.confidence_of({"confidence": confidence}), self.model)
