"""Command line of the B-mode simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer


def simulate(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    count: Annotated[int, typer.Option(min=1, help="Frames.")] = 60,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same frames.")] = 0,
    size: Annotated[int, typer.Option(min=32, help="Height and width, pixels.")] = 256,
    probe: Annotated[Optional[str], typer.Option(help="linear or convex; both when not given.")] = None,  # noqa: UP045
) -> None:
    """Write simulated B-mode frames with exact lesion masks, to try the software on; not for claims.

    Example: sonodistill simulate --out simulated --count 60 --seed 0
    """
    from sonodistill_training.corpus.simulator import write_simulated

    folder = write_simulated(out, count, seed, size=(size, size), probe=probe)
    typer.echo(f"{count} SIMULATED frames with masks in {folder}")
