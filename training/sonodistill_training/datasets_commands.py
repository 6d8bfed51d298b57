"""Command line of the data set registry: what there is, on what terms, and whether a folder is as published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from sonodistill_training.corpus.registry import DataSet

app = typer.Typer(
    help="Data sets of the corpus and the evaluation: list, show, check a folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_MISSING = 2
_SHOWN = 20
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list", epilog="Example: sonodistill datasets list --anatomy fetal")
def list_sets(
    anatomy: Annotated[str, typer.Option(help="Only those whose anatomy has this word.")] = "",
    evaluation: Annotated[bool, typer.Option("--evaluation", help="Only those kept for evaluation.")] = False,
    json: _Json = False,
) -> None:
    """List every data set with its anatomy, size and licence."""
    from sonodistill_training.corpus.registry import data_sets

    chosen = [
        entry
        for entry in data_sets().values()
        if anatomy.lower() in entry.anatomy.lower() and (entry.evaluation or not evaluation)
    ]
    if json:
        _print_json([_facts(entry) for entry in chosen])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("key", no_wrap=True)
    for column in ("anatomy", "size", "licence", "use"):
        table.add_column(column, overflow="fold")
    for entry in chosen:
        table.add_row(
            entry.key,
            entry.anatomy,
            entry.size,
            entry.licence.name,
            "evaluation only" if entry.evaluation else "corpus",
        )
    console = Console()
    console.print(table)
    console.print(f"{len(chosen)} data sets. More of one: sonodistill datasets show KEY")


@app.command(epilog="Example: sonodistill datasets show hc18")
def show(
    key: Annotated[str, typer.Argument(help="A key of `sonodistill datasets list`.")], json: _Json = False
) -> None:
    """Show what is known of a data set: terms, citation, how to get it, how its folders are laid out."""
    from sonodistill_training.corpus.registry import get

    facts = _facts(get(key))
    if json:
        _print_json(facts)
        return
    licence = facts.pop("licence")
    says = {True: "allowed", False: "not allowed", None: "not stated"}
    lines = {
        **facts,
        "licence": licence["name"],
        "redistribution": says[licence["redistribution"]],
        "commercial use": says[licence["commercial"]],
        "terms": licence["notice"],
        "published": ", ".join(f"{name} {number}" for name, number in facts["published"].items()),
    }
    for name, value in lines.items():
        if value not in ("", None):
            typer.echo(f"{name + ':':16} {value}")


@app.command(epilog="Example: sonodistill datasets check ddti /data/ddti")
def check(
    key: Annotated[str, typer.Argument(help="A key of `sonodistill datasets list`.")],
    path: Annotated[Path, typer.Argument(help="The data set's folder, or one above it.")],
    json: _Json = False,
) -> None:
    """Compare a folder with the published layout; exit code 2 when something is missing."""
    from sonodistill_training.corpus.registry import get

    report = get(key).check(path)
    if json:
        _print_json(
            {
                "key": report.key,
                "ok": report.ok,
                "folder": str(report.base),
                "found": report.found,
                "published": report.published,
                "missing": report.missing,
                "unexpected": report.unexpected,
            }
        )
    else:
        typer.echo(f"folder: {report.base}")
        for name in dict.fromkeys([*report.published, *report.found]):
            stated = f" of {report.published[name]} published" if name in report.published else ""
            typer.echo(f"  {name}: {report.found.get(name, 0)}{stated}")
        _print_lines("missing", report.missing)
        _print_lines("unexpected files, which are left alone", report.unexpected)
        typer.echo("complete" if report.ok else "incomplete")
    if not report.ok:
        raise typer.Exit(_MISSING)


@app.command(
    epilog="Example: sonodistill datasets prepare busi=/data/BUSI --out frames/busi && python -m monai.bundle run "
    "training --args_file monai_bundle/configs/train_args.yaml --dataset_dir frames/busi"
)
def prepare(
    data: Annotated[str, typer.Argument(help="NAME=FOLDER, as published or with an index.csv.")],
    out: Annotated[Path, typer.Option(help="A new folder: gray frames, masks, index.csv.")],
    task: Annotated[str, typer.Option(help="segmentation or classification.")] = "segmentation",
    split: Annotated[str, typer.Option(help="auto, index, paper, or seed (70/20/10 by group).")] = "auto",
    split_seed: Annotated[int, typer.Option(help="Of --split seed.")] = 0,
) -> None:
    """Write a labelled data set as the folder that fine-tuning reads, divided as `evaluate` divides it."""
    from sonodistill.errors import BundleConfigError
    from sonodistill_training.evaluate.plan import TASKS, parse_sources
    from sonodistill_training.evaluate.prepare import prepare

    ((name, folder),) = parse_sources([data]).items()
    if task not in TASKS:
        raise BundleConfigError(f"no task is called {task}", remedy=f"choose one of {', '.join(TASKS)}")
    counts = prepare(name, folder, out, task, split, split_seed)
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _facts(entry: DataSet) -> dict[str, Any]:
    """The entry as JSON takes it, without its adapter."""
    from dataclasses import asdict, fields

    facts = {field.name: getattr(entry, field.name) for field in fields(entry) if field.name != "adapter"}
    return {**facts, "licence": asdict(entry.licence), "published": dict(entry.published)}


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_lines(title: str, lines: tuple[str, ...]) -> None:
    if not lines:
        return
    typer.echo(f"{title}:")
    for line in lines[:_SHOWN]:
        typer.echo(f"  {line}")
    if len(lines) > _SHOWN:
        typer.echo(f"  and {len(lines) - _SHOWN} more (all with --json)")
