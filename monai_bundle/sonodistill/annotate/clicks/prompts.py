"""Prompts as a client sends them: read, checked against their frame, and drawn for the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.errors import InvalidPromptError
from sonodistill.annotate.model import Prompts
from sonodistill.transforms.geometry import Size

MAX_POINTS = 64
"""Positive and negative together."""
_KEYS = ("positive", "negative", "box")
_HALF = 0.5  # a coordinate counts from the centre of the first pixel: the frame begins half a pixel before
_REMEDY = "points are [x, y] and a box is [x0, y0, x1, y1], in pixels of the frame from the centre of the first"


def parse_prompts(given: Mapping[str, Any], mask: NDArray[np.bool_] | None = None) -> Prompts:
    """The prompts of JSON values: "positive" and "negative", lists of [x, y], and "box", [x0, y0, x1, y1] or null.

    Other keys are left alone. What the prompts say is checked when they are used.

    Raises:
        InvalidPromptError: they are of another form, or too many.
    """
    if not isinstance(given, Mapping):
        raise InvalidPromptError("prompts are not an object", remedy=f"give one with {', '.join(_KEYS)}")
    points = {}
    for key in _KEYS[:2]:
        values = given.get(key) or []
        if not isinstance(values, (list, tuple)):
            raise InvalidPromptError(f"{key} is no list of points", remedy=_REMEDY)
        if len(values) > MAX_POINTS:
            raise _too_many(len(values))
        points[key] = tuple(_numbers(point, 2, f"a {key} point") for point in values)
    box = given.get("box")
    return Prompts(points["positive"], points["negative"], None if box is None else _numbers(box, 4, "the box"), mask)  # type: ignore[arg-type]


def check_prompts(prompts: Prompts, shape: tuple[int, ...]) -> None:
    """Refuse what cannot be meant of a frame of this shape (H, W).

    Raises:
        InvalidPromptError: nothing is given; more than 64 points; a point or box that is not finite or not inside; a
            box without area or with its corners exchanged; a mask of another shape, or not of bool or whole numbers.
    """
    height, width = shape
    points = [*prompts.positive, *prompts.negative]
    if len(points) > MAX_POINTS:
        raise _too_many(len(points))
    mask = prompts.mask
    if mask is not None:
        if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "bui":
            raise InvalidPromptError("the mask is no array of bool or whole numbers", remedy="send it as an image")
        if mask.shape != (height, width):
            raise InvalidPromptError(
                f"the mask is {_by(mask.shape)}, but the frame is {_by((height, width))} (rows x columns)",
                remedy="send a mask on the frame's own pixels",
            )
    for point in points:
        _require_inside(_numbers(point, 2, "a point"), height, width)
    if prompts.box is not None:
        x0, y0, x1, y1 = _numbers(prompts.box, 4, "the box")
        if not (x0 < x1 and y0 < y1):
            raise InvalidPromptError(f"the box {_short(prompts.box)} has no area", remedy=_REMEDY)
        for corner in ((x0, y0), (x1, y1)):
            _require_inside(corner, height, width)
    if not points and prompts.box is None and (mask is None or not mask.any()):
        raise InvalidPromptError("there is no prompt", remedy="give a point, a box or a mask that is not empty")


def draw_prompts(prompts: Prompts, shape: tuple[int, ...], size: Size) -> NDArray[np.float32]:
    """Checked prompts of a frame (H, W) as the maps of a network of this input size, see ``networks.click``."""
    from sonodistill.networks.click import prompt_maps

    scale = np.array([size[1] / shape[1], size[0] / shape[0]], np.float64)

    def scaled(points: Sequence[Sequence[float]]) -> list[list[float]]:
        return ((np.asarray(points, np.float64).reshape(-1, 2) + _HALF) * scale - _HALF).tolist()

    box = None
    if prompts.box is not None:
        # By its edges, which lie half a pixel outside the centres of its corners' pixels.
        x0, y0, x1, y1 = prompts.box
        edges = np.array([[x0, y0], [x1 + 1, y1 + 1]]) * scale
        box = [*edges[0].tolist(), *(edges[1] - 1).tolist()]
    return prompt_maps(size, scaled(prompts.positive), scaled(prompts.negative), box, prompts.mask)


def _numbers(values: Any, count: int, what: str) -> tuple[float, ...]:
    if (
        not isinstance(values, (list, tuple, np.ndarray))
        or len(values) != count
        or not all(isinstance(value, (int, float, np.integer, np.floating)) for value in values)
        or any(isinstance(value, bool) for value in values)
    ):
        raise InvalidPromptError(f"{what} is not {count} numbers: {_short(values)}", remedy=_REMEDY)
    try:
        numbers = tuple(float(value) for value in values)
    except OverflowError:
        numbers = (math.inf,)
    if not all(map(math.isfinite, numbers)):
        raise InvalidPromptError(f"{what} is not finite: {_short(values)}", remedy=_REMEDY)
    return numbers


def _require_inside(point: Sequence[float], height: int, width: int) -> None:
    x, y = point
    if not (-_HALF <= x <= width - _HALF and -_HALF <= y <= height - _HALF):
        raise InvalidPromptError(
            f"({x:g}, {y:g}) is outside the frame of {width} x {height} pixels (columns x rows)", remedy=_REMEDY
        )


def _too_many(count: int) -> InvalidPromptError:
    return InvalidPromptError(f"{count} points", remedy=f"give {MAX_POINTS} at most")


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _short(values: Any) -> str:
    return repr(values)[:60]
