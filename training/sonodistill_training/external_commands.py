"""Command line of the external check of a segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

_EXIT_SKIPPED = 2


def external(
    model: Annotated[Path, typer.Argument(help="Segmenter: exported (.onnx .xml ...) or checkpoint (.safetensors).")],
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            "-d",
            help="NAME=FOLDER: with an index.csv, with images/ and masks/, or as the set NAME is published; repeat.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for external.html, external.json, and a CSV and a sheet of cases of each set.")
    ],
    label: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The model's label that the masks show, where it has several."),
    ] = None,
    split: Annotated[str, typer.Option(help="all, or one of the index: test.")] = "all",
    trained_on: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the training frames: refuse images that show the same (its test split excepted)."),
    ] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Images of each set, at even distances.")] = None,  # noqa: UP045
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino or torch.")] = "auto",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Foreground is a probability above it.")] = 0.5,
) -> None:
    """Judge a segmenter on frames that took no part in any choice about it: overlap, calibration, unfamiliar frames.

    The page and NAME-cases.jpg (200 KB at most) show the worst cases, false alarms, the median and the best ones.

    Example: sonodistill evaluate external breast.safetensors --data ddti=frames/ddti --out runs/external

    Exit code 2 when an image could not be read: it is listed, the others are judged.
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from sonodistill.inference.predictor import Predictor
    from sonodistill_training.evaluate.external.page import words
    from sonodistill_training.evaluate.external.run import REPORT, check
    from sonodistill_training.evaluate.plan import parse_sources

    folders = parse_sources(data)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        found = check(
            Predictor(model, runtime=runtime, threshold=threshold),
            folders,
            out,
            progress,
            label=label,
            split=split,
            trained_on=trained_on,
            limit=limit,
        )
    table = Table("set", "images", "Dice, all (95 %)", "Dice, lesions (95 %)", "ECE", "unfamiliar (95 %)")
    for name, said in found.items():
        intervals, familiar = said["intervals"], said["familiarity"]
        row = [str(said["counts"]["images"]), words(intervals["dice_empty1"]), words(intervals["dice_lesions"])]
        row += [f"{said['calibration']['ece']:.4f}", words(familiar["unfamiliar"]) if familiar else "-"]
        table.add_row(name, *row)
    Console().print(table)
    typer.echo(f"report: {out / REPORT}")
    skipped = {f"{name}: {file}": why for name, said in found.items() for file, why in said["skipped"].items()}
    if skipped:
        typer.echo(f"skipped {len(skipped)} images:", err=True)
        for file, why in skipped.items():
            typer.echo(f"  {file}: {why}", err=True)
        raise typer.Exit(_EXIT_SKIPPED)
