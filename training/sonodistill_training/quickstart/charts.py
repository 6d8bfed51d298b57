"""Line charts as inline SVG: axes with round ticks, a grid, linear or logarithmic; colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 400, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 14, 10, 42
_MOST_DOTS = 40


def number(value: float) -> str:
    """A figure as the report writes it: six significant digits at most."""
    return f"{value:.6g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) within [low, high], ``most`` or fewer."""
    span = high - low
    for exponent in range(math.floor(math.log10(span)) - 1, math.floor(math.log10(span)) + 2):
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first + 1 <= most:
                return [round(k * step, 12 - exponent) for k in range(first, last + 1)]
    raise AssertionError("ten times the span's power of ten always suffices")


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 times powers of ten within [low, high]; powers alone where those are enough."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5), tuple(range(1, 10))):
        found = [f * 10.0**p for p in powers for f in factors if low * 0.999 <= f * 10.0**p <= high * 1.001]
        if len(found) >= 3:
            return found
    return ticks(low, high)


def line_chart(x: Sequence[float], y: Sequence[float], *, label: str, x_label: str, log: bool = False) -> str:
    """The chart as an ``<svg>`` element.

    Args:
        x, y: same length; points that are not finite (or not positive on a logarithmic scale) leave a gap.
        label: what a screen reader says, and the tool tip.
        x_label: written under the axis.
        log: logarithmic y axis.
    """
    drawable = [math.isfinite(a) and math.isfinite(b) and (b > 0 or not log) for a, b in zip(x, y, strict=True)]
    points = [(a, b) for a, b, ok in zip(x, y, drawable, strict=True) if ok]
    if not points:
        return '<p class="muted">No finite value to draw.</p>'
    x_low, x_high = _widened(min(a for a, _ in points), max(a for a, _ in points))
    y_low, y_high = _limits([b for _, b in points], log)

    def across(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        a, b, c = (math.log(v) for v in (value, y_low, y_high)) if log else (value, y_low, y_high)
        return HEIGHT - _BOTTOM - (a - b) / (c - b) * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">',
        f"<title>{escape(label)}</title>",
    ]
    base, end = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    for tick in log_ticks(y_low, y_high) if log else ticks(y_low, y_high):
        level = down(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{end}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{level + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in ticks(x_low, x_high):
        place = across(tick)
        parts.append(f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{base}" y2="{base + 5}"/>')
        parts.append(f'<text x="{place:.1f}" y="{base + 19}" text-anchor="middle">{number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{base}H{end}"/>')
    parts.append(f'<text class="label" x="{(_LEFT + end) / 2}" y="{HEIGHT - 5}" text-anchor="middle">')
    parts.append(f"{escape(x_label)}{' (logarithmic y axis)' if log else ''}</text>")
    parts.append(f'<path class="curve" d="{_path(x, y, drawable, across, down)}"/>')
    marked = points if len(points) <= _MOST_DOTS else points[-1:]
    parts += [f'<circle class="dot" cx="{across(a):.1f}" cy="{down(b):.1f}" r="3"/>' for a, b in marked]
    return "".join([*parts, "</svg>"])


def _path(x, y, drawable, across, down) -> str:
    """SVG path data with a new sub-path after every gap."""
    commands, pen = [], "M"
    for a, b, ok in zip(x, y, drawable, strict=True):
        if ok:
            commands.append(f"{pen}{across(a):.1f} {down(b):.1f}")
        pen = "L" if ok else "M"
    return "".join(commands)


def _widened(low: float, high: float) -> tuple[float, float]:
    """The interval, or one of width 1 around a single value."""
    return (low, high) if high - low > 1e-12 * max(abs(low), abs(high)) else (low - 0.5, high + 0.5)


def _limits(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of the y axis: a little beyond the values, and down to 0 where they come near to it."""
    low, high = min(values), max(values)
    if log:
        return low / 1.1, high * 1.1
    low, high = _widened(low, high)
    margin = 0.06 * (high - low)
    return (0.0 if 0 <= low < 0.4 * high else low - margin), high + margin
