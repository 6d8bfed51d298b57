"""Files and folders through the models, once: the results in a folder, with a table of what became of each file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import Progress

from sonodistill.dicom.errors import reason_of
from sonodistill.dicom.predict import Analysis, Analyst
from sonodistill.dicom.settings import RouteSettings
from sonodistill.errors import EmptyInputError, SonoDistillError, UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill.inference.files import OutputError
from sonodistill.transforms.masks import common_root

INDEX = "results.csv"
EXIT_SKIPPED = 2
_COLUMNS = [
    *("source", "state", "reason", "route", "frames", "structures", "largest_area_mm2", "largest_area_pixels"),
    *("segmentation", "report", "preview", "unfamiliarity"),
]


def predict_folder(rules: Sequence[RouteSettings], sources: Sequence[Path], out: Path, *, threads: int = 0) -> int:
    """Write the results of every file below ``sources`` into ``out``, and ``results.csv``, a row for each file.

    The results of a file are ``<its path below the sources>.seg.dcm``, ``.sr.dcm`` and so on. Links are not followed,
    and what lies in ``out`` is no source.

    Returns:
        The exit code: 2 when a file was refused or failed, else 0.

    Errors: EmptyInputError, UnreadableFileError (a source does not exist), OutputError, and those of the models.
    """
    files = list(_files(sources, out))
    if not files:
        raise EmptyInputError("there is no file in the sources", path=sources[0] if sources else None)
    root, skipped = common_root(list(sources)), 0
    try:
        with (
            Analyst(rules, threads=threads) as analyst,
            atomic_path(out / INDEX) as index,
            index.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
            Progress(console=Console(stderr=True), transient=True) as progress,
        ):
            analyst.load()
            table = csv.writer(file)
            table.writerow(_COLUMNS)
            for path in progress.track(files, description="analysing"):
                inside = path.resolve().relative_to(root)
                try:
                    analysis = analyst.analyse(path, (out / inside).parent, prefix=f"{inside.name}.")
                except Exception as error:  # whatever a file provokes, the others are not held up
                    if isinstance(error, ImportError) or (isinstance(error, OSError) and error.filename != str(path)):
                        raise
                    skipped += 1
                    state = "refused" if isinstance(error, SonoDistillError) else "failed"
                    table.writerow([path, state, reason_of(error), *[""] * (len(_COLUMNS) - 3)])
                    said = error if state == "refused" else f"{path}: {reason_of(error)}"
                    progress.console.print(f"  {said}", markup=False, highlight=False, soft_wrap=True)
                    continue
                table.writerow(_row(path, analysis, out))
                if analysis.findings.warning:
                    said = f"  warning: {path}: {analysis.findings.warning}"
                    progress.console.print(said, markup=False, highlight=False, soft_wrap=True)
    except OSError as error:
        raise OutputError.of(error, out) from error
    typer.echo(f"{len(files) - skipped} of {len(files)} files analysed, {skipped} refused; {out / INDEX}", err=True)
    return EXIT_SKIPPED if skipped else 0


def _files(sources: Sequence[Path], out: Path) -> Iterator[Path]:
    home = out.resolve()
    for source in sources:
        if not source.exists():
            raise UnreadableFileError("there is no such file or folder", path=source)
        found = sorted(source.rglob("*")) if source.is_dir() else [source]
        for path in found:
            hidden = path.name.startswith(".") or path.name == "DICOMDIR"
            if path.is_file() and not path.is_symlink() and not hidden and home not in path.resolve().parents:
                yield path


def _row(path: Path, analysis: Analysis, out: Path) -> list[object]:
    structures = analysis.findings.structures
    areas = [each.area_mm2 for each in structures if each.area_mm2 is not None]
    known = len(areas) == len(structures)
    made = {each.kind: each.path.relative_to(out) for each in analysis.results}
    return [
        *(path, "done", analysis.note, analysis.rule.name, analysis.findings.source.frames, len(structures)),
        f"{max(areas):.3f}" if areas and known else "",
        max((each.pixels for each in structures), default=0),
        *(made.get("seg", ""), made.get("sr", ""), made.get("gsps", made.get("sc", ""))),
        f"{analysis.findings.unfamiliarity:.4g}" if analysis.findings.scores else "",
    ]
