"""Predict files and folders into a folder: masks or embeddings, an index, and a line that says how fast it was."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from sonodistill import frames
from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path
from sonodistill.frames import Frame
from sonodistill.inference.predictor import Prediction, Predictor
from sonodistill.transforms.masks import common_root, mask_path, write_mask

EMBEDDINGS = "embeddings.npz"
INDEX = "index.csv"
EXIT_SKIPPED = 2
MASK = "_mask.png"
_MAX_NAME = 64

Row = list[Any]


def predict_files(predictor: Predictor, sources: Sequence[Path], out: Path) -> int:
    """Write what the model says of every frame; tell on stderr what was skipped, and how long it took.

    Segmenters: a PNG of 0 and 255 for each frame and label, ``<file>_<frame>_mask.png`` or, of several labels,
    ``<file>_<frame>_<label>_mask.png``. Encoders: ``embeddings.npz``, whose array "embeddings" (N, D) float32 has the
    rows of the index. All: ``index.csv``.

    Returns:
        The exit code: 2 when a file could not be read to its end, else 0.
    """
    files = [file for source in sources for file in frames.find_files(source)]
    root = common_root(list(sources))
    skipped: list[SonoDistillError] = []
    start, count = time.perf_counter(), 0
    with ExitStack() as stack:
        index = stack.enter_context(atomic_path(out / INDEX))
        table = csv.writer(stack.enter_context(index.open("w", newline="", encoding="utf-8")))
        columns, rows = _WRITERS[predictor.kind](predictor, out, root, stack)
        table.writerow(columns)
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = progress.add_task("predicting", total=len(files))
        for prediction in predictor(_frames(files, skipped, lambda: progress.advance(task))):
            table.writerows(rows(prediction))
            count += 1
    typer.echo(_summary(predictor, count, time.perf_counter() - start), err=True)
    if skipped:
        typer.echo(f"skipped {len(skipped)} of {len(files)} files:", err=True)
        for reason in skipped:
            typer.echo(f"  {reason}", err=True)
    return EXIT_SKIPPED if skipped else 0


def _frames(files: Sequence[Path], skipped: list[SonoDistillError], done: Callable[[], None]) -> Iterator[Frame]:
    """The frames of all files; of one that is damaged, those before the damage."""
    for file in files:
        try:
            yield from frames.read(file)
        except SonoDistillError as error:
            skipped.append(error)
        done()


def _segmenter(
    predictor: Predictor, out: Path, root: Path, _: ExitStack
) -> tuple[Row, Callable[[Prediction], list[Row]]]:
    names = mask_endings(predictor.labels)

    def rows(prediction: Prediction) -> list[Row]:
        frame = prediction.frame
        plain = mask_path(out, frame.provenance.path, frame.index, root)
        found = []
        for mask, name, label in zip(prediction.masks, names, prediction.labels, strict=True):
            path = plain.with_name(plain.name.removesuffix(MASK) + name)
            write_mask(path, mask.astype(np.uint8))
            pixels = int(np.count_nonzero(mask))
            spacing = frame.mm_per_pixel
            area = "" if spacing is None else round(pixels * spacing[0] * spacing[1], 3)
            found.append([path.relative_to(out), *_origin(frame), pixels, area, label])
        return found

    return ["file", "source", "frame", "time_ms", "area_pixels", "area_mm2", "label"], rows


def _classifier(
    predictor: Predictor, _: Path, __: Path, ___: ExitStack
) -> tuple[Row, Callable[[Prediction], list[Row]]]:
    def rows(prediction: Prediction) -> list[Row]:
        each = [f"{value:.6f}" for value in prediction.probabilities]
        return [[*_origin(prediction.frame), prediction.label, f"{prediction.probabilities.max():.6f}", *each]]

    each = [f"probability_{label}" for label in predictor.labels]
    return ["source", "frame", "time_ms", "class", "probability", *each], rows


def _encoder(_: Predictor, out: Path, __: Path, stack: ExitStack) -> tuple[Row, Callable[[Prediction], list[Row]]]:
    # Behind a file, so that any number of frames fits into memory.
    vectors = stack.enter_context(TemporaryFile())  # noqa: SIM115 (the stack closes it)
    width = 0

    def rows(prediction: Prediction) -> list[Row]:
        nonlocal width
        width = len(prediction.embedding)
        vectors.write(prediction.embedding.tobytes())
        return [_origin(prediction.frame)]

    def save(failure: type[BaseException] | None, *_: Any) -> None:
        if failure is None:
            with atomic_path(out / EMBEDDINGS) as temporary, temporary.open("wb") as file:
                np.savez(file, embeddings=_mapped(vectors, width))

    stack.push(save)
    return ["source", "frame", "time_ms"], rows


_WRITERS = {"segmenter": _segmenter, "classifier": _classifier, "encoder": _encoder}


def _mapped(file: IO[bytes], width: int) -> np.ndarray:
    file.flush()
    if not width:
        return np.zeros((0, 0), np.float32)
    return np.memmap(file, np.float32, "r").reshape(-1, width)


def _origin(frame: Frame) -> Row:
    return [frame.provenance.path, frame.index, frame.time_ms]


def mask_endings(labels: Sequence[str]) -> list[str]:
    """Ends of the mask files; labels come from the model's file, so that of theirs only letters and digits are kept."""
    if len(labels) == 1:
        return [MASK]
    names = [re.sub(r"[^\w-]+", "_", label)[:_MAX_NAME] for label in labels]
    if len({name.lower() for name in names}) < len(names):
        names = [f"{number}_{name}" for number, name in enumerate(names)]
    return [f"_{name}{MASK}" for name in names]


def _summary(predictor: Predictor, count: int, seconds: float) -> str:
    runtime = predictor.runtime
    said = f"{count} frames in {seconds:.2f} s, {count / seconds:.1f} frames/s, by {runtime.name} ({runtime.precision})"
    if not predictor.inference_ms:
        return said
    p50, p95 = np.percentile(predictor.inference_ms, [50, 95])
    each = f"a batch of {predictor.batch_size}" if predictor.batch_size > 1 else "a frame"
    return f"{said}; inference p50 {p50:.1f} ms, p95 {p95:.1f} ms {each}"
