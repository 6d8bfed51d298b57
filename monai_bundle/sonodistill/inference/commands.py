"""Command line of inference with an exported model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="Exported segmenter (.onnx).")],
    sources: Annotated[list[Path], typer.Argument(help="Ultrasound files or folders.")],
    out: Annotated[Path, typer.Option(help="Folder for one mask PNG a frame and index.csv.")],
    threshold: Annotated[float, typer.Option(help="Foreground is a probability above it.")] = 0.5,
    size: Annotated[int, typer.Option(help="Input size where the model leaves it open.")] = 256,
) -> None:
    """Segment every frame of any ultrasound files with an exported model; needs no torch.

    Example: sonodistill predict model.onnx clip.dcm --out masks
    """
    import csv

    from rich.progress import Progress

    from sonodistill import frames
    from sonodistill.errors import SonoDistillError
    from sonodistill.files import atomic_path
    from sonodistill.inference.predictor import Predictor
    from sonodistill.transforms.masks import common_root, mask_path, write_mask

    predictor = Predictor(model, threshold=threshold, size=(size, size))
    files = [file for source in sources for file in frames.find_files(source)]
    root = common_root(sources)
    skipped: list[SonoDistillError] = []
    with atomic_path(out / "index.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(["file", "source", "frame", "time_ms", "area_pixels", "area_mm2"])
        with Progress() as progress:
            for file in progress.track(files, description="segmenting"):
                try:
                    for prediction in predictor(frames.read(file)):
                        frame = prediction.frame
                        path = mask_path(out, file, frame.index, root)
                        write_mask(path, prediction.mask.astype("uint8"))
                        pixels = int(prediction.mask.sum())
                        spacing = frame.mm_per_pixel
                        area = "" if spacing is None else round(pixels * spacing[0] * spacing[1], 3)
                        rows.writerow([path.relative_to(out), file, frame.index, frame.time_ms, pixels, area])
                except SonoDistillError as error:
                    skipped.append(error)
    if skipped:
        typer.echo(f"skipped {len(skipped)} of {len(files)} files:", err=True)
        for reason in skipped:
            typer.echo(f"  {reason}", err=True)
        raise typer.Exit(2)
