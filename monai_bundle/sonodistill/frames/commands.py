"""Command line of the frame readers: what a file holds, and its frames as PNG files."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sonodistill.errors import SonoDistillError

app = typer.Typer(help="Read ultrasound files as frames.", no_args_is_help=True, rich_markup_mode=None)

_Paths = Annotated[list[Path], typer.Argument(help="Files or folders (DICOM, images, videos, volumes).")]
_Axis = Annotated[
    str | None,
    typer.Option(
        help="Cut volumes across this axis: axial, coronal, sagittal, 0, 1 or 2 (default 0). Or interpolate planes: "
        "rotational:N turns N of them about the depth axis, oblique:TILT[,TURN] (degrees) stacks parallel ones."
    ),
]


@dataclass(frozen=True, slots=True)
class _Row:
    """One file of ``info``; None is unknown."""

    file: str
    kind: str
    frames: int | None
    rows: int
    columns: int
    step_ms: float | None
    row_mm: float | None
    column_mm: float | None
    calibration_note: str | None


@app.command()
def info(
    paths: _Paths,
    axis: _Axis = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a file.")] = False,
) -> None:
    """List kind, frames, size, time step and millimetres per pixel (or why they are unknown) of each file.

    Example: sonodistill frames info clips/ phantom.mha --json
    """
    from sonodistill.errors import SonoDistillError

    rows: list[_Row] = []
    skipped: list[tuple[Path, SonoDistillError]] = []
    for file in _files(paths, skipped):
        try:
            rows.append(_row(file, axis))
        except SonoDistillError as error:
            skipped.append((file, error))
    if as_json:
        import json

        typer.echo(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        _print_table(rows)
    _finish(skipped)


@app.command()
def export(
    paths: _Paths,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files and index.csv; it must be new or empty.")],
    every: Annotated[int, typer.Option(min=1, help="Keep every Nth frame of each file, from its first.")] = 1,
    axis: _Axis = None,
) -> None:
    """Write frames as gray PNG files, with an index.csv of their source, time and millimetres per pixel.

    Example: sonodistill frames export clips/ --out frames --every 5
    """
    import csv
    import io

    from PIL import Image

    from sonodistill.errors import SonoDistillError
    from sonodistill.files import atomic_path, write_text
    from sonodistill.frames import read

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SonoDistillError("the output folder is not empty", path=out, remedy="name a new folder with --out")
    skipped: list[tuple[Path, SonoDistillError]] = []
    index = io.StringIO()
    table = csv.writer(index, lineterminator="\n")
    table.writerow(["file", "source", "frame", "time_ms", "row_mm", "column_mm", "calibration_note"])
    for number, file in enumerate(_files(paths, skipped)):
        try:
            for frame in itertools.islice(read(file, axis=axis), 0, None, every):
                # The running number keeps files of the same name in different folders apart.
                name = f"{number:05d}_{_stem(file)}_{frame.index:05d}.png"
                with atomic_path(out / name) as temporary:
                    Image.fromarray(frame.image).save(temporary, format="PNG")
                time = "" if frame.time_ms is None else f"{frame.time_ms:.3f}"
                scale = frame.mm_per_pixel or ("", "")
                table.writerow([name, file, frame.index, time, *scale, frame.calibration.note or ""])
        except SonoDistillError as error:
            skipped.append((file, error))
    write_text(out / "index.csv", index.getvalue())
    _finish(skipped)


def _files(paths: list[Path], skipped: list[tuple[Path, SonoDistillError]]) -> list[Path]:
    """The readable files of all paths; a path without any goes to ``skipped``."""
    from sonodistill.errors import SonoDistillError
    from sonodistill.frames import find_files

    files = []
    for path in paths:
        try:
            files.extend(find_files(path))
        except SonoDistillError as error:
            skipped.append((path, error))
    return files


def _row(file: Path, axis: str | None) -> _Row:
    """Describe a file by its first two frames."""
    from sonodistill.errors import EmptyInputError
    from sonodistill.frames import read

    frames = read(file, axis=axis)
    first, second = next(frames, None), next(frames, None)
    if first is None:
        raise EmptyInputError("the file holds no frame", path=file)
    step = None
    if second is not None and first.time_ms is not None and second.time_ms is not None:
        step = second.time_ms - first.time_ms
    row_mm, column_mm = first.mm_per_pixel or (None, None)
    rows, columns = first.image.shape
    source = first.provenance
    return _Row(str(file), source.kind, source.frames, rows, columns, step, row_mm, column_mm, first.calibration.note)


def _print_table(rows: list[_Row]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    if not rows:
        return
    table = Table(Column("file", overflow="fold"), "kind", "frames", "size", "step ms", "mm per pixel, or why not")
    for row in rows:
        scale = "" if row.row_mm is None else f"{row.row_mm:.4g} x {row.column_mm:.4g}"
        table.add_row(
            escape(row.file),
            row.kind,
            "?" if row.frames is None else str(row.frames),
            f"{row.rows} x {row.columns}",
            "" if row.step_ms is None else f"{row.step_ms:.4g}",
            escape("; ".join(part for part in (scale, row.calibration_note) if part)),
        )
    Console().print(table)


def _stem(file: Path) -> str:
    """The file's name without what a file system or a spreadsheet might mind."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in file.stem)[:80]


def _finish(skipped: list[tuple[Path, SonoDistillError]]) -> None:
    """List what was skipped and why; leave with 2 when there is any."""
    for _, error in skipped:
        typer.echo(f"skipped {error}", err=True)
    if skipped:
        typer.echo(f"{len(skipped)} skipped", err=True)
        raise typer.Exit(2)
