"""Any ultrasound files -> one memory-mapped pack of gray frames that a single core can feed to a training."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray
from rich.progress import Progress

from sonodistill import frames
from sonodistill.errors import EmptyInputError, SonoDistillError, UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill_training.corpus.labelled import INDEX as LABELS
from sonodistill_training.corpus.labelled import read_labelled

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
FRAMES, INDEX = "frames.bin", "frames.parquet"
SMALLEST_SIDE = 32


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that gave no frame, and why."""

    path: Path
    reason: str


class FramePack:
    """Frames of different sizes in one file: ``frames.bin`` (uint8, one after the other) and ``frames.parquet``.

    The index has a row a frame: source, frame, offset, height, width, source_height, source_width.
    ``pack[i]`` is a read-only (H, W) uint8 view, nothing is decoded or copied.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX
        if not index.is_file():
            raise EmptyInputError("not a frame pack", path=self.folder, remedy="build one with `sonodistill pack`")
        table = pq.read_table(index)
        header = table.schema.metadata or {}
        version = int(header.get(b"schema_version", b"0"))
        if version != SCHEMA_VERSION:
            raise UnreadableFileError(
                f"frame pack of version {version}; this release reads {SCHEMA_VERSION}",
                path=index,
                remedy="build the pack anew with `sonodistill pack`",
            )
        self.table = table
        self.sha256 = header[b"sha256"].decode()
        self.short_side = int(header[b"short_side"])
        self.sources_key = header[b"sources_key"].decode()
        self._offsets = table["offset"].to_numpy()
        self._shapes = np.stack([table["height"].to_numpy(), table["width"].to_numpy()], axis=1)
        expected = int(self._offsets[-1] + self._shapes[-1].prod())
        found = (self.folder / FRAMES).stat().st_size
        if found != expected:
            raise UnreadableFileError(
                f"{FRAMES} has {found} bytes where the index needs {expected}",
                path=self.folder,
                remedy="build the pack anew with `sonodistill pack`",
            )
        self._bytes = np.memmap(self.folder / FRAMES, dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        offset, (height, width) = self._offsets[index], self._shapes[index]
        return self._bytes[offset : offset + height * width].reshape(height, width)


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
) -> tuple[FramePack, list[Skipped]]:
    """Read every frame under ``sources`` once, shrink it and append it to the pack in ``out``.

    A pack built from the same unchanged files with the same ``short_side`` is used as it is. Files that cannot be
    read are skipped and returned with the reason; half of a broken cine is kept up to its first bad frame.

    Args:
        short_side: pixels of the shorter side after shrinking.
        on_file: called with (files done, files in all).

    Raises:
        EmptyInputError: not one frame could be read.
    """
    out = Path(out)
    files = find_sources(sources)
    key = _sources_key(files, short_side)
    if (out / INDEX).is_file():
        pack = FramePack(out)
        if pack.sources_key == key:
            return pack, _read_skipped(pack.table)
        logger.info("the sources of %s have changed: building it anew", out)
        (out / INDEX).unlink()
    rows: list[dict[str, object]] = []
    skipped: list[Skipped] = []
    digest, offset = hashlib.sha256(), 0
    with atomic_path(out / FRAMES) as temporary:
        with temporary.open("wb") as stream:
            for done, file in enumerate(files):
                try:
                    for frame in frames.read(file):
                        if min(frame.image.shape) < SMALLEST_SIDE:
                            raise UnreadableFileError(f"smaller than {SMALLEST_SIDE} pixels", path=file)
                        image = shrink(frame.image, short_side)
                        data = np.ascontiguousarray(image).tobytes()
                        stream.write(data)
                        digest.update(repr(image.shape).encode() + data)
                        rows.append(
                            {
                                "source": str(file),
                                "frame": frame.index,
                                "offset": offset,
                                "height": image.shape[0],
                                "width": image.shape[1],
                                "source_height": frame.image.shape[0],
                                "source_width": frame.image.shape[1],
                            }
                        )
                        offset += len(data)
                except SonoDistillError as error:
                    skipped.append(Skipped(file, error.message))
                if on_file:
                    on_file(done + 1, len(files))
        if not rows:
            raise EmptyInputError(
                f"none of {len(files)} files gave a frame; the first: {skipped[0].reason}",
                path=skipped[0].path,
                remedy="see `sonodistill frames info` on one of them",
            )
    header = {
        "schema_version": str(SCHEMA_VERSION),
        "sha256": digest.hexdigest(),
        "short_side": str(short_side),
        "sources_key": key,
        "skipped": json.dumps([[str(item.path), item.reason] for item in skipped]),
    }
    with atomic_path(out / INDEX) as temporary:
        pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(header), temporary)
    return FramePack(out), skipped


def open_corpus(sources: str | Path | Sequence[str | Path], out: str | Path, short_side: int = 256) -> FramePack:
    """The pack that ``sources`` already is, or the one in ``out``, built with a progress bar if need be.

    Safe under torchrun: one process builds, the others wait. Skipped files are logged as warnings.
    """
    listed = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if len(listed) == 1 and (Path(listed[0]) / INDEX).is_file():
        return FramePack(listed[0])
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"), Progress() as progress:
        task = progress.add_task("packing frames", total=None)
        pack, skipped = build_pack(
            listed, out, short_side=short_side, on_file=lambda n, total: progress.update(task, completed=n, total=total)
        )
    for item in skipped:
        logger.warning("skipped %s: %s", item.path, item.reason)
    logger.info("%d frames in %s", len(pack), out)
    return pack


def _sources_key(files: Sequence[Path], short_side: int) -> str:
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {short_side}".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_skipped(table: pa.Table) -> list[Skipped]:
    return [Skipped(Path(path), reason) for path, reason in json.loads(table.schema.metadata[b"skipped"])]
