"""Command line of the head circumference."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from sonodistill_training.evaluate.circumference import Agreement

_EXIT_SKIPPED = 2


def circumference(
    model: Annotated[str, typer.Argument(help="Segmenter of heads: a file, or a shipped model's name.")],
    data: Annotated[str, typer.Option("--data", "-d", help="NAME=FOLDER: with an index.csv, or as hc18 is published.")],
    table: Annotated[Path, typer.Option(help="HC18's training_set_pixel_size_and_HC.csv.")],
    split: Annotated[str, typer.Option(help="all, or one of the index: test.")] = "all",
    out: Annotated[Optional[Path], typer.Option(help="A CSV with a row for each frame.")] = None,  # noqa: UP045
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino or torch.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare the head circumference by a segmenter's masks with the published one, in millimetres.

    Example: sonodistill evaluate circumference fetal-head --data hc18=frames/hc18 --split test
    --table training_set_pixel_size_and_HC.csv

    Exit code 2 when a frame was skipped: it is listed, the others are measured.
    """
    from rich.console import Console
    from rich.progress import Progress

    from sonodistill.errors import BundleConfigError
    from sonodistill.inference.predictor import Predictor
    from sonodistill.models import resolve
    from sonodistill_training.evaluate.circumference import agree, read_published
    from sonodistill_training.evaluate.external.frames import items_of
    from sonodistill_training.evaluate.plan import parse_sources

    ((name, folder),) = parse_sources([data]).items()
    published = read_published(table)
    items = [item for item in items_of(name, folder) if split in ("all", item.split)]
    if not items:
        raise BundleConfigError(f"no frame is in the split {split}", path=folder, remedy="see its index.csv")
    predictor = Predictor(resolve(model), runtime=runtime)
    if predictor.kind != "segmenter":
        raise BundleConfigError(f"is of the kind {predictor.kind}", path=predictor.path, remedy="give a segmenter")
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=len(items))
        agreement = agree(predictor, items, published, lambda: progress.advance(task))
    if out is not None:
        _write(out, agreement)
    _say(agreement, json)
    for image, reason in agreement.skipped.items():
        typer.echo(f"skipped {image}: {reason}", err=True)
    if agreement.skipped:
        raise typer.Exit(_EXIT_SKIPPED)


def _say(agreement: Agreement, as_json: bool) -> None:
    absolute, signed, limits = agreement.absolute(), agreement.signed(), agreement.limits()
    missed = sum(row.found is None for row in agreement.rows)
    if as_json:
        import json

        facts = {
            "frames": len(agreement.rows),
            "missed": missed,
            "mean_absolute_difference_mm": [absolute.estimate, absolute.low, absolute.high],
            "mean_difference_mm": [signed.estimate, signed.low, signed.high],
            "limits_of_agreement_mm": list(limits),
            "skipped": len(agreement.skipped),
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{len(agreement.rows)} frames, in {missed} of them no head was found")
    for title, value in (("mean absolute difference", absolute), ("mean difference", signed)):
        typer.echo(f"{title}: {value.estimate:.2f} mm [{value.low:.2f}, {value.high:.2f}]")
    typer.echo(f"limits of agreement: {limits[0]:.2f} to {limits[1]:.2f} mm")


def _write(path: Path, agreement: Agreement) -> None:
    from sonodistill.files import atomic_path

    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "group", "published_mm", "found_mm"])
        for row in agreement.rows:
            table.writerow([row.image, row.group, row.published, "" if row.found is None else f"{row.found:.2f}"])
