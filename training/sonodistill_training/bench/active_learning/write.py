"""The result as files: JSON, a table, and a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sonodistill.files import atomic_path, write_text
from sonodistill_training.bench.report import show

NAME = "active_learning"
FORMATS = ("png", "svg")


def write_active_learning(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write active_learning.json, .md, .png and .svg; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{NAME}.json", folder / f"{NAME}.md"]
    write_text(written[0], json.dumps(result, indent=1) + "\n")
    write_text(written[1], markdown(result))
    return written + draw(result, folder)


def show_active_learning(result: Mapping[str, Any], as_json: bool) -> None:
    """The tables on the terminal, or one JSON object as the last line."""
    if as_json:
        show(result, as_json)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(markdown(result)))


def markdown(result: Mapping[str, Any]) -> str:
    """Dice after each round, and areas under the curves."""
    lines: list[str] = []
    for name, strategies in result["curves"].items():
        labelled = next(iter(strategies.values()))["labelled"]
        about = result["data"][name]
        lines += [
            f"### {name}: Dice by labelled frames ({about['frames']} frames, {result['encoder']})",
            "",
            "| strategy | " + " | ".join(map(str, labelled)) + " | area | to random |",
            "|---|" + "---|" * (len(labelled) + 2),
        ]
        for strategy, curve in strategies.items():
            area = result["area"][name][strategy]
            cells = " | ".join(f"{value:.3f}" for value in curve["dice"])
            lines.append(f"| {strategy} | {cells} | {_mean(area)} | {_apart(area)} |")
        lines.append("")
    if len(result["curves"]) > 1:
        lines += ["### Mean over the sets", "", "| strategy | area | to random |", "|---|---|---|"]
        lines += [f"| {strategy} | {_mean(of)} | {_apart(of)} |" for strategy, of in result["both"].items()]
        lines.append("")
    lines.append(f"Highest area: {result['best']}. {result['seeds']} seeds; in brackets 95 % intervals over them.")
    return "\n".join(lines) + "\n"


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the curves, one panel a set, as PNG and SVG."""
    from matplotlib.figure import Figure  # without pyplot, which has a global state
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    curves = result["curves"]
    figure = Figure(figsize=(1 + 4.5 * len(curves), 4.2), layout="constrained")
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, strategies) in zip(panels, curves.items(), strict=True):
        for place, (strategy, curve) in enumerate(strategies.items()):
            style = {"color": "0.2", "linestyle": "--"} if strategy == "random" else {"color": f"C{place}"}
            axes.plot(curve["labelled"], curve["dice"], marker="o", markersize=3, label=strategy, **style)
            axes.fill_between(
                curve["labelled"], curve["low"], curve["high"], alpha=0.1, color=style["color"], linewidth=0
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(result["rounds"]))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(f"{name}, {result['encoder']}", fontsize=10)
        axes.set_xlabel("Labelled frames")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"Dice on held-out frames, {result['seeds']} seeds, 95 % interval", fontsize=8)
    panels[-1].legend(fontsize=7)
    written = []
    for kind in FORMATS:
        path = folder / f"{NAME}.{kind}"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format=kind, dpi=150)
        written.append(path)
    return written


def _mean(area: Mapping[str, float]) -> str:
    return f"{area['mean']:.4f} ({area['low']:.4f} to {area['high']:.4f})"


def _apart(area: Mapping[str, float]) -> str:
    if "difference" not in area:
        return ""
    return f"{area['difference']:+.4f} ({area['difference_low']:+.4f} to {area['difference_high']:+.4f})"
