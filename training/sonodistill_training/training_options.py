"""Options that `sonodistill distill` and `sonodistill pretrain` share, and how what is given becomes settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

Data = Annotated[list[str], typer.Argument(help="A corpus (folder, or s3:// and the like), or ultrasound files.")]
Epochs = Annotated[Optional[float], typer.Option(help="Passes over the frames.")]  # noqa: UP045 - Typer reads it
Steps = Annotated[Optional[int], typer.Option(help="Optimiser steps, in the place of epochs.")]  # noqa: UP045
BatchSize = Annotated[Optional[int], typer.Option(help="Frames a step.")]  # noqa: UP045
LearningRate = Annotated[Optional[float], typer.Option(help="Used as given.")]  # noqa: UP045
Seed = Annotated[Optional[int], typer.Option(help="Of everything random.")]  # noqa: UP045
Probe = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Labelled folder (index.csv) to probe the network on; it must not be in the data."),
]
Setting = Annotated[
    list[str], typer.Option("--set", help="Any other setting of the configuration, as NAME=VALUE; repeatable.")
]


def train(
    configs: Sequence[str], data: Sequence[str], out: Path, given: Mapping[str, Any], setting: Sequence[str]
) -> None:
    """Run the bundle's training with what was given; what was not (None) is the configuration's."""
    from sonodistill_training.workflow import parse_settings, run_bundle

    settings = {name: value for name, value in given.items() if value is not None} | parse_settings(setting)
    run_bundle(list(configs), dataset_dir=data, output_dir=out, **settings)
