"""Command line of the probe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sonodistill_training.evaluate.metrics.statistics import Interval


def probe(
    encoder: Annotated[
        list[str], typer.Option("--encoder", "-e", help="As in `evaluate run`; repeat: the first is compared with.")
    ],
    data: Annotated[Path, typer.Option("--data", "-d", help="Folder with an index.csv of labels.")],
    kind: Annotated[str, typer.Option(help="knn, or linear.")] = "knn",
    input_size: Annotated[int, typer.Option(help="Pixels of the square that each image is brought to.")] = 224,
    folds: Annotated[int, typer.Option(min=2, help="That the images are predicted in.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds and of random weights.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Probe encoders as a training's --probe does, over all images of a folder in folds, with 95 % intervals.

    Example: sonodistill evaluate probe -e Start:vit_tiny_patch16_224=start.safetensors
    -e Ours:vit_tiny_patch16_224=teacher.safetensors --data /data/BUSI --input-size 112
    """
    import dataclasses
    from functools import partial
    from json import dumps

    from rich.console import Console
    from rich.progress import Progress

    from sonodistill_training.distributed import pick_device
    from sonodistill_training.evaluate.encoders.load import load_encoder
    from sonodistill_training.evaluate.plan import parse_encoders
    from sonodistill_training.evaluate.probe import probe_encoders

    specs = parse_encoders(encoder)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("probing", total=len(specs))
        found = probe_encoders(
            {name: partial(load_encoder, spec, input_size=input_size, seed=seed) for name, spec in specs.items()},
            data,
            kind=kind,
            input_size=input_size,
            folds=folds,
            seed=seed,
            device=pick_device(device),
            precision=precision,
            tick=lambda: progress.advance(task),
        )
    if json:
        typer.echo(dumps({name: dataclasses.asdict(one) for name, one in found.items()}))
        return
    for name, one in found.items():
        typer.echo(f"{name}: accuracy {_said(one.accuracy)}, macro F1 {_said(one.macro_f1)}")
        if one.accuracy_gain is not None and one.macro_f1_gain is not None and one.p_value is not None:
            beside = f"  more than {next(iter(found))}: accuracy {_said(one.accuracy_gain, '+')}"
            typer.echo(f"{beside}, macro F1 {_said(one.macro_f1_gain, '+')}; McNemar's p {one.p_value:.2g}")


def _said(interval: Interval, sign: str = "") -> str:
    values = (interval.estimate, interval.low, interval.high)
    middle, low, high = ("unknown" if value is None else f"{value:{sign}.3f}" for value in values)
    return f"{middle} [{low}, {high}]"
