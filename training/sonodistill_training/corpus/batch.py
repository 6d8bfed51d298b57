"""One batch of files -> a shard and its part of the manifest. Runs in a worker, which supervises a decoding child."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sonodistill_training.corpus import manifest
from sonodistill_training.corpus.plan import Batch, Entry
from sonodistill_training.corpus.sandbox import ChildDiedError, Limits, Sandbox
from sonodistill_training.corpus.shards import ShardWriter

PARTS, SHARDS, AUDIT = "parts", "shards", "audit"
_FILES = ".files.parquet"
_DIED_WITHIN = "died_within"
_SIGNATURE = ("hash", "appearance", "windows")
# Of the answer to a frame, what is no column of the manifest.
_NOT_COLUMNS = ("kind", "sizes")


@dataclass(frozen=True, slots=True)
class Job:
    """What every task of a build is told. Its representation shows neither the key nor a path.

    Attributes:
        out: the corpus folder.
        options: ``Extraction.to_json()``.
        key: of ``KeyedNames``, in hex.
        folder: where in ``out`` the shards go; None keeps no pixels, where only signatures are needed.
    """

    out: str = field(repr=False)
    options: dict[str, Any]
    key: str = field(repr=False)
    folder: str | None = SHARDS


@dataclass(frozen=True, slots=True)
class Done:
    """What a task tells the client: the numbers of its progress bar."""

    key: str
    files: int
    frames: int
    kept: int
    refused: int


def part_path(out: str | Path, key: str) -> Path:
    """Where a batch's part of the manifest is; it is written last, so that its presence says the batch is done."""
    return Path(out) / PARTS / f"{key}.parquet"


def files_path(out: str | Path, key: str) -> Path:
    """Where a batch's part of the table of files is."""
    return Path(out) / PARTS / f"{key}{_FILES}"


def finished(out: str | Path, batch: Batch, limits: Limits) -> bool:
    """Whether an earlier build, perhaps one that was killed, has done this batch to its end.

    A batch in which a decoder died is done for those limits alone: with others it may live.
    """
    part = part_path(out, batch.key)
    return part.is_file() and manifest.read_header(part).get(_DIED_WITHIN) in (None, repr(limits))


def process(batch: Batch, job: Job, sandbox: Sandbox) -> Done:
    """Read every file of the batch; a file that kills the child is refused, and the batch goes on."""
    out = Path(job.out)
    rows: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    died = False
    if job.folder is None:
        for entry in batch.entries:
            died |= _read(entry, job, sandbox, None, "", rows, files)
    else:
        shard = f"{job.folder}/{batch.key}.arrow"
        with ShardWriter(out / shard) as writer:
            for entry in batch.entries:
                died |= _read(entry, job, sandbox, writer, shard, rows, files)
                writer.mark()
            stored = len(writer)
        if not stored:
            (out / shard).unlink()
    header = {_DIED_WITHIN: repr(sandbox.limits)} if died else {}
    manifest.write_table(files_path(out, batch.key), manifest.table(files, manifest.FILE_COLUMNS), {})
    manifest.write_table(part_path(out, batch.key), manifest.table(rows, manifest.FRAME_COLUMNS), header)
    frames, kept = (sum(file[column] for file in files) for column in ("frames", "kept"))
    refused = sum(max(file["refused"], file["status"] != "read") for file in files)
    return Done(batch.key, len(files), frames, kept, refused)


def _read(
    entry: Entry,
    job: Job,
    sandbox: Sandbox,
    writer: ShardWriter | None,
    shard: str,
    rows: list[dict[str, Any]],
    files: list[dict[str, Any]],
) -> bool:
    """Add the rows of one file, all of them or, when its child died, none; whether it died."""
    known = {
        "dataset": entry.dataset,
        "source": entry.source,
        "group": entry.group,
        "label": entry.label,
        "split": entry.split,
        "licence": entry.licence,
    }
    try:
        try:
            found, report = _ask(entry, job, sandbox, writer, shard)
        except ChildDiedError:
            # Of what earlier files left in it, perhaps, or killed from outside: the verdict is that of a fresh child.
            found, report = _ask(entry, job, sandbox, writer, shard)
        died = False
    except ChildDiedError as error:
        found, report, died = [], {"status": "corrupt", "reason": error.message}, True
    mine = [{**known, **row} for row in found]
    counts = {name: int(report.get(name, 0)) for name in ("frames", "kept", "redundant", "refused")}
    if report["status"] != "read" and not mine:
        mine = [{**known, "frame": None, "cut": "", "status": report["status"], "reason": report["reason"]}]
    group = entry.group or report.get("patient") or entry.source
    for row in mine:
        row["group"] = group
        row["source_sha256"] = report.get("source_sha256")
        row["id"] = _identifier(entry.source, row["cut"], row["frame"])
    rows += mine
    files.append(
        {
            "source": entry.source,
            "dataset": entry.dataset,
            "source_sha256": report.get("source_sha256"),
            "kind": report.get("source_kind"),
            "bytes": report.get("bytes"),
            "status": report["status"],
            "reason": report["reason"],
            **counts,
        }
    )
    return died


def _ask(
    entry: Entry, job: Job, sandbox: Sandbox, writer: ShardWriter | None, shard: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of one file and what is said of the file; nothing stays in the shard when its child dies."""
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] | None = None
    arguments = {"axis": entry.axis, "only": list(entry.only), "mm_per_pixel": entry.mm_per_pixel}
    try:
        for header, payload in sandbox.run({"file": entry.path, "options": job.options, "key": job.key, **arguments}):
            if header["kind"] == "file":
                report = header
            elif header["kind"] == "refused":
                rows.append({**_columns(header), "thumbnail": payload})
            elif header["kind"] == "frame":
                rows.append({**_columns(header), **_store(header, payload, writer, shard)})
        if report is None:
            raise ChildDiedError("its decoder did not say how it went")
    except ChildDiedError:
        if writer is not None:
            writer.rollback()
        raise
    return rows, report


def _columns(header: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in header.items() if name not in _NOT_COLUMNS}


def _store(header: dict[str, Any], payload: bytes, writer: ShardWriter | None, shard: str) -> dict[str, Any]:
    """Put the pixels into the shard; where they are, and the signature."""
    parts, start = [], 0
    for size in header["sizes"]:
        parts.append(payload[start : start + size])
        start += size
    pixels, drawn, *signature = parts
    found: dict[str, Any] = {name: part or None for name, part in zip(_SIGNATURE, signature, strict=True)}
    if writer is not None:
        shape = header["height"], header["width"]
        bits = np.unpackbits(np.frombuffer(drawn, np.uint8), count=shape[0] * shape[1]) if drawn else None
        overlay = None if bits is None else bits.reshape(shape).astype(bool)
        found["row"] = writer.append(np.frombuffer(pixels, np.uint8).reshape(shape), overlay)
        found["shard"] = shard
    return found


def _identifier(source: str, cut: str, frame: int | None) -> str:
    """Of a frame, from the keyed name of its source."""
    return hashlib.sha256(f"{source} {cut} {frame}".encode()).hexdigest()[:20]


def read_parts(out: str | Path, batches: list[Batch]) -> tuple[pa.Table, pa.Table]:
    """The frames and files of all batches, in their order."""
    frames = [manifest.read_table(part_path(out, batch.key)) for batch in batches]
    files = [manifest.read_table(files_path(out, batch.key)) for batch in batches]
    return pa.concat_tables(frames), pa.concat_tables(files)
