"""Frames with outlines as inline SVG: each frame is in the page once, however many predictions are drawn on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.report.charts import Pen
from sonodistill_training.evaluate.results import Result
from sonodistill_training.report.drawing import FOUND_RGB, TRUTH_RGB, jpeg_uri

LONGEST_SIDE = 320
_LONGEST_PATH = 20_000  # characters; the outline of noise is drawn coarser
_LOOK = "display: block; width: 100%; height: auto; border-radius: 6px; background: #000"

Mask = NDArray[np.bool_]


class NotTheseFramesError(SonoDistillError):
    """The frames given are not those that were evaluated."""


@dataclass(frozen=True)
class Seen:
    """An encoder's predictions: a result, its rows by image, and its masks in row order."""

    pen: Pen
    result: Result

    @cached_property
    def rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.result.column("image").tolist())}

    @cached_property
    def masks(self) -> list[Mask]:
        return self.result.masks()

    def value(self, column: str, image: str) -> float:
        """A column's value of an image."""
        return float(self.result.column(column)[self.rows[image]])


class Frames:
    """The frames of a data set as they stand in a page; ``key`` keeps their ids apart from another data set's."""

    def __init__(self, data: LabelledSet, key: str) -> None:
        self._data, self._key = data, key
        self._rows = {name: row for row, name in enumerate(data.files)}
        self._shown: set[int] = set()

    def truth(self, image: str, seen: Sequence[Seen]) -> Mask:
        """The truth of an image on the frame's own grid.

        Raises:
            NotTheseFramesError: no such frame, or another one than was evaluated.
        """
        row = self._rows.get(image)
        if row is None or self._data.truths[row] is None:
            raise NotTheseFramesError(f"the frames at hand have no {image} with a mask")
        truth = self._data.truth(row)
        for one in seen:
            same_mask = one.masks[one.rows[image]].shape == truth.shape
            if not same_mask or one.value("truth_pixels", image) != truth.sum():
                raise NotTheseFramesError(f"the frames at hand are not those that were evaluated ({image} is another)")
        return truth

    def size(self, image: str) -> tuple[int, int]:
        """Width and height that a frame is shown with, its own aspect ratio."""
        height, width = self._data.shapes[self._rows[image]].tolist()
        scale = min(1.0, LONGEST_SIDE / max(height, width))
        return max(1, round(width * scale)), max(1, round(height * scale))

    def drawn(self, image: str) -> str:
        """The frame as an SVG element: itself the first time, later a reference to that."""
        row, size = self._rows[image], self.size(image)
        name = f"{self._key}-frame-{row}"
        if row in self._shown:
            return f'<use href="#{name}"/>'
        self._shown.add(row)
        # Undoes the square that inference makes of a frame.
        frame = cv2.resize(self._data.images[row, 0], size, interpolation=_kernel(self._data.input_size, size))
        uri = jpeg_uri(cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB))  # type: ignore[arg-type]
        return f'<image id="{name}" href="{uri}" width="{size[0]}" height="{size[1]}"/>'


def example(frames: Frames, image: str, seen: Sequence[Seen], said: str = "") -> str:
    """An image in columns: input, input with the truth, and truth and prediction of every encoder.

    Raises:
        NotTheseFramesError: the frame is not the one that was evaluated.
    """
    truth, size = frames.truth(image, seen), frames.size(image)
    blue = _outline(truth, size, TRUTH_RGB)
    covered = f"truth {_area(int(truth.sum()), truth.size)}" if truth.any() else "no lesion"
    figures = [
        _figure(size, f"Input {image}", frames.drawn(image), "Input", f"{truth.shape[1]} x {truth.shape[0]} pixels"),
        _figure(size, f"Truth on {image}: {covered}", frames.drawn(image) + blue, "Input + truth", covered),
    ]
    for one in seen:
        mask = one.masks[one.rows[image]]
        agreement = f"Dice {one.value('dice', image):.3f}, IoU {one.value('iou', image):.3f}"
        found = f"predicted {_area(int(mask.sum()), mask.size)}" if mask.any() else "nothing predicted"
        label = f"Truth and prediction of {one.pen.name} on {image}: {agreement}; {found}; {covered}"
        outlines = frames.drawn(image) + blue + _outline(mask, size, FOUND_RGB, tint=True)
        figures.append(_figure(size, label, outlines, one.pen.name, f"{agreement}; {found}, {covered}", one.pen.colour))
    return (
        f'<div class="card" style="margin-top: 12px"><p><strong>{escape(image)}</strong> '
        f'<span class="muted">{escape(said)}</span></p><div class="frames">{"".join(figures)}</div></div>'
    )


def legend() -> str:
    """What the colours of the outlines are."""
    entries = ((TRUTH_RGB, "truth"), (FOUND_RGB, "prediction"))
    items = "".join(f'<li><i style="border-color: rgb{colour}"></i>{text}</li>' for colour, text in entries)
    return f'<ul class="legend" style="margin-top: 1em">{items}</ul>'


def _figure(size: tuple[int, int], label: str, content: str, title: str, caption: str, colour: str = "") -> str:
    edge = f' style="border-left: 4px solid {colour}; padding-left: 6px"' if colour else ""
    return (
        f'<figure><svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape(label)}" style="{_LOOK}">'
        f"{content}</svg><figcaption><strong{edge}>{escape(title)}</strong>{escape(caption)}</figcaption></figure>"
    )


def _area(pixels: int, of: int) -> str:
    share = 100 * pixels / of
    return f"{pixels:,} px ({share:.1f} %)" if share >= 1 else f"{pixels:,} px ({share:.2g} %)"


def _outline(mask: Mask, size: tuple[int, int], colour: tuple[int, int, int], tint: bool = False) -> str:
    """The mask's border pixels as an SVG path on a grid of that width and height."""
    coarseness, path = 1, _path(mask, size, 1)
    while len(path) > _LONGEST_PATH:
        coarseness *= 2
        path = _path(mask, size, coarseness)
    if not path:
        return ""
    fill = f"rgb{colour}" if tint else "none"
    style = (
        f"stroke: rgb{colour}; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; "
        f"vector-effect: non-scaling-stroke; fill: {fill}; fill-opacity: .16; fill-rule: evenodd"
    )
    return f'<path d="{path}" style="{style}"/>'


def _path(mask: Mask, size: tuple[int, int], coarseness: int) -> str:
    """Path data through the centres of the border pixels of the mask in cells of ``coarseness`` pixels."""
    cells = max(1, size[0] // coarseness), max(1, size[1] // coarseness)
    covered = cv2.resize(mask.astype(np.float32), cells, interpolation=cv2.INTER_AREA)
    # A lesion of a pixel or two stays visible.
    reduced = covered >= 0.5 if (covered >= 0.5).any() else covered > 0
    outlines, _ = cv2.findContours(reduced.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array(size) / cells
    points = [((outline[:, 0] + 0.5) * scale).tolist() for outline in outlines]
    return "".join("M" + "L".join(f"{x:g} {y:g}" for x, y in outline) + "Z" for outline in points)


def _kernel(side: int, size: tuple[int, int]) -> int:
    return cv2.INTER_AREA if min(size) < side else cv2.INTER_LINEAR
