"""Command line of the corpus: build one from any ultrasound, and find a file behind its keyed name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from sonodistill_training.corpus.build import Progress

app = typer.Typer(help="Turn any ultrasound into a training corpus.", no_args_is_help=True, rich_markup_mode=None)

_Sources = Annotated[
    list[str],
    typer.Argument(help="Files, folders, or NAME=PATH; a NAME of `sonodistill datasets list` is read as published."),
]
_Key = Annotated[
    Optional[Path],  # noqa: UP045 - Typer on Python 3.10
    typer.Option(
        help="File of the secret that names are hashed with. Default: made once, in the user's configuration."
    ),
]


@app.command()
def build(
    sources: _Sources,
    out: Annotated[Path, typer.Option(help="The corpus folder; the same command goes on with a build that was cut.")],
    evaluation: Annotated[
        list[str], typer.Option(help="NAME=PATH of a set the corpus must not overlap with; repeatable.")
    ] = [],  # noqa: B006 - Typer reads the default and never changes it
    on_leak: Annotated[str, typer.Option(help="A frame of an evaluation set was found: fail, drop or allow.")] = "fail",
    short_side: Annotated[int, typer.Option(min=32, help="Pixels of a stored frame's shorter side.")] = 256,
    per_second: Annotated[float, typer.Option(help="Keep at most so many frames a second of a clip.")] = 2.0,
    different: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Keep a frame when it differs at least this much from all kept ones (0 to 1)."),
    ] = None,
    per_clip: Annotated[int, typer.Option(min=1, help="Keep at most so many frames of a clip or volume.")] = 64,
    encoder: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Weights of an encoder; frames of a clip that it finds alike are redundant too (slower)."),
    ] = None,
    cut: Annotated[
        list[str],
        typer.Option(
            help="How volumes are cut: axial, coronal, sagittal, 0 to 2, rotational:N, oblique:TILT[,TURN]; repeatable."
        ),
    ] = ["0"],  # noqa: B006
    overlay: Annotated[str, typer.Option(help="Text, rulers and marks: inpaint, mask or keep.")] = "inpaint",
    duplicates: Annotated[bool, typer.Option(help="Leave near-duplicates out.")] = True,
    embedding: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Encoder for the audit against evaluation sets, beside the hash: as --teacher of distill."),
    ] = None,
    group_by: Annotated[
        str, typer.Option(help="What is never divided between splits: file, folder, or auto (a DICOM file's patient).")
    ] = "auto",
    splits: Annotated[str, typer.Option(help="Shares of train, validation and test.")] = "0.9,0.05,0.05",
    seed: Annotated[int, typer.Option(help="Of the splits.")] = 0,
    scheduler: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Address of a Dask scheduler (tcp://...). Default: workers on this machine."),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Workers on this machine. Default: one a core."),
    ] = None,
    memory: Annotated[float, typer.Option(help="GiB of address space for a decoding process; 8 with --encoder.")] = 4.0,
    patience: Annotated[float, typer.Option(help="Seconds without a sign of life before a file is given up.")] = 60.0,
    key: _Key = None,
) -> None:
    """Read any mix of ultrasound into clean gray frames, with a manifest, a licence summary and a contact sheet.

    Frames are thinned, cropped to the sector, freed of overlays, and compared with each other and with evaluation
    sets. Refused files and frames are listed with the reason. Nothing written names a file, a patient or a date.

    Example: sonodistill corpus build clips/ hc18=/data/HC18 --evaluation busi=/data/BUSI --out corpus
    """
    from sonodistill.errors import SonoDistillError
    from sonodistill_training.corpus import build as building
    from sonodistill_training.corpus.extraction import Extraction
    from sonodistill_training.corpus.finish import Rules
    from sonodistill_training.corpus.privacy import load_key
    from sonodistill_training.corpus.sandbox import Limits
    from sonodistill_training.corpus.thinning import Thinning

    if not math.isfinite(memory):
        raise SonoDistillError(f"--memory {memory}", remedy="give gibibytes, as 4")
    defaults = Thinning()
    thinning = Thinning(
        per_second=per_second, different=defaults.different if different is None else different, per_clip=per_clip
    )
    try:
        shares = tuple(float(share) for share in splits.split(","))
    except ValueError:
        raise SonoDistillError(f"--splits {splits} are no numbers", remedy="give three, as 0.9,0.05,0.05") from None
    plan = building.Plan(
        sources=sources,
        out=out,
        key=load_key(key),
        extraction=Extraction(short_side, thinning, tuple(cut), overlay, encoder=encoder or ""),
        rules=Rules(duplicates=duplicates, on_leak=on_leak, embedding=embedding, fractions=shares, seed=seed),
        evaluation=evaluation,
        group_by=group_by,
        scheduler=scheduler,
        workers=workers,
        limits=Limits(memory_bytes=int(memory * 2**30), silence_seconds=patience),
    )
    with _progress() as show:
        summary = building.build(plan, show)
    _print_summary(summary, out)
    if summary["files_refused"]:
        typer.echo(f"{summary['files_refused']} files could not be read to their end; see the contact sheet", err=True)
        raise typer.Exit(2)


@app.command()
def show(corpus: Annotated[Path, typer.Argument(help="A corpus folder.")]) -> None:
    """Print what a corpus holds, as JSON.

    Example: sonodistill corpus show corpus
    """
    from sonodistill.errors import EmptyInputError

    summary = corpus / "summary.json"
    if not summary.is_file():
        raise EmptyInputError("holds no summary.json", path=corpus, remedy="build it with `sonodistill corpus build`")
    typer.echo(summary.read_text(encoding="utf-8"), nl=False)


@app.command()
def find(
    name: Annotated[str, typer.Argument(help="Keyed name of a source, from the column `source` of a manifest.")],
    sources: _Sources,
    key: _Key = None,
) -> None:
    """Print the file that a keyed name stands for; only who has the key and the files can.

    Example: sonodistill corpus find 3f0c1d2e4b5a69788796 clips/ hc18=/data/HC18
    """
    from sonodistill.errors import EmptyInputError
    from sonodistill_training.corpus.plan import list_entries
    from sonodistill_training.corpus.privacy import KeyedNames, load_key

    found = [
        entry.path
        for entry in list_entries(sources, KeyedNames(load_key(key)), allow_evaluation=True)
        if entry.source.startswith(name)
    ]
    if not found:
        raise EmptyInputError(f"no file is called {name}", remedy="name the sources as in the build, and its --key")
    for path in found:
        typer.echo(path)


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    counts = summary["frames"]
    table = Table("data set", title=f"{counts['kept']:,} frames of {summary['files']:,} files in {out}")
    for heading in ("kept", "apart", "duplicate", "leak", "refused"):
        table.add_column(heading, justify="right")
    for dataset, found in summary["datasets"].items():
        named = [found.get(code, 0) for code in ("kept", "colour_doppler", "duplicate", "leak")]
        table.add_row(dataset, *(f"{n:,}" for n in [*named, sum(found.values()) - sum(named)]))
    console = Console()
    console.print(table)
    listed = ("kept", "colour_doppler", "duplicate", "leak")
    refused = ", ".join(f"{n:,} {code}" for code, n in counts.items() if code not in listed)
    if refused:
        typer.echo(f"refused: {refused}")
    typer.echo(f"{summary['frames_read']:,} frames read, {summary['frames_redundant']:,} of them redundant")
    typer.echo(f"look at {out / 'contact_sheet.html'}")


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar over the files, with frames a second, kept and refused."""
    from rich import progress as bars

    numbers = "{task.fields[rate]:.0f} frames/s · {task.fields[kept]} kept · {task.fields[refused]} refused"
    columns = (bars.TextColumn("reading"), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TextColumn("files"))
    with bars.Progress(*columns, bars.TextColumn(numbers), bars.TimeElapsedColumn()) as bar:
        task = bar.add_task("", total=None, rate=0.0, kept=0, refused=0)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.files,
                total=progress.files_in_all,
                rate=progress.frames / (bar.tasks[0].elapsed or 1e-9),
                kept=progress.kept,
                refused=progress.refused,
            )

        yield show
