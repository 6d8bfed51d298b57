"""The tables of a corpus: a row a frame in manifest.parquet, a row a source file in files.parquet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sonodistill.errors import UnreadableFileError
from sonodistill.files import atomic_path

SCHEMA_VERSION = 2
MANIFEST, FILES = "manifest.parquet", "files.parquet"

KEPT = "kept"
APART = "colour_doppler"
"""Stored beside the B-mode frames, but no part of the training."""
DUPLICATE, LEAK = "duplicate", "leak"

REASONS = {
    "corrupt": "it cannot be decoded",
    "blank": "it shows nothing",
    "not_ultrasound": "it is no ultrasound image",
    "m_mode": "it holds M-mode alone",
    "spectral": "it holds a spectrum alone",
    "too_small": "its sector is too small",
    "no_sector": "it has no insonified region",
    APART: "colour flow lies over the image",
    DUPLICATE: "another frame of the corpus shows the same",
    LEAK: "it shows a frame of an evaluation set",
}
"""What each status other than "kept" says of a frame."""

FRAME_COLUMNS = pa.schema(
    [
        ("id", pa.string()),  # keyed hash of the source, the cut and the frame
        ("dataset", pa.string()),  # registry key, the name given on the command line, or "local"
        ("source", pa.string()),  # keyed hash of the file's name
        ("source_sha256", pa.string()),  # of the file's bytes
        ("frame", pa.int32()),  # 0-based index in its source
        ("cut", pa.string()),  # how a volume was cut; empty for other sources
        ("time_ms", pa.float64()),  # since the first frame of the source; null = the source does not say
        ("row_mm", pa.float64()),  # height of a stored pixel; null = unknown
        ("column_mm", pa.float64()),  # width of a stored pixel
        ("calibration", pa.string()),  # where the source states it, or why it is unknown
        ("source_height", pa.int32()),
        ("source_width", pa.int32()),
        ("crop", pa.list_(pa.int32(), 4)),  # (top, left, bottom, right) of the stored frame in its source, half-open
        ("height", pa.int32()),  # of the stored frame
        ("width", pa.int32()),
        ("sector", pa.string()),  # linear, convex or phased; "slice" of a volume
        ("sector_source", pa.string()),
        ("sector_agreement", pa.float32()),  # IoU of the fitted outline with the measured foreground
        ("sector_outline", pa.list_(pa.float32())),  # x0, y0, x1, y1 ... in stored pixels
        ("sector_fraction", pa.float32()),  # share of the stored frame that lies inside
        ("overlay_fraction", pa.float32()),  # share of the sector that was drawn over
        ("group", pa.string()),  # keyed hash of patient, case or video: never divided between splits
        ("label", pa.string()),
        ("split", pa.string()),
        ("licence", pa.string()),
        ("status", pa.string()),  # "kept", "colour_doppler" (kept apart), or the reason why it is not in the corpus
        ("reason", pa.string()),  # in words, where status is not "kept"
        ("duplicate_of", pa.string()),  # id of the frame that stands for it, or of the evaluation frame it shows
        ("shard", pa.string()),  # file relative to the corpus folder; null where the frame is not stored
        ("row", pa.int32()),
        ("pixels_sha256", pa.string()),  # of the stored pixels
        ("hash", pa.binary(32)),  # perceptual hash
        ("appearance", pa.binary(256)),  # 16 x 16 int8
        ("windows", pa.binary()),  # signatures of its parts, of evaluation frames alone
        ("thumbnail", pa.binary()),  # PNG of at most 40 pixels, of refused frames: too small for text to be read
    ]
)

FILE_COLUMNS = pa.schema(
    [
        ("source", pa.string()),
        ("dataset", pa.string()),
        ("source_sha256", pa.string()),
        ("kind", pa.string()),  # image, dicom, video, volume
        ("bytes", pa.int64()),
        ("frames", pa.int32()),  # read
        ("kept", pa.int32()),
        ("redundant", pa.int32()),  # left out by thinning
        ("refused", pa.int32()),
        ("status", pa.string()),  # "read", or the reason why the whole file is refused
        ("reason", pa.string()),
    ]
)


_CONTENT = ("height", "width", "pixels_sha256")


def table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of that schema; absent values are null."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_table(path: Path, data: pa.Table, header: Mapping[str, str]) -> None:
    """Write a table atomically; the header goes into the file's metadata beside the schema's version."""
    meta = {"schema_version": str(SCHEMA_VERSION), **header}
    with atomic_path(path) as temporary:
        pq.write_table(data.replace_schema_metadata(meta), temporary, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a table that ``write_table`` wrote.

    Raises:
        UnreadableFileError: it is no such table, or one of another version.
    """
    try:
        found = pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise UnreadableFileError(f"is no corpus table ({error})", path=path, remedy="build the corpus again") from None
    version = (found.schema.metadata or {}).get(b"schema_version", b"?").decode()
    if version != str(SCHEMA_VERSION):
        raise UnreadableFileError(
            f"a table of version {version}; this release reads {SCHEMA_VERSION}",
            path=path,
            remedy="build the corpus again",
        )
    return found


def read_header(path: Path) -> dict[str, str]:
    """What ``write_table`` was given as header."""
    return {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items()}


def content_sha256(frames: pa.Table) -> str:
    """Of the kept frames' shapes and pixels, whatever their order, which follows the keyed names.

    (Which of several near-duplicates stays may follow from the names, too.)
    """
    digest = hashlib.sha256()
    kept = frames.filter(pc.equal(frames["status"], KEPT))
    for height, width, pixels in sorted(zip(*(kept[name].to_pylist() for name in _CONTENT), strict=True)):
        digest.update(f"{height} {width} {pixels}\n".encode())
    return digest.hexdigest()
