"""The quick way to a corpus: every frame of any ultrasound files, shrunk and stored as it is, without screening."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import Progress

from sonodistill import frames
from sonodistill.errors import DatasetError, EmptyInputError, SonoDistillError, UnreadableFileError
from sonodistill.frames import Frame
from sonodistill_training.corpus.labelled import INDEX as LABELS
from sonodistill_training.corpus.labelled import read_labelled
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, KEPT, MANIFEST, SCHEMA_VERSION, table, write_table
from sonodistill_training.corpus.shards import FIRST_VERSION, SHARDS, Corpus, ShardWriter

logger = logging.getLogger(__name__)

SHARD = f"{SHARDS}/frames.arrow"
SMALLEST_SIDE = 32


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that gave no frame, and why."""

    path: Path
    reason: str


def shrink(image: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """(H, W) uint8 reduced by area averaging so that its shorter side is ``short_side``; never enlarged."""
    height, width = image.shape
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def find_sources(sources: Iterable[str | Path]) -> list[Path]:
    """Every readable file under the given files and folders, sorted within each.

    A folder with an ``index.csv`` gives the images that it names, and not the masks that lie beside them.

    Raises:
        EmptyInputError: a path does not exist, or a folder has no readable file.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        if (source / LABELS).is_file():
            found += [frame.image for frame in read_labelled(source)]
        else:
            found += frames.find_files(source)
    return found


def build_pack(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    short_side: int = 256,
    on_file: Callable[[int, int], None] | None = None,
) -> tuple[Corpus, list[Skipped]]:
    """Read every frame under ``sources`` once, shrink it and append it to the pack in ``out``.

    A pack built from the same unchanged files with the same ``short_side`` is used as it is. Files that cannot be
    read are skipped and returned with the reason; half of a broken cine is kept up to its first bad frame.

    Args:
        short_side: pixels of the shorter side after shrinking.
        on_file: called with (files done, files in all).

    Raises:
        EmptyInputError: not one frame could be read.
        DatasetError: ``out`` holds a corpus that was built another way.
    """
    out = Path(out)
    files = find_sources(sources)
    key = _sources_key(files, short_side)
    if (out / MANIFEST).is_file():
        corpus = Corpus(out)
        if "sources_key" not in corpus.header:
            raise DatasetError("holds a corpus that is no pack", path=out, remedy="name another --out folder")
        if corpus.header["sources_key"] == key:
            return corpus, _stored_skipped(corpus.header["skipped"], files)
        logger.info("the sources of %s have changed: building it anew", out)
        (out / MANIFEST).unlink()
    rows: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    digest = hashlib.sha256()
    with ShardWriter(out / SHARD) as shard:
        for done, file in enumerate(files, 1):
            try:
                for frame in frames.read(file):
                    rows.append(_append(shard, file, frame, short_side, digest))
                    shard.mark()
            except SonoDistillError as error:
                skipped.append(Skipped(file, error.message))
            if on_file:
                on_file(done, len(files))
        if not rows:
            raise EmptyInputError(
                f"none of {len(files)} files gave a frame; the first: {skipped[0].reason}",
                path=skipped[0].path,
                remedy="see `sonodistill frames info` on one of them",
            )
    header = {
        "sha256": digest.hexdigest(),
        "short_side": str(short_side),
        "sources_key": key,
        "skipped": json.dumps([[source_name(item.path), item.reason] for item in skipped]),
    }
    write_table(out / MANIFEST, table(rows, FRAME_COLUMNS), header)
    for name in FIRST_VERSION:  # of the pack that this one replaces
        (out / name).unlink(missing_ok=True)
    return Corpus(out), skipped


def source_name(file: Path) -> str:
    """16 hex digits for a file's full path. Whoever can guess the path can check the guess; nobody reads it."""
    return hashlib.sha256(str(file.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _append(shard: ShardWriter, file: Path, frame: Frame, short_side: int, digest: hashlib._Hash) -> dict[str, Any]:
    """Store a frame; returns its row of the manifest."""
    if min(frame.image.shape) < SMALLEST_SIDE:
        raise UnreadableFileError(f"smaller than {SMALLEST_SIDE} pixels", path=file)
    image = shrink(frame.image, short_side)
    digest.update(repr(image.shape).encode() + image.tobytes())
    source = source_name(file)
    return {
        "id": f"{source}-{frame.index}",
        "dataset": "local",
        "source": source,
        "frame": frame.index,
        "time_ms": frame.time_ms,
        "height": image.shape[0],
        "width": image.shape[1],
        "source_height": frame.image.shape[0],
        "source_width": frame.image.shape[1],
        "status": KEPT,
        "shard": SHARD,
        "row": shard.append(image),
    }


def open_corpus(
    sources: str | Path | Sequence[str | Path], out: str | Path, short_side: int = 256, split: str | None = "train"
) -> Corpus:
    """The corpus that ``sources`` already is, or the pack in ``out``, built with a progress bar if need be.

    Safe under torchrun: one process builds, the others wait. Skipped files are logged as warnings.

    Args:
        split: of a corpus whose frames have splits, only these are used; None uses all.
    """
    listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if len(listed) == 1 and is_corpus(listed[0]):
        whole = Corpus(listed[0])
        return Corpus(listed[0], split=split) if split and split in whole.column("split") else whole
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"), Progress() as progress:
        task = progress.add_task("packing frames", total=None)
        corpus, skipped = build_pack(
            listed, out, short_side=short_side, on_file=lambda n, total: progress.update(task, completed=n, total=total)
        )
    for item in skipped:
        logger.warning("skipped %s: %s", item.path, item.reason)
    logger.info("%d frames in %s", len(corpus), out)
    return corpus


def _sources_key(files: Sequence[Path], short_side: int) -> str:
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {short_side}".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def is_corpus(source: str | Path) -> bool:
    """Whether frames are read from it as they are: a URI, or a folder with a manifest (also one of an old release)."""
    return "://" in str(source) or any((Path(source) / name).is_file() for name in (MANIFEST, FIRST_VERSION[0]))


def _stored_skipped(stored: str, files: Sequence[Path]) -> list[Skipped]:
    names = {source_name(file): file for file in files}
    return [Skipped(names[name], reason) for name, reason in json.loads(stored)]
