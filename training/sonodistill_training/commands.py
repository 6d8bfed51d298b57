"""Command line of training: pack frames, distil, and the quick start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sonodistill_training.training_options import (
    BatchSize,
    Data,
    Epochs,
    LearningRate,
    Probe,
    Seed,
    Setting,
    Steps,
    train,
)


def pack(
    sources: Annotated[list[Path], typer.Argument(help="Ultrasound files or folders.")],
    out: Annotated[Path, typer.Option(help="Folder of the frame pack.")],
    short_side: Annotated[int, typer.Option(help="Pixels of the shorter side after shrinking.")] = 256,
) -> None:
    """Read any ultrasound files once into a pack of gray frames that training is fed from.

    Example: sonodistill pack clips/ volume.nrrd --out frames.pack
    """
    from rich.progress import Progress

    from sonodistill_training.corpus.pack import build_pack

    with Progress() as progress:
        task = progress.add_task("packing frames", total=None)
        built, skipped = build_pack(
            sources,
            out,
            short_side=short_side,
            on_file=lambda n, total: progress.update(task, completed=n, total=total),
        )
    typer.echo(f"{len(built)} frames in {out} (sha256 {built.sha256[:16]})")
    if skipped:
        typer.echo(f"skipped {len(skipped)} files:", err=True)
        for item in skipped:
            typer.echo(f"  {item.path}: {item.reason}", err=True)
        raise typer.Exit(2)


def distill(
    data: Data,
    out: Annotated[Path, typer.Option(help="Where the student, the log and the checkpoint go.")],
    recipe: Annotated[
        list[str], typer.Option(help="Overlay of the bundle's configs/recipes; repeatable, the last one wins.")
    ] = ["local"],  # noqa: B006 - Typer reads the default and never changes it
    student: Annotated[Optional[str], typer.Option(help="Any timm encoder.")] = None,  # noqa: UP045
    teacher: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Offline teacher, timm name, transformers id or weights file; repeat for several."),
    ] = None,
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    input_size: Annotated[Optional[int], typer.Option(help="Pixels; a multiple of the teacher's patch.")] = None,  # noqa: UP045
    learning_rate: LearningRate = None,
    seed: Seed = None,
    probe: Probe = None,
    setting: Setting = [],  # noqa: B006
) -> None:
    """Distil a vision transformer into a small encoder on unlabelled frames; run it again to go on.

    The same code and config as `python -m monai.bundle run training` with distill.yaml, where every setting is. What is
    not given is what the recipes say. Exit code 130 after Ctrl-C and 143 after SIGTERM: saved, and to be gone on with.

    Example: sonodistill distill clips/ --student resnet18 --epochs 50 --out runs/r18 --set clip=3.0

    The paper's: sonodistill distill corpus/ --recipe paper --recipe us_mixup --out runs/paper
    """
    from sonodistill_training.workflow import recipe_files

    given = {
        "student_name": student,
        "teacher_name": teacher[0] if teacher and len(teacher) == 1 else teacher,
        "max_epochs": epochs,
        "max_steps": steps,
        "batch_size": batch_size,
        "input_size": input_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "probe_dir": probe,
    }
    train(["distill.yaml", *recipe_files(recipe)], data, out, given, setting)
    typer.echo(f"student: {out / 'student.safetensors'}")


def curves(
    runs: Annotated[list[Path], typer.Argument(help="Output folders of trainings.")],
    out: Annotated[Path, typer.Option(help="Picture: .svg, .png or .pdf.")] = Path("curves.svg"),
) -> None:
    """Draw what trainings have logged so far, a line for each: loss, RankMe and probes by step.

    Example: sonodistill curves runs/us_mixup runs/us --out curves.svg
    """
    from sonodistill_training.report.curves import draw_curves

    typer.echo(f"{', '.join(draw_curves(runs, out))}: {out}")


def quickstart(
    out: Annotated[Path, typer.Option(help="Folder for everything the quick start makes.")] = Path("quickstart"),
    teacher: Annotated[
        str, typer.Option(help="Offline teacher, timm name, transformers id or weights file.")
    ] = "dinov2_vits14",
    student: Annotated[str, typer.Option(help="Any timm encoder.")] = "resnet18",
    minutes: Annotated[float, typer.Option(help="How long the distillation may take.")] = 2.0,
    epochs: Annotated[int, typer.Option(help="Epochs of the segmenter.")] = 6,
) -> None:
    """The whole road on real ultrasound in minutes: distil, fine-tune, segment a cine, and a report to look at.

    Reads the ultrasound that pydicom ships; needs a package index once (for the teacher) and nothing else. After
    Ctrl-C, the same command goes on.

    Example: sonodistill quickstart --out quickstart
    """
    from sonodistill_training.quickstart.run import Options, QuickStart

    options = Options(teacher=teacher, student=student, minutes=minutes, epochs=epochs)
    QuickStart(out, options, say=lambda text: typer.secho(f"» {text}", bold=True)).run()
