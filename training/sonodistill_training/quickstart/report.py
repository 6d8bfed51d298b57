"""The quick start's report: one self-contained HTML file that opens from disk and prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.files import write_text
from sonodistill_training.quickstart.charts import line_chart, number
from sonodistill_training.report.drawing import FOUND_RGB, TRUTH_RGB, dice, jpeg_uri, outlined, png_uri
from sonodistill_training.report.page import page

KINDS = ("real", "simulated")
INTRODUCTION = (
    "SonoDistill turns ultrasound files into clean frames, distils a large vision transformer into a small encoder on "
    "them, and trains that encoder to segment. This page is the record of one such run on this machine: what went in, "
    "how long each stage took, and what came out."
)
NOTICE = (
    "<strong>Research use only.</strong> A segmenter trained on simulated masks, shown to prove the pipeline, "
    "is not a diagnosis."
)


@dataclass(frozen=True)
class Curve:
    """A line chart of ``y`` over ``x``; ``unit`` ("per step") stands under the axis, ``log`` makes y logarithmic."""

    name: str
    x: list[float]
    y: list[float]
    unit: str
    log: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"curve {self.name!r} has {len(self.x)} x and {len(self.y)} y values")


@dataclass(frozen=True)
class Picture:
    """A frame with outlines: ``image`` (H, W) uint8, ``overlay`` (what was found) and ``truth`` (H, W) bool or None."""

    title: str
    image: NDArray[np.uint8]
    overlay: NDArray[np.bool_] | None
    truth: NDArray[np.bool_] | None
    caption: str

    def __post_init__(self) -> None:
        for mask in (self.overlay, self.truth):
            if mask is not None and mask.shape != self.image.shape:
                raise ValueError(f"picture {self.title!r}: image {self.image.shape}, mask {mask.shape}")


@dataclass(frozen=True)
class Cine:
    """Frames (H, W) uint8 of one size, their masks (H, W) bool, and the time of each in milliseconds."""

    title: str
    frames: list[NDArray[np.uint8]]
    masks: list[NDArray[np.bool_]]
    time_ms: list[float]
    caption: str

    def __post_init__(self) -> None:
        if not len(self.frames) == len(self.masks) == len(self.time_ms) > 0:
            raise ValueError(
                f"cine {self.title!r}: {len(self.frames)} frames, {len(self.masks)} masks, {len(self.time_ms)} times"
            )


@dataclass(frozen=True)
class Stage:
    """What was done, how many seconds it took, and a word on it."""

    name: str
    seconds: float
    detail: str


@dataclass(frozen=True)
class Source:
    """Where frames come from; ``kind`` is "real" or "simulated"."""

    name: str
    kind: str
    frames: int
    licence: str
    note: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"source {self.name!r} is {self.kind!r}, not one of {KINDS}")


@dataclass(frozen=True)
class Report:
    """Everything on the page. ``summary`` holds (label, value) pairs; ``command`` is what makes the same run again."""

    title: str
    summary: list[tuple[str, str]]
    sources: list[Source]
    stages: list[Stage]
    curves: list[Curve]
    pictures: list[Picture]
    cine: Cine | None
    facts: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    command: str = "sonodistill quickstart"


def write_report(path: str | Path, report: Report) -> Path:
    """Write the report as one HTML file, atomically; returns its path."""
    sections = [
        _header(report),
        _section("Real or simulated", report.sources, _sources),
        _section("Cine", report.cine, _cine),
        _section("Frames", report.pictures, _pictures),
        _section("Training", report.curves, _curves),
        _section("Time", report.stages, _stages),
        _section("To know when reading this", report.facts, _facts),
        _section("Versions, and how to reproduce this", report, _reproduction),
        f"<footer>{NOTICE} Everything on this page is in this one file; nothing is loaded from elsewhere.</footer>",
    ]
    write_text(path, page(report.title, "\n".join(sections)))
    return Path(path)


def _section(heading: str, content: Any, render: Callable[[Any], str]) -> str:
    """A heading and what is below it; nothing at all where there is nothing to show."""
    return f"<section><h2>{heading}</h2>{render(content)}</section>" if content else ""


def _header(report: Report) -> str:
    summary = "".join(
        f'<div class="card"><dt>{escape(label)}</dt><dd>{escape(str(value))}</dd></div>'
        for label, value in report.summary
    )
    return (
        f'<header><h1>{escape(report.title)}</h1><p class="lead">{INTRODUCTION}</p></header>\n'
        f'<aside class="notice"><p>{NOTICE}</p></aside>\n<dl class="summary">{summary}</dl>'
    )


def _sources(sources: Sequence[Source]) -> str:
    rows = "".join(
        f'<tr><td><span class="badge {source.kind}">{source.kind}</span></td><td>{escape(source.name)}</td>'
        f'<td class="figure">{source.frames}</td><td>{escape(source.licence)}</td>'
        f'<td class="note">{escape(source.note)}</td></tr>'
        for source in sources
    )
    head = '<th>Kind</th><th>Source</th><th class="figure">Frames</th><th>Licence</th><th>Used for</th>'
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _legend(truth: bool) -> str:
    def entry(colour: tuple[int, int, int], text: str) -> str:
        return f'<li><i style="border-color: rgb{colour}"></i>{text}</li>'

    entries = [entry(FOUND_RGB, "found by the segmenter")]
    if truth:
        entries.append(entry(TRUTH_RGB, "true outline"))
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _cine(cine: Cine) -> str:
    frames = [jpeg_uri(outlined(image, mask)) for image, mask in zip(cine.frames, cine.masks, strict=True)]
    height, width = cine.frames[0].shape
    times = [time - cine.time_ms[0] for time in cine.time_ms]
    share = [float(mask.mean()) for mask in cine.masks]
    return (
        '<div class="card cine"><figure>'
        f'<img id="cine-image" width="{width}" height="{height}" alt="{escape(cine.title)}" src="{frames[0]}">'
        '<div class="controls" id="cine-controls" hidden><button type="button" id="cine-play">Play</button>'
        f'<input type="range" id="cine-slider" min="0" max="{len(frames) - 1}" value="0" aria-label="frame">'
        '<output id="cine-where"></output></div></figure>'
        f"<div><h3>{escape(cine.title)}</h3><p>{escape(cine.caption)}</p>{_legend(truth=False)}"
        f'<p class="muted">{len(frames)} frames of {width} x {height} pixels over {number(round(times[-1]))} ms; '
        f"the outlines enclose {min(share):.1%} to {max(share):.1%} of a frame.</p></div>"
        f'<script type="application/json" id="cine-data">{json.dumps({"frames": frames, "times": times})}</script>'
        "</div>"
    )


def _pictures(pictures: Sequence[Picture]) -> str:
    cards = "".join(
        f'<figure class="card"><img width="{picture.image.shape[1]}" height="{picture.image.shape[0]}" '
        f'alt="{escape(picture.title)}" src="{png_uri(outlined(picture.image, picture.overlay, picture.truth))}">'
        f"<figcaption><strong>{escape(picture.title)}</strong>{escape(picture.caption)}{_agreement(picture)}"
        "</figcaption></figure>"
        for picture in pictures
    )
    truth = any(picture.truth is not None for picture in pictures)
    return f'{_legend(truth)}<div class="frames">{cards}</div>'


def _agreement(picture: Picture) -> str:
    if picture.overlay is None or picture.truth is None:
        return ""
    value = dice(picture.overlay, picture.truth)
    if value is None:
        return "<br>nothing there, and nothing found"
    return f"<br>Dice {value:.3f}"


def _curves(curves: Sequence[Curve]) -> str:
    return f'<div class="charts">{"".join(map(_curve, curves))}</div>'


def _curve(curve: Curve) -> str:
    rows = "".join(f"<tr><td>{number(x)}</td><td>{number(y)}</td></tr>" for x, y in zip(curve.x, curve.y, strict=True))
    ends = f"from {number(curve.y[0])} to {number(curve.y[-1])}" if curve.y else "no values"
    chart = line_chart(curve.x, curve.y, label=f"{curve.name}, {ends}", x_label=curve.unit, log=curve.log)
    return (
        f'<div class="card"><h3>{escape(curve.name)}</h3>{chart}<details><summary>{ends}; all values</summary>'
        f"<div><table><thead><tr><th>{escape(curve.unit)}</th><th>value</th></tr></thead><tbody>{rows}</tbody></table>"
        "</div></details></div>"
    )


def _stages(stages: Sequence[Stage]) -> str:
    longest = max(max(stage.seconds for stage in stages), 1e-9)
    rows = "".join(
        f'<tr><th scope="row">{escape(stage.name)}</th><td class="figure">{_duration(stage.seconds)}</td>'
        f'<td><div class="bar"><i style="width: {100 * stage.seconds / longest:.1f}%"></i></div></td>'
        f'<td class="note">{escape(stage.detail)}</td></tr>'
        for stage in stages
    )
    total = _duration(sum(stage.seconds for stage in stages))
    last = f'<tr><th scope="row">total</th><td class="figure"><strong>{total}</strong></td><td></td><td></td></tr>'
    return f'<div class="card scroll"><table><tbody>{rows}{last}</tbody></table></div>'


def _duration(seconds: float) -> str:
    """12.34 s; from two minutes on with the minutes: 185.20 s (3 min 05 s)."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{seconds:.2f} s" + (f" ({minutes} min {rest:02d} s)" if minutes >= 2 else "")


def _facts(facts: Sequence[str]) -> str:
    return f'<div class="card"><ul class="facts">{"".join(f"<li>{escape(fact)}</li>" for fact in facts)}</ul></div>'


def _reproduction(report: Report) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(str(version))}</code></td></tr>'
        for name, version in report.versions.items()
    )
    return (
        f'<div class="card"><pre><code>{escape(report.command)}</code></pre>'
        "<p>The same versions, options and seed give the same frames and the same order of training; "
        "times, and the last digits of a loss, depend on the machine.</p>"
        f'<div class="scroll narrow"><table><tbody>{rows}</tbody></table></div></div>'
    )
