"""Click to segment, as clients of MONAI Label ask their "deepgrow" models."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from monailabel.interfaces.tasks.infer_v2 import InferType
from numpy.typing import NDArray

from lib.files import read_labels, write_result
from lib.infers.task import Clock, FrameTask
from lib.saved import annotator_of
from lib.targets import Target, received
from sonodistill.annotate.clicks.prompts import parse_prompts
from sonodistill.annotate.errors import InvalidPromptError
from sonodistill.annotate.ids import MAX_FRAMES, FrameId
from sonodistill.annotate.model import Prompts
from sonodistill.annotate.workbench import INTERACTIVE, Workbench

_SESSIONS = 64
_MOST_FRAMES = 16
"""That one request may prompt."""


@dataclass(frozen=True)
class _Asked:
    """What a request says of one frame."""

    at: int
    prompts: Prompts


class Interactive(FrameTask):
    """One structure at a time, from points, a box and the mask so far.

    Existing clients choose "deepgrow" models for clicks, and of dimension 2 for clicks on the slice that is shown. They
    send ``foreground`` and ``background``, lists of [x, y] or [x, y, slice], all of them each time, and ``label``, the
    name of the structure. ``roi`` is [x0, y0, x1, y1], or [x0, x1, y0, y1, z0, z1] as Slicer writes it; ``box`` is of
    the first form. A label that is uploaded is the mask so far; without one it is the answer to the clicks before, as
    long as these are only continued. ``reset_state`` forgets it.
    """

    def __init__(self, workbench: Workbench) -> None:
        super().__init__(
            workbench,
            INTERACTIVE,
            InferType.DEEPGROW,
            {},
            "Click to segment ultrasound frames: points, box, mask so far",
        )
        self._last = LastAnswers(_SESSIONS)

    def run(self, target: Target, request: Mapping[str, Any], clock: Clock) -> tuple[Path | None, dict[str, Any]]:
        interactive = self.workbench.interactive
        names = self.workbench.labels.names
        uploaded, name = received(request.get("label")), _name(request)
        number = names.index(name) + 1 if name in names else 1
        before = None if uploaded is None else _one(read_labels(uploaded, target.shape), number, name in names)
        clock.done("pre")
        masks, confidences, cached = {}, [], True
        for asked in _asked(request, target, before):
            frame, key = target.frames[asked.at], (annotator_of(request), target.frames[asked.at], name)
            if request.get("reset_state"):
                self._last.forget(key)
            prompts = asked.prompts if before is not None else self._last.continued(key, asked.prompts)
            refined = interactive.refine(frame, target.frame(asked.at).image, prompts)
            self._last.keep(key, asked.prompts, refined.mask)
            masks[asked.at] = refined.mask.astype(np.uint8) * np.uint8(number)
            confidences.append(round(refined.confidence, 4))
            cached &= refined.cached
        clock.done("infer")
        path = write_result(masks, target, request)
        clock.done("write")
        shown = name or names[0]
        said = {"label_names": {shown: number}, "labels": [shown], "frames": sorted(masks), "confidence": confidences}
        return path, {**said, "cached": cached}


class LastAnswers:
    """The mask that an annotator's clicks on a structure of a frame got last, of the last few; one bit a pixel."""

    def __init__(self, most: int, most_bytes: int = 64 << 20) -> None:
        self._most, self._most_bytes, self._lock = most, most_bytes, threading.Lock()
        self._kept: OrderedDict[tuple[str, FrameId, str], tuple[Prompts, NDArray[np.uint8], tuple[int, ...]]]
        self._kept = OrderedDict()

    def continued(self, key: tuple[str, FrameId, str], prompts: Prompts) -> Prompts:
        """The prompts with the mask so far, where they continue those that it answers to.

        Where a click was taken back, they do not: a mask that it made would stay.
        """
        with self._lock:
            before, packed, shape = self._kept.get(key, (None, None, ()))
        if (
            before is None
            or before.box != prompts.box
            or (before.positive, before.negative)
            == (
                prompts.positive,
                prompts.negative,
            )
        ):
            return prompts
        grown = all(
            new[: len(old)] == old
            for new, old in ((prompts.positive, before.positive), (prompts.negative, before.negative))
        )
        if not grown or packed is None:
            return prompts
        mask = np.unpackbits(packed, count=shape[0] * shape[1]).reshape(shape).astype(bool)
        return replace(prompts, mask=mask)

    def keep(self, key: tuple[str, FrameId, str], prompts: Prompts, mask: NDArray[np.bool_]) -> None:
        with self._lock:
            self._kept[key] = (prompts, np.packbits(mask), mask.shape)
            self._kept.move_to_end(key)
            while (
                len(self._kept) > self._most or sum(kept[1].nbytes for kept in self._kept.values()) > self._most_bytes
            ):
                self._kept.popitem(last=False)

    def forget(self, key: tuple[str, FrameId, str]) -> None:
        with self._lock:
            self._kept.pop(key, None)


def _name(request: Mapping[str, Any]) -> str:
    """Of the structure: ``label_name``, or ``label`` where that is no uploaded file."""
    for given in (request.get("label_name"), request.get("label")):
        if isinstance(given, str) and given and received(given) is None:
            return given[:64]
    return ""


def _asked(request: Mapping[str, Any], target: Target, before: NDArray[np.bool_] | None) -> list[_Asked]:
    """The prompts by frame. Errors: InvalidPromptError."""
    box, across = _box(request)
    chosen = request.get("slice")
    points: dict[int, dict[str, list[Any]]] = {}
    for key, name in (("foreground", "positive"), ("background", "negative")):
        for point in _points(request, key):
            at = _slice(point, target, chosen)
            if target.planar or not isinstance(chosen, int) or chosen < 0 or at == chosen:
                points.setdefault(at, {"positive": [], "negative": []})[name].append(point[:2])
    if not points:
        points[_only(target, chosen, across, before)] = {"positive": [], "negative": []}
    if len(points) > _MOST_FRAMES:
        raise InvalidPromptError(f"clicks on {len(points)} frames", remedy=f"click on {_MOST_FRAMES} at most at a time")
    return [
        _Asked(at, parse_prompts({**given, "box": box}, None if before is None or not before[at].any() else before[at]))
        for at, given in sorted(points.items())
    ]


def _points(request: Mapping[str, Any], key: str) -> list[Any]:
    given = request.get(key) or []
    if isinstance(given, str):  # as older clients send it
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            given = None
    if not isinstance(given, list) or any(not isinstance(point, list) or len(point) not in (2, 3) for point in given):
        raise InvalidPromptError(f"{key} is no list of points", remedy="send [[x, y], ...] or [[x, y, slice], ...]")
    return given


def _slice(point: Sequence[Any], target: Target, chosen: Any) -> int:
    if target.planar:
        return 0
    at = point[2] if len(point) == 3 else chosen
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not 0 <= at < len(target) or at != int(at):
        raise InvalidPromptError(
            f"the point {str(list(point))[:60]} is on no frame of {target.id}",
            remedy=f"send [x, y, frame], 0 to {len(target) - 1}",
        )
    return int(at)


def _only(target: Target, chosen: Any, across: int | None, before: NDArray[np.bool_] | None) -> int:
    """The frame that is meant without a point: that of the box, or the only one that the mask so far is on."""
    if target.planar:
        return 0
    drawn = [] if before is None else np.flatnonzero(before.any((1, 2))).tolist()
    for at in (chosen, across, drawn[0] if len(drawn) == 1 else None):
        if type(at) is int and 0 <= at < len(target):
            return at
    raise InvalidPromptError("which frame is not said", remedy="send a point [x, y, frame], or slice")


def _box(request: Mapping[str, Any]) -> tuple[list[float] | None, int | None]:
    """([x0, y0, x1, y1], slice) of ``box`` or ``roi``."""
    given = request.get("box") or request.get("roi")
    if not given:
        return None, None
    if not isinstance(given, list) or len(given) not in (4, 6) or any(not isinstance(v, (int, float)) for v in given):
        raise InvalidPromptError("the box is not four numbers, nor six", remedy="send [x0, y0, x1, y1]")
    if len(given) == 4:
        return given, None
    x0, x1, y0, y1, z0, z1 = given
    if not all(abs(z) < MAX_FRAMES for z in (z0, z1)):
        raise InvalidPromptError("the box is on no slice", remedy="send [x0, y0, x1, y1]")
    # Slicer's are corners in the directions of the patient, in either order along the axes of the image.
    return [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)], round((z0 + z1) / 2)


def _one(labels: NDArray[Any], number: int, named: bool) -> NDArray[np.bool_]:
    """Where the structure is in the labels: its number, or anything where a client draws one without its number."""
    return labels == number if named and (labels == number).any() else labels > 0
