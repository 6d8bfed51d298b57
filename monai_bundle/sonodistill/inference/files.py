"""Predict files and folders into a folder: masks or embeddings, an index, and a line that says how fast it was."""

from __future__ import annotations

import csv
import errno
import re
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress

from sonodistill import frames
from sonodistill.errors import EmptyInputError, SonoDistillError, UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill.frames import Frame
from sonodistill.inference.live.commands import REPORT
from sonodistill.inference.predictor import Prediction, Predictor
from sonodistill.transforms.masks import common_root, mask_path, write_mask

EMBEDDINGS = "embeddings.npz"
INDEX = "index.csv"
EXIT_SKIPPED = 2
MASK = "_mask.png"
_MAX_NAME = 64
_IS_MASK = re.compile(r"_\d{5,}(_[\w-]+)?_mask\.png$")
_ORIGIN = ["source", "frame", "time_ms"]
_COLUMNS = ["file", *_ORIGIN, "area_pixels", "area_mm2", "label"]
_SCORE = "unfamiliarity"
"""Last column of the index of a model that has a warning score."""
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}
"""Errors that are the disk's; others are of one file, whose name is too long for instance."""

Row = list[Any]


class OutputError(SonoDistillError):
    """The folder for the results cannot be used."""

    @classmethod
    def of(cls, error: Exception, out: Path) -> OutputError:
        """What kept the results from being written, by name."""
        said = getattr(error, "strerror", None) or f"{type(error).__name__}: {error!s:.200}"
        remedy = "free space, or name another folder" if isinstance(error, OSError) else None
        return cls(f"the results cannot be written ({said})", path=out, remedy=remedy)


def predict_files(predictor: Predictor, sources: Sequence[Path], out: Path) -> int:
    """Write what the model says of every frame; tell on stderr what was skipped, and how long it took.

    Segmenters: a PNG of 0 and 255 for each frame and label, ``<file>_<frame>_mask.png`` or, of several labels,
    ``<file>_<frame>_<label>_mask.png``. Encoders: ``embeddings.npz``, whose array "embeddings" (N, D) float32 has the
    rows of the index. All: ``index.csv``, written at the end.

    What the index of an earlier run lists is removed first, then that index: one never describes the results of
    another run. Results in ``out`` are not taken as input: of an ``out`` inside a source folder no file is, elsewhere
    no file that is named like a mask.

    Returns:
        The exit code: 2 when a file could not be read to its end or its masks not be written, else 0.

    Errors: OutputError (``out`` cannot be used, holds a live session or an index.csv of something else; the disk is
        full), EmptyInputError, UnreadableFileError (a source does not exist).
    """
    try:
        files = _inputs(sources, out)
        _clear(out)
        start = time.perf_counter()
        count, strange, skipped = _predict(predictor, files, common_root(list(sources)), out)
    except (OSError, UnicodeEncodeError) as error:
        raise OutputError.of(error, out) from error
    typer.echo(_summary(predictor, count, time.perf_counter() - start), err=True)
    if strange:
        said = f"warning: {strange} of {count} frames are unlike those that the model was made on"
        typer.echo(f"{said} ({_SCORE} above 1 in {INDEX})", err=True)
    if skipped:
        typer.echo(f"skipped {len(skipped)} of {len(files)} files:", err=True)
        for reason in skipped:
            typer.echo(f"  {reason}", err=True)
    return EXIT_SKIPPED if skipped else 0


def _predict(
    predictor: Predictor, files: Sequence[Path], root: Path, out: Path
) -> tuple[int, int, Collection[SonoDistillError]]:
    """The number of frames written, of those among them that the model warns of, and why files were skipped."""
    skipped: dict[Path, SonoDistillError] = {}
    unwritable: set[Path] = set()
    count = strange = 0
    scored = predictor.runtime.scored
    with ExitStack() as stack:
        index = stack.enter_context(atomic_path(out / INDEX))
        table = csv.writer(stack.enter_context(index.open("w", newline="", encoding="utf-8", errors="surrogateescape")))
        columns, rows = _WRITERS[predictor.kind](predictor, out, root, stack)
        table.writerow([*columns, _SCORE] if scored else columns)
        progress = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = progress.add_task("predicting", total=len(files))
        for prediction in predictor(_frames(files, skipped, unwritable, lambda: progress.advance(task))):
            file = prediction.frame.provenance.path
            if file in unwritable:
                continue
            try:
                found = rows(prediction)
            except OSError as error:
                if error.errno in _DISK:
                    raise
                unwritable.add(file)
                said = f"its masks cannot be written ({error.strerror})"
                skipped[file] = OutputError(said, path=file, remedy="give the file another name, or --out")
                continue
            score = [f"{prediction.unfamiliarity:.4g}"] if scored else []
            table.writerows([*row, *score] for row in found)
            count += 1
            strange += prediction.is_unfamiliar
    return count, strange, skipped.values()


def _frames(
    files: Sequence[Path],
    skipped: dict[Path, SonoDistillError],
    unwritable: Collection[Path],
    done: Callable[[], None],
) -> Iterator[Frame]:
    """The frames of all files; of one that is damaged, those before the damage."""
    for file in files:
        try:
            for frame in frames.read(file):
                if file in unwritable:
                    break
                yield frame
        except SonoDistillError as error:
            skipped.setdefault(file, error)
        except (OSError, UnicodeError) as error:
            skipped.setdefault(file, UnreadableFileError(f"the file cannot be read ({error})", path=file))
        done()


def _inputs(sources: Sequence[Path], out: Path) -> list[Path]:
    """The files of the sources without the results of earlier runs."""
    home, files = out.resolve(), []
    for source in sources:
        inside = source.resolve() in home.parents
        for file in frames.find_files(source):
            if home not in file.resolve().parents or not (inside or _IS_MASK.search(file.name)):
                files.append(file)
    if not files:
        raise EmptyInputError("the sources hold nothing but earlier results", path=out, remedy="name other sources")
    return files


def _clear(out: Path) -> None:
    """Remove what an earlier run's index lists, then the index."""
    if out.exists() and not out.is_dir():
        raise OutputError("this is a file, not a folder", path=out, remedy="name a folder with --out")
    home, index = out.resolve(), out / INDEX
    other = "name another folder with --out"
    if (out / REPORT).exists():
        raise OutputError("the folder holds a live session", path=out, remedy=other)
    if not index.exists():
        return
    try:
        with index.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.reader(file)
            columns = next(table, [])
            columns = columns[:-1] if columns[-1:] == [_SCORE] else columns
            if "latency_ms" in columns:
                raise OutputError("the folder holds a live session", path=out, remedy=other)
            if columns != _COLUMNS and columns[: len(_ORIGIN)] != _ORIGIN:
                raise OutputError("this index was not written by predict", path=index, remedy=other)
            if columns == _COLUMNS:
                for row in table:
                    _remove_mask(home, row[0] if row else "")
    except csv.Error as error:
        raise OutputError(f"this index cannot be read ({error})", path=index, remedy=other) from error
    if columns == _ORIGIN:
        (out / EMBEDDINGS).unlink(missing_ok=True)
    index.unlink()


def _remove_mask(home: Path, name: str) -> None:
    """Remove a mask that lies below ``home``; what an index may say besides, links and "..", is left alone."""
    path = home / name
    if "\0" in name or not _IS_MASK.search(name) or home not in path.parents:
        return
    if path.parent.resolve() == path.parent and path.is_file() and not path.is_symlink():
        path.unlink()


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

    return _COLUMNS, rows


def _classifier(
    predictor: Predictor, _: Path, __: Path, ___: ExitStack
) -> tuple[Row, Callable[[Prediction], list[Row]]]:
    def rows(prediction: Prediction) -> list[Row]:
        each = [f"{value:.6f}" for value in prediction.probabilities]
        return [[*_origin(prediction.frame), prediction.label, f"{prediction.probabilities.max():.6f}", *each]]

    each = [f"probability_{label}" for label in predictor.labels]
    return [*_ORIGIN, "class", "probability", *each], rows


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
    return _ORIGIN, rows


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
