"""Command line of the export of trained networks to other runtimes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from sonodistill_training.export.targets import TARGETS, find_target

if TYPE_CHECKING:
    from sonodistill.errors import SonoDistillError
    from sonodistill_training.export.export import Exported


_FIGURES = (
    ("max_abs_difference", "largest difference", ".1e"),
    ("dice", "Dice", ".4f"),
    ("agreement", "agreement", ".3f"),
    ("cosine", "cosine", ".5f"),
    ("score_difference", "warning score within", ".1%"),
)


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="Encoder, segmenter or classifier: .safetensors of ours, or a name.")
    ],
    to: Annotated[list[str], typer.Option("--to", help=f"Can be given several times: {', '.join(TARGETS)}.")],
    precision: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="fp32, fp16, bf16 or int8, where the target has it; default: its own."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File, or folder for model.onnx, model.int8.xml ...; default: beside the checkpoint."),
    ] = None,
    frames: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Files, folders or a corpus to check with, and to calibrate int8. Can be repeated."),
    ] = None,
    input_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=32, help="Height and width, pixels; default: as it was trained, else 256."),
    ] = None,
    labels: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Names of the classes, with commas between them, in place of the checkpoint's."),
    ] = None,
    max_frames: Annotated[int, typer.Option(min=12, help="Frames to draw for calibration and check together.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    min_dice: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Refuse a segmenter whose masks have a lower Dice with the network's; 0.98, int8 0.95."),
    ] = None,
    min_cosine: Annotated[float, typer.Option(help="Refuse an encoder or classifier below it.")] = 0.99,
    min_agreement: Annotated[float, typer.Option(help="Refuse a classifier below it.")] = 0.95,
    familiarity: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            help="With the warning score of a checkpoint that has one, as a second output; default: but where a lower "
            "precision changes it too much."
        ),
    ] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Also write what cannot be run here: Core ML anywhere but on macOS.")
    ] = False,
) -> None:
    """Write a trained network for another runtime, and check the file against the network on real frames.

    The file takes gray images (B, 1, H, W) in [0, 1], any B; normalisation is inside. One that differs is not written.

    Example: sonodistill export model.safetensors --to onnx --to openvino-int8 --frames clips/
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from sonodistill import models
    from sonodistill.errors import BundleConfigError, SonoDistillError

    given = checkpoint
    checkpoint = models.path_of(given, torch=True)
    if out is None and checkpoint != given:
        raise BundleConfigError(f"where {given} is to be exported to is not said", remedy="give --out FOLDER or FILE")
    targets = list(dict.fromkeys(find_target(name) for name in to))
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("loading", total=len(targets) + 1)

        from sonodistill_training.export.check import Limits, ScoreCheckError
        from sonodistill_training.export.export import export as write
        from sonodistill_training.export.export import prepare
        from sonodistill_training.export.frames import FrameSet, default_frames, given_frames

        def draw(size: tuple[int, int]) -> FrameSet:
            if not frames:
                return default_frames(size)
            bar.update(task, description="reading frames")
            calibrate = any((precision or target.precisions[0]) == "int8" for target in targets)
            return given_frames(frames, size, calibrate=calibrate, limit=max_frames, seed=seed)

        source = prepare(
            checkpoint,
            draw,
            size=None if input_size is None else (input_size, input_size),
            labels=None if labels is None else [name.strip() for name in labels.split(",")],
            familiarity=familiarity is not False,
        )
        limits = Limits(dice=min_dice, cosine=min_cosine, agreement=min_agreement)
        made: list[Exported] = []
        failed: list[tuple[str, SonoDistillError]] = []
        silent: list[str] = []
        for target in targets:
            bar.update(task, advance=1, description=f"exporting to {target.name}")
            try:
                path = _path(
                    out or checkpoint.parent, target.file_name(precision or target.precisions[0]), target.suffix
                )
                if len(targets) > 1 and out is not None and path == out:
                    raise SonoDistillError("is one file for several targets", path=out, remedy="name a folder")
                try:
                    made.append(write(source, target, path, precision=precision, limits=limits, unchecked=unchecked))
                except ScoreCheckError as error:
                    if familiarity or (precision or target.precisions[0]) == "fp32":
                        raise
                    silent.append(f"{target.name}: {error.message}; it is written without the score")
                    plain = replace(source, scored=None, scores=None)
                    made.append(write(plain, target, path, precision=precision, limits=limits, unchecked=unchecked))
            except SonoDistillError as error:
                failed.append((target.name, error))
    if made:
        _show(made)
        used = f"{len(source.frames.check)} frames of {source.frames.files} files ({source.frames.origin})"
        checked = f"checked on up to {used}" if any(item.info.check for item in made) else "not checked"
        typer.echo(f"in {made[0].path.parent}; {checked}")
    for line in silent:
        typer.echo(line, err=True)
    if failed:
        typer.echo(f"{len(failed)} of {len(targets)} targets failed:", err=True)
        for name, reason in failed:
            typer.echo(f"  {name}: {reason}", err=True)
        raise typer.Exit(2)


def _path(out: Path, name: str, suffix: str) -> Path:
    """``out`` where it names a file of this format, else the file of that name in it."""
    return out if out.suffix == suffix or (out.suffix and not out.is_dir()) else out / name


def _show(made: list[Exported]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("target", "precision")
    table.add_column("file", overflow="fold")
    table.add_column("MB", justify="right")
    table.add_column("check", overflow="fold")
    for item in made:
        check = item.info.check
        names = (_FIGURES[0], _FIGURES[-1]) if item.info.precision == "fp32" else _FIGURES[1:]
        figures = ", ".join(f"{word} {check[name]:{style}}" for name, word, style in names if name in check)
        row = (item.target.name, item.info.precision, item.path.name, f"{item.megabytes:.1f}")
        table.add_row(*row, figures or "none: nothing here runs it")
    Console().print(table)
