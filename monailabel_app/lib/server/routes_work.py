"""Routes of annotating: clicks, propagation, and what to label next."""

from __future__ import annotations

import base64
import binascii
import threading
from collections import OrderedDict
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from lib.server.limits import json_body
from lib.server.routes_frames import mask_of
from lib.server.who import annotator_of, frame_of
from sonodistill.annotate.errors import ConflictError, InvalidPromptError, TooLargeError, UnknownIdError
from sonodistill.annotate.ids import FrameId, check_name
from sonodistill.annotate.labels import mask as masks
from sonodistill.annotate.model import MODEL, Status
from sonodistill.annotate.workbench import INTERACTIVE, Workbench

_MOST_CHOICES = 100
_MOST_PROPAGATED = 200


class LastMasks:
    """What each session clicked last, frame by frame: the last few hundred masks, one bit a pixel."""

    def __init__(self, most: int = 256, most_bytes: int = 64 << 20) -> None:
        self._most, self._most_bytes, self._bytes = most, most_bytes, 0
        self._kept: OrderedDict[tuple[str, str, FrameId], tuple[NDArray[np.uint8], tuple[int, ...]]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, session: str, annotator: str, frame: FrameId) -> NDArray[np.bool_] | None:
        with self._lock:
            held = self._kept.get((session, annotator, frame))
        if held is None:
            return None
        packed, shape = held
        return np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)

    def put(self, session: str, annotator: str, frame: FrameId, mask: NDArray[np.bool_]) -> None:
        key, packed = (session, annotator, frame), np.packbits(mask)
        with self._lock:
            before = self._kept.pop(key, None)
            self._bytes += packed.nbytes - (before[0].nbytes if before else 0)
            self._kept[key] = (packed, mask.shape)
            while len(self._kept) > self._most or self._bytes > self._most_bytes:
                _, (dropped, _) = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes


def router(workbench: Workbench) -> APIRouter:
    """``/sonodistill/click``, ``propagate``, ``next`` and ``progress``."""
    routes = APIRouter(prefix="/sonodistill", tags=["Annotation"])
    catalogue, labels = workbench.catalogue, workbench.labels
    last = LastMasks()

    @routes.post("/click/{id}", summary="A mask from clicks, a box and the mask so far, as a PNG of 0 and 1")
    def click(id: str, request: Request, body: Annotated[dict[str, Any], Depends(json_body)]) -> Response:
        from sonodistill.annotate.clicks.prompts import parse_prompts

        which, name = frame_of(catalogue, id), annotator_of(request, body.get("annotator"))
        session = check_name(body["session"], "session") if body.get("session") is not None else None
        image = catalogue.frame(which).image
        mask = _mask_so_far(body, image.shape)
        if body.get("use_mask") is True and mask is None:
            if session is None:
                raise InvalidPromptError("there is no mask to use", remedy="send a session, or the mask itself")
            mask = last.get(session, name, which)
        refined = workbench.interactive.refine(which, image, parse_prompts(body, mask))
        if session is not None:
            last.put(session, name, which, refined.mask)
        headers = {
            "X-SonoDistill-Confidence": f"{refined.confidence:.4f}",
            "X-SonoDistill-Cached": str(refined.cached).lower(),
        }
        return Response(masks.to_png(refined.mask.astype(np.uint8)), media_type="image/png", headers=headers)

    @routes.post("/embed/{id}", summary="Compute what makes the clicks on a frame fast")
    def embed(id: str) -> dict[str, bool]:
        which = frame_of(catalogue, id)
        return {"cached": workbench.interactive.embed(which, catalogue.frame(which).image)}

    @routes.post("/propagate/{id}", summary="Carry the label of a frame to the frames after it, or before it")
    def propagate(id: str, request: Request, body: Annotated[dict[str, Any], Depends(json_body)]) -> dict[str, Any]:
        which = frame_of(catalogue, id)
        count, backward = body.get("count", 10), body.get("backward", False)
        if type(count) is not int or not 1 <= count <= _MOST_PROPAGATED or not isinstance(backward, bool):
            raise InvalidPromptError(f"count is 1 to {_MOST_PROPAGATED}, backward true or false")
        own = annotator_of(request, body["annotator"]) if body.get("annotator") else None
        label = labels.get(which, own)
        if label is None or label.mask is None or not label.mask.any():
            raise UnknownIdError(f"frame {which} has no label to carry on", remedy="save one first")
        return Carried(workbench, which, label.mask, count, backward, body).run()

    @routes.post("/next", summary="What to label next")
    def next_frames(request: Request, body: Annotated[dict[str, Any], Depends(json_body)]) -> dict[str, Any]:
        name, strategy, count = annotator_of(request, body.get("annotator")), body.get("strategy"), body.get("n", 1)
        if type(count) is not int or not 1 <= count <= _MOST_CHOICES:
            raise InvalidPromptError(f"n is 1 to {_MOST_CHOICES}")
        if strategy is not None:
            check_name(strategy, "strategy")
        exclude = body.get("exclude", [])
        if not isinstance(exclude, list):
            raise InvalidPromptError("exclude is a list of frames")
        left_out = [frame_of(catalogue, text) for text in exclude]
        found = workbench.acquisition.next(strategy, count, annotator=name, exclude=left_out)
        return {"frames": [_choice(one) for one in found]}

    @routes.get("/progress", summary="How far embedding and labelling are")
    def progress() -> dict[str, Any]:
        return {"embedding": workbench.acquisition.progress(), "labels": labels.counts(), "revision": labels.revision()}

    return routes


class Carried:
    """One propagation: each label of the mask by itself, then put together and saved frame by frame."""

    def __init__(
        self,
        workbench: Workbench,
        start: FrameId,
        mask: NDArray[np.uint8],
        count: int,
        backward: bool,
        body: dict[str, Any],
    ) -> None:
        from sonodistill.annotate.clicks.propagate import LEAST_CONFIDENCE

        self.workbench, self.start, self.mask = workbench, start, mask
        self.count, self.backward = count, backward
        least = body.get("least_confidence", LEAST_CONFIDENCE)
        if isinstance(least, bool) or not isinstance(least, int | float) or not 0 <= least <= 1:
            raise InvalidPromptError("least_confidence is a number, 0 to 1")
        self.least = float(least)

    def run(self) -> dict[str, Any]:
        from sonodistill.annotate.clicks.propagate import propagate_in

        item = self.workbench.catalogue.item(self.start.item)
        carried: dict[int, NDArray[np.uint8]] = {}
        doubts: dict[int, float] = {}
        stopped, whole = [], set(range(item.frames))
        for number in np.unique(self.mask[self.mask > 0]).tolist():
            found = propagate_in(
                self.workbench.interactive,
                self.workbench.catalogue,
                item,
                self.start.index,
                self.mask == number,
                count=self.count,
                backward=self.backward,
                least_confidence=self.least,
            )
            reached = set()
            for index, refined in found:
                mask = carried.setdefault(index, np.zeros(refined.mask.shape, np.uint8))
                mask[refined.mask & (mask == 0)] = number
                doubts[index] = min(doubts.get(index, 1.0), refined.confidence)
                reached.add(index)
            whole &= reached
            name = self.workbench.labels.names[number - 1]
            stopped.append({"label": name, "why": found.stopped, "reason": found.reason})
        # A frame that one of the labels did not reach would look as if it had none of it.
        saved = [self._save(index, carried[index], doubts[index]) for index in carried if index in whole]
        return {"frames": saved, "stopped": stopped}

    def _save(self, index: int, mask: NDArray[np.uint8], confidence: float) -> dict[str, Any]:
        frame = FrameId(self.start.item, index)
        version = self.workbench.versions[INTERACTIVE].current()
        try:
            self.workbench.labels.save(
                frame,
                mask,
                status=Status.PROPAGATED,
                annotator=MODEL,
                model=f"{INTERACTIVE} {version.number if version else ''}".strip(),
                confidence=confidence,
                info={"from": str(self.start)},
            )
        except ConflictError:  # somebody has labelled this frame: theirs stays
            return {"frame": str(frame), "confidence": confidence, "saved": False}
        return {"frame": str(frame), "confidence": confidence, "saved": True}


def _mask_so_far(body: dict[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The PNG of ``mask``, in base64."""
    text = body.get("mask")
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > 16 << 20:
        raise TooLargeError("the mask so far is a PNG of 12 MB at most, in base64")
    try:
        png = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPromptError("the mask so far is no base64") from None
    return mask_of(png, (shape[0], shape[1])) > 0


def _choice(choice: Any) -> dict[str, Any]:
    frame, score = choice.frame, float(choice.score)
    known = score if np.isfinite(score) else None
    return {"frame": str(frame), "item": frame.item, "index": frame.index, "score": known, "why": choice.why}
