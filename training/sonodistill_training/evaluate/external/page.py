"""The page of an external check: the numbers, the reliability diagram, and the cases to look at."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from sonodistill_training.evaluate.external.cases import KINDS, Case, credit, drawn
from sonodistill_training.evaluate.external.judge import Judged
from sonodistill_training.evaluate.report.pictures import legend
from sonodistill_training.report.drawing import jpeg_uri
from sonodistill_training.report.page import page

_SIDE, _EDGE, _LONGEST = 320, 40, 360
_NAMES = {
    "dice_empty1": "Dice, all images (both empty: 1)",
    "dice_lesions": "Dice, images with a structure",
    "iou_empty1": "IoU, all images (both empty: 1)",
    "iou_lesions": "IoU, images with a structure",
    "hd95_px": "HD95, pixels",
    "hd95_mm": "HD95, mm",
    "false_positive_rate": "False positives, images without a structure",
    "missed": "Missed, images with a structure",
    "brier": "Brier score of the pixels",
}


def external_page(model: str, found: Mapping[str, tuple[dict[str, Any], Judged]]) -> str:
    """The whole document."""
    parts = [
        f"<h1>External check of {escape(model)}</h1>",
        '<p class="lead">Frames that took no part in any choice about the model. Intervals are 95 %, over whole '
        "patients, cases or videos. Research use only.</p>",
    ]
    for name, (said, judged) in found.items():
        numbers = f"{_numbers(said)}{_calibration(said)}"
        parts.append(f"<h2>{escape(name)}</h2>{numbers}{_gallery(name, judged)}{_skipped(said)}")
    return page(f"External check of {model}", "".join(parts))


def words(interval: Mapping[str, Any] | None) -> str:
    """ "0.712 (0.680 to 0.741)", or a dash."""
    if not interval or interval["estimate"] is None:
        return "-"
    ends = "" if interval["low"] is None else f" ({interval['low']:.3f} to {interval['high']:.3f})"
    return f"{interval['estimate']:.3f}{ends}"


def _numbers(said: Mapping[str, Any]) -> str:
    counts, familiar = said["counts"], said["familiarity"]
    rows = [(title, words(said["intervals"][name])) for name, title in _NAMES.items()]
    rows.append(("Expected calibration error of the pixels", f"{said['calibration']['ece']:.4f}"))
    rows.append(("Largest gap of a bin", f"{said['calibration']['worst_bin']:.3f}"))
    if familiar is None:
        rows.append(("Unfamiliar frames", "the model has no warning score"))
    else:
        rows.append(("Share of unfamiliar frames", words(familiar["unfamiliar"])))
        rows.append(("Dice of familiar frames", words(familiar["dice_familiar"])))
        rows.append(("Dice of unfamiliar frames", words(familiar["dice_unfamiliar"])))
    body = "".join(f'<tr><th scope="row">{escape(n)}</th><td class="figure">{escape(v)}</td></tr>' for n, v in rows)
    told = f"{counts['images']} images of {said['groups']} groups; {counts['normals']} without a structure."
    return f'<p>{told}</p><div class="card scroll"><table><tbody>{body}</tbody></table></div>'


def _calibration(said: Mapping[str, Any]) -> str:
    """Share of foreground over predicted probability; the area of a dot grows with the logarithm of its pixels."""
    span = _SIDE - 2 * _EDGE

    def place(across: float, up: float) -> tuple[float, float]:
        return _EDGE + across * span, _SIDE - _EDGE - up * span

    points = [place(point["probability"], point["foreground"]) for point in said["calibration"]["curve"]]
    dots = "".join(
        f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{1.5 + 0.5 * np.log10(point["pixels"]):.1f}"/>'
        for (x, y), point in zip(points, said["calibration"]["curve"], strict=True)
    )
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    label = f"Reliability diagram, expected calibration error {said['calibration']['ece']:.4f}"
    return (
        f'<div class="card" style="max-width: 420px; margin-top: 16px"><h3>Reliability</h3><svg class="chart" '
        f'viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<path class="axis" d="M{x0} {y1}V{y0}H{x1}"/><path class="grid" d="M{x0} {y0}L{x1} {y1}"/>'
        f'<polyline class="curve" points="{line}"/>{dots}<text x="{_SIDE / 2}" y="{_SIDE - 8}" text-anchor="middle">'
        f'predicted probability</text><text x="{x0 + 4}" y="{y1 - 8}">share of foreground pixels</text>'
        f'<text x="{x0}" y="{y0 + 14}">0</text><text x="{x1 - 6}" y="{y0 + 14}">1</text></svg></div>'
    )


def _gallery(name: str, judged: Judged) -> str:
    parts = []
    for kind, found in judged.cases.items():
        title, said = KINDS[kind]
        figures = "".join(
            f'<figure class="card"><img alt="{escape(case.name)}" src="{jpeg_uri(drawn(case, _LONGEST))}"><figcaption>'
            f"<strong>{escape(case.name)}</strong>{escape(_words(case))}</figcaption></figure>"
            for case in found
        )
        if figures:
            head = f'<h3 style="margin-top: 1.6em">{title}</h3><p class="muted">{said}</p>'
            parts.append(f'{head}<div class="frames">{figures}</div>')
    source = credit(name)
    return legend() + "".join(parts) + (f'<p class="muted">{escape(source)}</p>' if source else "")


def _words(case: Case) -> str:
    known = not np.isnan(case.unfamiliarity) and case.unfamiliarity <= 1
    return f"{case.words}, unfamiliarity {case.unfamiliarity:.2f}" if known else case.words


def _skipped(said: Mapping[str, Any]) -> str:
    if not said["skipped"]:
        return ""
    entries = "".join(f"<li>{escape(name)}: {escape(why)}</li>" for name, why in said["skipped"].items())
    return f'<aside class="notice"><p>Not read, and not counted:</p><ul class="facts">{entries}</ul></aside>'
