"""Command line of the warning score: fit it to a model's own frames, store it, measure it on others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from sonodistill_training.evaluate.familiarity.fit import Embedder, Fitted

_EXIT_SKIPPED = 2


def familiarity(
    checkpoint: Annotated[Path, typer.Argument(help="Segmenter, classifier or encoder (.safetensors of ours).")],
    data: Annotated[
        Path,
        typer.Option(
            help="Folder with an index.csv: its training split is fitted to, its validation split calibrates."
        ),
    ],
    out: Annotated[Optional[Path], typer.Option(help="File to write; default: the checkpoint itself.")] = None,  # noqa: UP045
    quantile: Annotated[
        float, typer.Option(help="Share of frames like the validation split's that are familiar.")
    ] = 0.99,
    against: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Measure on NAME=FOLDER of other frames, or on noise, blank or photos; repeat."),
    ] = None,
    limit: Annotated[int, typer.Option(min=20, help="Frames of each --against folder, at even distances.")] = 400,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The measurement as one JSON object.")] = False,
) -> None:
    """Fit the score that warns of frames a model was not made for, and store it in the weights file.

    Predictions then say how unfamiliar a frame is, above 1 for a warning. With --against it is measured: the area
    under the ROC curve between the test split and other frames, and the share of each that is flagged.

    Example: sonodistill weights familiarity model.safetensors --data frames/busi --against hc18=frames/hc18
    --against noise --json
    """
    from rich.console import Console
    from rich.progress import Progress

    from sonodistill_training.evaluate.familiarity.fit import Embedder, count, fit_to, store

    others = _parsed(against or [])
    with Progress(console=Console(stderr=True), transient=True) as bar:
        embedder = Embedder(checkpoint)
        task = bar.add_task("fitting", total=count(data))
        fitted = fit_to(embedder, data, quantile=quantile, tick=lambda: bar.advance(task))
        if not dry_run:
            store(checkpoint, out or checkpoint, fitted)
        said: dict[str, Any] = {"model": str(checkpoint), "about": fitted.about, "threshold": fitted.values.threshold}
        said |= _measured(embedder, fitted, others, limit, bar)
    said["skipped"] = fitted.skipped
    if as_json:
        typer.echo(json.dumps(said, indent=1))
    else:
        _show(said, None if dry_run else out or checkpoint)
    if fitted.skipped:
        typer.echo(f"skipped {len(fitted.skipped)} files:", err=True)
        for name, reason in fitted.skipped.items():
            typer.echo(f"  {name}: {reason}", err=True)
        raise typer.Exit(_EXIT_SKIPPED)


def _parsed(texts: list[str]) -> dict[str, Path | None]:
    from sonodistill_training.evaluate.familiarity.strange import KINDS
    from sonodistill_training.evaluate.plan import parse_sources

    folders = parse_sources(text for text in texts if text not in KINDS)
    return {**folders, **{text: None for text in texts if text in KINDS}}


def _measured(
    embedder: Embedder, fitted: Fitted, others: dict[str, Path | None], limit: int, bar: Any
) -> dict[str, Any]:
    from dataclasses import asdict

    from sonodistill_training.evaluate.external.frames import Reading, items_of, spread
    from sonodistill_training.evaluate.familiarity.fit import images_of
    from sonodistill_training.evaluate.familiarity.measure import flagged, row
    from sonodistill_training.evaluate.familiarity.strange import strange

    inside = fitted.inside["test"]
    if not len(inside):
        return {}
    scores = fitted.values.score(inside.features)
    found: dict[str, Any] = {"inside": {"frames": len(inside), "flagged": asdict(flagged(scores, inside.groups))}}
    found["outside"] = {}
    for name, folder in others.items():
        if folder is None:
            task = bar.add_task(name, total=None)
            embedded = embedder(strange(name), lambda task=task: bar.advance(task))  # type: ignore[misc]
        else:
            reading = Reading(spread(items_of(name, folder), limit))
            task = bar.add_task(name, total=len(reading.items))
            embedded = embedder(images_of(reading), lambda task=task: bar.advance(task))  # type: ignore[misc]
            fitted.skipped |= {f"{name}: {file}": reason for file, reason in reading.skipped.items()}
        if len(embedded):
            outside = fitted.values.score(embedded.features)
            found["outside"][name] = row(scores, inside.groups, outside, embedded.groups)
    return found


def _show(said: dict[str, Any], written: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    about = said["about"]
    console = Console()
    console.print(
        f"fitted to {about['frames']} frames of {about['data']}, calibrated by {about['calibration_frames']}"
        + (f"; in {written}" if written else "; nothing was written"),
        highlight=False,
        soft_wrap=True,
    )
    if "inside" not in said:
        return
    table = Table("frames of", "frames", "AUROC (95 %)", "flagged (95 %)")
    table.add_row("its own test split", str(said["inside"]["frames"]), "-", _words(said["inside"]["flagged"], True))
    for name, one in said["outside"].items():
        table.add_row(name, str(one["frames"]), _words(one["auroc"]), _words(one["flagged"], True))
    console.print(table)


def _words(interval: dict[str, Any], percent: bool = False) -> str:
    def text(value: float | None) -> str:
        return "?" if value is None else f"{100 * value:.1f} %" if percent else f"{value:.3f}"

    return f"{text(interval['estimate'])} ({text(interval['low'])} to {text(interval['high'])})"
