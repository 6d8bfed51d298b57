"""Command line of the evaluation: run, tables, report, representation, encoders; the other commands lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from sonodistill_training.circumference_commands import circumference
from sonodistill_training.external_commands import external
from sonodistill_training.probe_commands import probe

if TYPE_CHECKING:
    from sonodistill_training.evaluate.encoders.spec import EncoderSpec
    from sonodistill_training.evaluate.plan import Planned, Request
    from sonodistill_training.evaluate.run import Failure

app = typer.Typer(
    help="Judge encoders: probes, fine-tuning, tables, report.", no_args_is_help=True, rich_markup_mode=None
)

app.command("external")(external)
app.command("circumference")(circumference)
app.command("probe")(probe)

_EXIT_FAILURES = 2
_NAMES = {"b": "headline", "B": "headline"}

_Encoder = Annotated[
    list[str],
    typer.Option(
        "--encoder", "-e", help="ROW, ROW=FILE, NAME:TIMM_NAME or NAME:TIMM_NAME=FILE; repeat. See `evaluate encoders`."
    ),
]
_Data = Annotated[
    list[str],
    typer.Option("--data", "-d", help="NAME=FOLDER with an index.csv, or as the data set NAME is published; repeat."),
]
_Out = Annotated[Path, typer.Option(help="Folder of the results; the same one again goes on and adds to them.")]
_Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]
_Precision = Annotated[str, typer.Option(help="auto, bf16 or fp32.")]
_Split = Annotated[str, typer.Option(help="auto, index, paper, or seed (70/20/10 by group).")]


@app.callback()
def _group() -> None:
    """Judge encoders: probes, fine-tuning, tables, report."""


@app.command()
def run(
    encoder: _Encoder,
    data: _Data,
    out: _Out,
    task: Annotated[list[str], typer.Option(help="segmentation or classification; repeat.")] = ["segmentation"],  # noqa: B006
    protocol: Annotated[
        list[str], typer.Option("--protocol", "-p", help="knn, linear, frozen_encoder_unet or finetune; repeat.")
    ] = ["linear"],  # noqa: B006
    head: Annotated[
        list[str],
        typer.Option(
            help="unet, upernet, light or dpt; by default unet, and light for a plain ViT (paper_b: upernet)."
        ),
    ] = [],  # noqa: B006
    recipe: Annotated[list[str], typer.Option(help="paper (paper A, section 4.3), vit or paper_b.")] = ["paper"],  # noqa: B006
    fraction: Annotated[
        list[float], typer.Option(help="Share of the training frames with labels, 1 when not given; repeat.")
    ] = [],  # noqa: B006
    shots: Annotated[list[int], typer.Option(help="Number of labelled training frames; repeat.")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each combination; every run draws its own labels.")] = 5,
    epochs: Annotated[Optional[int], typer.Option(help="In the place of the recipe's.")] = None,  # noqa: UP045
    epoch_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0, help="Steps of an epoch in the place of paper_b's 450 or 500; 0: one pass over the frames."
        ),
    ] = None,
    batch_size: Annotated[Optional[int], typer.Option(help="In the place of the recipe's.")] = None,  # noqa: UP045
    learning_rate: Annotated[Optional[float], typer.Option(help="In the place of the recipe's 1e-4.")] = None,  # noqa: UP045
    input_size: Annotated[Optional[int], typer.Option(help="In the place of the recipe's 256 or 224.")] = None,  # noqa: UP045
    augment: Annotated[Optional[str], typer.Option(help="none, flip, affine or paper_b.")] = None,  # noqa: UP045
    split: _Split = "auto",
    split_seed: Annotated[int, typer.Option(help="Of --split seed.")] = 0,
    papers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="What these tables need instead: 2,3,4,6,7,8, b (paper B's) or all; tasks and so on are ignored."
        ),
    ] = None,
    memory: Annotated[float, typer.Option(min=0, help="GB for the features of a frozen encoder.")] = 8.0,
    device: _Device = "auto",
    precision: _Precision = "auto",
    report: Annotated[bool, typer.Option(help="Write report.html at the end.")] = True,
) -> None:
    """Evaluate every combination of encoder, data, task and protocol that is not in --out yet, and write the report.

    Example: sonodistill evaluate run -e R18-Rand -e R18-Distill-US=student.safetensors -d busi=/data/BUSI
    --task classification --protocol knn --protocol linear --out runs/evaluation

    The papers' tables: sonodistill evaluate run --papers all -e R50-Rand -e R50-Distill-US=us.safetensors
    -d busi=/data/BUSI -d ddti=/data/DDTI --out runs/evaluation

    Exit code 2 when an evaluation failed: it is listed, the others are there.
    """
    from sonodistill.networks.precision import use_bf16
    from sonodistill_training.distributed import pick_device
    from sonodistill_training.evaluate.plan import Settings, parse_encoders, parse_sources, plan, requests
    from sonodistill_training.evaluate.results import Store
    from sonodistill_training.evaluate.run import run as compute

    encoders, folders = parse_encoders(encoder), parse_sources(data)
    if papers is None:
        wanted = requests(
            encoders,
            folders,
            task,
            protocol,
            heads=head,
            recipes=recipe,
            fractions=fraction or ([] if shots else [1.0]),
            shots=shots,
        )
    else:
        wanted = _of_papers(papers, encoders, list(folders))
    changes = {
        "epochs": epochs,
        "epoch_steps": epoch_steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "input_size": input_size,
        "augment": augment,
    }
    computed = "bf16" if use_bf16(precision, pick_device(device)) else "fp32"
    changed = {name: value for name, value in changes.items() if value is not None}
    settings = Settings(seeds, split, split_seed, computed, changed)
    store = Store(out)
    planned = plan(wanted, encoders, folders, settings, out / "data")
    there = sum(store.has(item.cell) for item in planned)
    typer.echo(f"{len(planned)} evaluations, {there} of them there already")
    results, failures = compute(planned, store, device=device, memory=memory * 1e9)
    typer.echo(f"{len(results)} results in {out}")
    if report and results:
        typer.echo(f"report: {_write_report(out, planned)}")
    _end(failures)


@app.command()
def tables(
    out: Annotated[Path, typer.Argument(exists=True, help="Folder of the results.")],
    papers: Annotated[bool, typer.Option(help="The papers' tables, ours beside the published values.")] = False,
    table: Annotated[list[str], typer.Option(help="Of the papers': 2 to 8, b (paper B's); repeat.")] = [],  # noqa: B006
    baseline: Annotated[Optional[str], typer.Option(help="Encoder that the others are tested against.")] = None,  # noqa: UP045
    to: Annotated[Optional[Path], typer.Option(help="A file: .md, .csv or .html.")] = None,  # noqa: UP045
) -> None:
    """Print the results as tables with 95 % intervals, and paired tests between the encoders.

    Example: sonodistill evaluate tables runs/evaluation --papers --to tables.md
    """
    from sonodistill_training.evaluate.results import Store
    from sonodistill_training.evaluate.tables import text as tables_text
    from sonodistill_training.evaluate.tables.build import own_tables, paired_table, paper_tables
    from sonodistill_training.evaluate.tables.needed import TABLES

    store = Store(out)
    if papers:
        # Without a result the published values are worth seeing all the same.
        made = paper_tables(store.all() if store.any() else [], _tables(",".join(table) or "all", TABLES))
    else:
        results = store.all()
        made = [*own_tables(results), paired_table(results, baseline)]
    if to is None:
        typer.echo(tables_text.markdown(made))
        return
    from sonodistill.errors import BundleConfigError
    from sonodistill.files import write_text

    writers = {".md": tables_text.markdown, ".csv": tables_text.csv_text, ".html": tables_text.html}
    if to.suffix.lower() not in writers:
        raise BundleConfigError(
            f"tables cannot be written as {to.suffix or 'that'}", path=to, remedy=f"choose {', '.join(writers)}"
        )
    write_text(to, writers[to.suffix.lower()](made))
    typer.echo(str(to))


@app.command("report")
def report_command(
    out: Annotated[Path, typer.Argument(exists=True, help="Folder of the results.")],
    representation: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(exists=True, help="Folder of `evaluate representation`, to be shown as well."),
    ] = None,
    papers: Annotated[bool, typer.Option(help="With the papers' tables, ours beside theirs.")] = True,
) -> None:
    """Write what is there as report.html (complete in itself), and the per-image results as Parquet and CSV.

    Example: sonodistill evaluate report runs/evaluation
    """
    typer.echo(f"report: {_write_report(out, (), representation, papers)}")


@app.command()
def representation(
    encoder: _Encoder,
    data: _Data,
    out: Annotated[Path, typer.Option(help="Folder of figures, points and numbers.")],
    limit: Annotated[int, typer.Option(min=20, help="Frames of each data set.")] = 400,
    input_size: Annotated[int, typer.Option(help="Pixels; 224 suits patches of 14 and 16.")] = 224,
    seed: Annotated[int, typer.Option(help="Of the draw and of the projections.")] = 0,
    projection: Annotated[list[str], typer.Option(help="tsne or umap; repeat.")] = ["tsne", "umap"],  # noqa: B006
    device: _Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 (whose rounding raises RankMe) or auto.")] = "fp32",
) -> None:
    """Embed the same frames with several encoders: t-SNE and UMAP side by side, and numbers for what they show.

    Silhouette, purity of the neighbours by anatomy against by data set (does it see the organ or the scanner?), RankMe,
    and linear CKA between the encoders.

    Example: sonodistill evaluate representation -e R18-Rand -e R18-Distill-US=student.safetensors
    -d hc18=/data/HC18 -d aul=/data/AUL --out runs/representation
    """
    from functools import partial

    from sonodistill_training.distributed import pick_device
    from sonodistill_training.evaluate.encoders.load import load_encoder
    from sonodistill_training.evaluate.plan import parse_encoders, parse_sources
    from sonodistill_training.evaluate.representation.run import TABLE, analyse

    specs = parse_encoders(encoder)
    analyse(
        {name: partial(load_encoder, spec, input_size=input_size, seed=seed) for name, spec in specs.items()},
        parse_sources(data),
        out,
        keys={name: f"{spec.key()}:{seed if spec.is_random else ''}" for name, spec in specs.items()},
        limit=limit,
        input_size=input_size,
        seed=seed,
        projections=projection,
        device=pick_device(device),
        precision=precision,
    )
    typer.echo((out / TABLE).read_text(encoding="utf-8"))
    typer.echo(f"figures and points: {out}")


@app.command()
def encoders() -> None:
    """List the encoders of the papers' tables: what they are, where their weights are, and how they were tested.

    Example: sonodistill evaluate encoders
    """
    from sonodistill_training.evaluate.encoders.rows import rows

    for row in rows().values():
        typer.secho(f"{row.name}  ({row.architecture or 'an architecture to be named'})", bold=True)
        typer.echo(f"  write    {row.alias + ('=FILE' if row.needs_file else '')}")
        typer.echo(f"  weights  {row.source}")
        typer.echo(f"  licence  {row.licence}")
        typer.echo(f"  status   {row.status}")
        if row.notes:
            typer.echo(f"  note     {row.notes}")


def _of_papers(tables: str, encoders: dict[str, EncoderSpec], sources: Sequence[str]) -> list[Request]:
    """What the papers' tables need of the encoders and data that are there; what is not there is said."""
    from sonodistill.errors import BundleConfigError
    from sonodistill_training.evaluate.plan import Request
    from sonodistill_training.evaluate.tables.needed import TABLES, distinct, paper_cells

    needed = distinct(paper_cells(_tables(tables, TABLES)))
    rows, data = (sorted({getattr(cell, name) for cell in needed}) for name in ("row", "data"))
    for what, asked, given in (("encoders", rows, encoders), ("data sets", data, sources)):
        if missing := [name for name in asked if name not in given]:
            typer.echo(f"not evaluated, because not given: the {what} {', '.join(missing)}", err=True)
    wanted = [
        Request(cell.row, cell.task, cell.data, cell.protocol, cell.head, cell.recipe, cell.fraction, cell.shots)  # type: ignore[arg-type]
        for cell in needed
        if cell.row in encoders and cell.data in sources
    ]
    if not wanted:
        raise BundleConfigError(
            f"none of the encoders and data sets given is in the tables {tables}",
            remedy=f"they are about {', '.join(rows)} on {', '.join(data)}",
        )
    return wanted


def _tables(text: str, known: Sequence[str]) -> list[str]:
    from sonodistill.errors import BundleConfigError

    asked = list(known) if text == "all" else [_NAMES.get(word.strip(), word.strip()) for word in text.split(",")]
    for word in asked:
        if word not in known:
            raise BundleConfigError(
                f"the papers have no table {word}", remedy=f"choose from {', '.join(known)}, or all"
            )
    return asked


def _write_report(
    out: Path, planned: Sequence[Planned], representation: Path | None = None, papers: bool = True
) -> Path:
    from sonodistill_training.evaluate.data import cached_sets
    from sonodistill_training.evaluate.report.write import write_report
    from sonodistill_training.evaluate.results import Store

    store = Store(out)
    used = {str(result.about.get("data")) for result in store.all()}
    data: dict[str, Any] = cached_sets(out / "data", used) | {item.cell.data: item.data for item in planned}
    return write_report(store, out, data=data, representation=representation, papers=papers)


def _end(failures: Sequence[Failure]) -> None:
    if failures:
        typer.echo(f"{len(failures)} evaluations failed:", err=True)
        for failure in failures:
            typer.echo(f"  {failure.cell.title}: {failure.reason}", err=True)
        raise typer.Exit(_EXIT_FAILURES)
