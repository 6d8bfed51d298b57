"""A page to scan a corpus by eye: what was kept, what was refused and why, duplicates side by side, overlay masks."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.files import write_text
from sonodistill_training.corpus import manifest
from sonodistill_training.corpus.blocks import BLOCK_ROWS, MappedBlocks
from sonodistill_training.report.drawing import jpeg_uri, outlined
from sonodistill_training.report.page import page

CONTACT_SHEET = "contact_sheet.html"
_SIDE = 160  # pixels of a picture's longer side
_KEPT, _DRAWN, _REFUSED, _PAIRS = 36, 48, 24, 40
_SECTOR_RGB = (64, 200, 255)

Row = dict[str, Any]


def write_contact_sheet(corpus: str | Path) -> Path:
    """Write ``contact_sheet.html`` into a corpus folder. One file, nothing loaded from elsewhere, no name in it."""
    folder = Path(corpus)
    rows = manifest.read_table(folder / manifest.MANIFEST).to_pylist()
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    by_status: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_status[row["status"]].append(row)
    by_id = {row["id"]: row for row in rows}
    blocks = MappedBlocks(str(folder))
    body = [
        "<h1>Contact sheet</h1>",
        f'<p class="lead">{summary["frames"].get(manifest.KEPT, 0):,} frames of {summary["files"]:,} files. '
        "Frames are shown as a training sees them: cropped to the sector, everything else black.</p>",
        '<div class="notice"><p>What was drawn outside of the sector is gone, and names are replaced by keyed hashes. '
        "That is no claim of de-identification: look before you pass anything on.</p></div>",
        _counts(summary),
        _kept(blocks, by_status[manifest.KEPT]),
        _drawn(blocks, by_status[manifest.KEPT]),
        _stored(blocks, by_status[manifest.APART], "Colour Doppler, kept apart"),
        _pairs(blocks, by_status[manifest.DUPLICATE], by_id),
        _stored(blocks, by_status[manifest.LEAK], "Left out: shows a frame of an evaluation set"),
        *(
            _refused(code, found)
            for code, found in sorted(by_status.items())
            if code not in (manifest.KEPT, manifest.APART, manifest.DUPLICATE, manifest.LEAK)
        ),
    ]
    target = folder / CONTACT_SHEET
    write_text(target, page("SonoDistill: contact sheet", "\n".join(body)))
    return target


def _counts(summary: dict[str, Any]) -> str:
    codes = sorted({code for counts in summary["datasets"].values() for code in counts}, key=_order)
    head = "".join(f'<th class="figure">{escape(code)}</th>' for code in codes)
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="figure">{counts.get(code, 0):,}</td>' for code in codes)
        + "</tr>"
        for name, counts in summary["datasets"].items()
    ]
    read, redundant = summary["frames_read"], summary["frames_redundant"]
    return (
        f"<h2>Counts</h2><p>{read:,} frames were read; {redundant:,} of them show what a frame beside them shows.</p>"
        f'<div class="card scroll"><table><thead><tr><th>data set</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _kept(blocks: MappedBlocks, rows: list[Row]) -> str:
    by_dataset: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_dataset[row["dataset"]].append(row)
    parts = ["<h2>Kept</h2>", "<p>The blue line is the sector that was found.</p>"]
    for name, found in sorted(by_dataset.items()):
        parts.append(f"<h3>{escape(name)} ({len(found):,})</h3>")
        parts.append(_sheet(_figure(_picture(blocks, row, sector=True), _facts(row)) for row in _spread(found, _KEPT)))
    return "".join(parts)


def _drawn(blocks: MappedBlocks, rows: list[Row]) -> str:
    found = sorted((row for row in rows if row["overlay_fraction"]), key=lambda row: -row["overlay_fraction"])
    if not found:
        return ""
    return (
        f"<h2>Drawn over ({len(found):,})</h2><p>Amber: pixels that were taken for text, rulers or marks, and replaced."
        f"</p>"
        + _sheet(
            _figure(_picture(blocks, row, overlay=True), f"{100 * row['overlay_fraction']:.2f} % of the sector")
            for row in _spread(found, _DRAWN)
        )
    )


def _stored(blocks: MappedBlocks, rows: list[Row], title: str) -> str:
    if not rows:
        return ""
    figures = (_figure(_picture(blocks, row), _facts(row)) for row in _spread(rows, _REFUSED))
    return f"<h2>{escape(title)} ({len(rows):,})</h2>{_sheet(figures)}"


def _pairs(blocks: MappedBlocks, rows: list[Row], by_id: dict[str, Row]) -> str:
    if not rows:
        return ""
    pairs = []
    for row in _spread(rows, _PAIRS):
        stays = by_id[row["duplicate_of"]]
        pictures = "".join(f'<img src="{_picture(blocks, one)}" alt="">' for one in (stays, row))
        where = "the same data set" if stays["dataset"] == row["dataset"] else f"also in {stays['dataset']}"
        pairs.append(
            f'<figure><div class="pair">{pictures}</div>'
            f"<figcaption>{escape(row['dataset'])}, {escape(where)}</figcaption></figure>"
        )
    return (
        f"<h2>Duplicates ({len(rows):,})</h2><p>Left the frame that stays, right the one that was left out.</p>"
        f'<div class="sheet pairs">{"".join(pairs)}</div>'
    )


def _refused(code: str, rows: list[Row]) -> str:
    reasons = sorted({row["reason"] for row in rows if row["reason"]})
    pictures = [row for row in rows if row["thumbnail"]]
    figures = (
        _figure(f"data:image/png;base64,{base64.b64encode(row['thumbnail']).decode()}", row["dataset"])
        for row in _spread(pictures, _REFUSED)
    )
    listed = "".join(f"<li>{escape(reason)}</li>" for reason in reasons[:12])
    return f'<h2>Refused: {escape(code)} ({len(rows):,})</h2><ul class="facts">{listed}</ul>{_sheet(figures)}'


def _picture(blocks: MappedBlocks, row: Row, *, sector: bool = False, overlay: bool = False) -> str:
    block, place = divmod(row["row"], BLOCK_ROWS)
    stored = blocks[row["shard"], block]
    picture = outlined(stored.frame(place), stored.overlay(place) if overlay else None)
    if sector and row["sector_outline"]:
        points = np.rint(np.asarray(row["sector_outline"]).reshape(-1, 1, 2)).astype(np.int32)
        cv2.polylines(picture, [points], isClosed=True, color=_SECTOR_RGB, thickness=1, lineType=cv2.LINE_AA)
    return jpeg_uri(_reduced(picture))


def _reduced(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = min(1.0, _SIDE / max(picture.shape[:2]))
    size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _facts(row: Row) -> str:
    time = "" if row["time_ms"] is None else f", {row['time_ms'] / 1000:.2f} s"
    scale = "uncalibrated" if row["row_mm"] is None else f"{row['row_mm']:.3f} mm"
    return f"{row['sector']}, frame {row['frame']}{time}, {scale}"


def _figure(uri: str, caption: str) -> str:
    return f'<figure><img loading="lazy" src="{uri}" alt=""><figcaption>{escape(caption)}</figcaption></figure>'


def _sheet(figures: Any) -> str:
    return f'<div class="sheet">{"".join(figures)}</div>'


def _spread(rows: list[Row], count: int) -> list[Row]:
    """At most ``count`` of the rows, evenly from first to last."""
    if len(rows) <= count:
        return rows
    return [rows[index] for index in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _order(code: str) -> tuple[int, str]:
    return (0 if code == manifest.KEPT else 1, code)
