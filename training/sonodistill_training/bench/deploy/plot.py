"""Accuracy against latency, a point for each trained network in each runtime; latency alone where none was judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sonodistill.files import atomic_path
from sonodistill_training.bench.deploy.variants import VARIANTS

FORMATS = ("png", "svg")
_MARKS = "osD^vP*X<>h"


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``deploy.png`` and ``deploy.svg``; the files written, none where nothing was timed."""
    from matplotlib.figure import Figure  # without pyplot, which has a global state
    from matplotlib.ticker import LogFormatter

    threads = min(result["threads"])
    timed = [row for row in result["rows"] if row["threads"] == threads and "latency_ms_p50" in row]
    if not timed:
        return []
    judged = [row for row in timed if "dice" in row]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    _points(axes, judged or timed, bool(judged))
    axes.set_xscale("log")
    for axis_ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    axes.set_xlabel(f"Latency of one image (ms), median, {threads} thread{'s' if threads > 1 else ''}")
    axes.grid(alpha=0.3)
    axes.set_title(f"{result['hardware']['processor']}, {result['input_size']} px", fontsize=9)
    figure.legend(loc="outside right upper", fontsize=8)
    written = []
    for kind in FORMATS:
        path = folder / f"deploy.{kind}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=150)
        written.append(path)
    return written


def _points(axes: Any, rows: Sequence[Mapping[str, Any]], judged: bool) -> None:
    """A colour for each network, a mark for each runtime."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    marks = dict(zip(VARIANTS, _MARKS, strict=False))
    for place, network in enumerate(networks):
        own = [row for row in rows if row["network"] == network]
        levels = [row["dice"] if judged else len(networks) - place for row in own]
        latency = [row["latency_ms_p50"] for row in own]
        if judged:
            ends = [
                [one if end is None else end for end in row["dice_interval"]]
                for one, row in zip(levels, own, strict=True)
            ]
            axes.vlines(latency, [low for low, _ in ends], [high for _, high in ends], color=f"C{place}", alpha=0.3)
            axes.plot([], [], color=f"C{place}", label=network)
        for x, y, row in zip(latency, levels, own, strict=True):
            axes.plot(x, y, marks[row["variant"]], color=f"C{place}", markersize=7)
    for variant in dict.fromkeys(row["variant"] for row in rows):
        axes.plot([], [], marks[variant], color="0.4", label=variant)
    if judged:
        axes.set_ylabel("Dice on the test split, 95 % interval")
    else:
        axes.set_yticks(range(len(networks), 0, -1), networks)
