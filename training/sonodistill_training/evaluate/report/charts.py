"""Charts of several encoders as inline SVG: lines with bands, and a colour that an encoder keeps on the whole page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from sonodistill_training.evaluate.results import Cell
from sonodistill_training.evaluate.tables.needed import rank
from sonodistill_training.evaluate.tables.parts import short_weights
from sonodistill_training.quickstart.charts import number, ticks

WIDTH, HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 22, 10, 42
_MOST_DOTS = 12
# Mid tones, which stand out on a white page and on a dark one.
_COLOURS = (
    "#0b84c4",
    "#d9730d",
    "#2f9e62",
    "#b5489b",
    "#8a6fd1",
    "#c94040",
    "#9a861a",
    "#3f9aa6",
    "#c76a8b",
    "#77838e",
)
_DASHES = ("", "7 4", "2 4")

Encoder = tuple[str, str]
"""Name and weights, which tell encoders apart in a store."""


@dataclass(frozen=True, slots=True)
class Pen:
    """How an encoder is called and drawn."""

    name: str
    colour: str
    dash: str = ""


@dataclass(frozen=True)
class Line:
    """Points of an encoder, all sequences of one length; ``low`` and ``high`` bound its band, NaN where it has none."""

    pen: Pen
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def pens(cells: Iterable[Cell]) -> dict[Encoder, Pen]:
    """A pen for each encoder, in the order of the papers' tables; ten colours, then the same ones dashed."""
    encoders = sorted({(cell.encoder, cell.weights) for cell in cells}, key=lambda one: (rank(one[0]), one[1]))
    names = [name for name, _ in encoders]
    found = {}
    for place, (name, weights) in enumerate(encoders):
        shown = f"{name} ({short_weights(weights)})" if names.count(name) > 1 else name
        dash = _DASHES[place // len(_COLOURS) % len(_DASHES)]
        found[name, weights] = Pen(shown, _COLOURS[place % len(_COLOURS)], dash)
    return found


def legend(of: Iterable[Pen]) -> str:
    """The pens with their names, as a list of the page."""
    entries = (
        f'<li><i style="border-top-color: {pen.colour}; border-top-style: {"dashed" if pen.dash else "solid"}"></i>'
        f"{escape(pen.name)}</li>"
        for pen in of
    )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def chart(
    lines: Sequence[Line], *, label: str, x_label: str, x_ticks: Mapping[float, str] | None = None, log_x: bool = False
) -> str:
    """The lines as an ``<svg>`` element.

    Args:
        lines: one for each encoder; points that are not finite are left out.
        label: what the chart shows; for a screen reader, the ends of every line follow it.
        x_label: written under the axis.
        x_ticks: places on the x axis and what is written there; default round numbers.
        log_x: logarithmic x axis.
    """
    lines = [line for line in map(_finite, lines) if line.x]
    if not lines:
        return '<p class="muted">No finite value to draw.</p>'
    x_low, x_high = _ends([x for line in lines for x in line.x], log_x)
    y_low, y_high = _limits([y for line in lines for ys in (line.y, line.low, line.high) for y in ys])

    def across(value: float) -> float:
        place = math.log(value) if log_x else value
        return _LEFT + (place - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)

    spoken = escape(f"{label}. {'; '.join(map(_spoken, lines))}")
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">',
        f"<title>{escape(label)}</title>",
        *_axes(x_ticks or {x: number(x) for x in ticks(x_low, x_high)}, ticks(y_low, y_high), across, down, x_label),
        *(_band(line, across, down) for line in lines),
        *(_stroke(line, across, down) for line in lines),
        "</svg>",
    ]
    return "".join(parts)


def _finite(line: Line) -> Line:
    """The line without points that cannot be drawn; where a bound is missing, the band closes on the line."""
    kept = [
        (x, y, low if math.isfinite(low) else y, high if math.isfinite(high) else y)
        for x, y, low, high in zip(line.x, line.y, line.low, line.high, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    x, y, low, high = zip(*kept, strict=True) if kept else ((), (), (), ())
    return Line(line.pen, x, y, low, high)


def _spoken(line: Line) -> str:
    ends = number(line.y[0]) if len(line.y) == 1 else f"{line.y[0]:.4g} to {line.y[-1]:.4g}"
    return f"{line.pen.name}: {ends}"


def _axes(
    x_ticks: Mapping[float, str],
    y_ticks: Sequence[float],
    across: Callable[[float], float],
    down: Callable[[float], float],
    x_label: str,
) -> Iterable[str]:
    base, end = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for tick in y_ticks:
        level = down(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{end}" y1="{level:.1f}" y2="{level:.1f}"/>'
        yield f'<text x="{_LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{number(tick)}</text>'
    for tick, text in x_ticks.items():
        place = across(tick)
        yield f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{base}" y2="{base + 5}"/>'
        yield f'<text x="{place:.1f}" y="{base + 19}" text-anchor="middle">{escape(text)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{base}H{end}"/>'
    yield f'<text x="{(_LEFT + end) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>'


def _band(line: Line, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    if all(low == high for low, high in zip(line.low, line.high, strict=True)):
        return ""
    edge = [*zip(line.x, line.high, strict=True), *reversed([*zip(line.x, line.low, strict=True)])]
    path = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in edge)
    return f'<path d="M{path}Z" style="fill: {line.pen.colour}; fill-opacity: .16"/>'


def _stroke(line: Line, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    points = [(across(x), down(y)) for x, y in zip(line.x, line.y, strict=True)]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dash = f"; stroke-dasharray: {line.pen.dash}" if line.pen.dash else ""
    style = f"fill: none; stroke: {line.pen.colour}; stroke-width: 2; stroke-linejoin: round{dash}"
    dots = points if len(points) <= _MOST_DOTS else ()
    return f'<path d="M{path}" style="{style}"><title>{escape(line.pen.name)}</title></path>' + "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill: {line.pen.colour}"/>' for x, y in dots
    )


def _ends(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of the x axis (of its logarithm), apart even for a single value."""
    low, high = (math.log(end) if log else end for end in (min(values), max(values)))
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the y axis: a little beyond the values, and down to 0 where they come near to it."""
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    margin = 0.06 * (high - low)
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin
