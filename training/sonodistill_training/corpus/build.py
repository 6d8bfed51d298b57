"""Any ultrasound -> a corpus: plan, read in parallel, then look at all frames together. Run again to go on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from sonodistill.errors import EmptyInputError, SonoDistillError
from sonodistill.files import write_text
from sonodistill_training.corpus import manifest
from sonodistill_training.corpus.batch import AUDIT, PARTS, SHARDS, Job, finished, read_parts
from sonodistill_training.corpus.cluster import connect, run
from sonodistill_training.corpus.contact import write_contact_sheet
from sonodistill_training.corpus.embedding import load_embedder
from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.finish import Rules, count, drop_duplicates, drop_leaks, give_splits
from sonodistill_training.corpus.licences import write_licences
from sonodistill_training.corpus.plan import Batch, deal, list_entries
from sonodistill_training.corpus.privacy import KeyedNames
from sonodistill_training.corpus.sandbox import Limits

SUMMARY, LICENCES, SPLITS = "summary.json", "LICENCES.md", "splits.json"
_OURS = re.compile(r"[0-9a-f]{32}(\.files)?\.(arrow|parquet)")
_BEGUN = re.compile(rf"\.{_OURS.pattern}\.\w+\.tmp")


class UnfinishedBuildError(SonoDistillError):
    """Some batches lost their workers again and again; what is done is kept for the next run."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a build was asked for.

    Attributes:
        sources: files, folders, and NAME=PATH, where NAME may be a key of the registry.
        out: the corpus folder.
        key: of the keyed names, see ``privacy``.
        evaluation: what the corpus must not overlap with, each NAME=PATH.
        group_by: "auto", "file" or "folder", see ``plan.list_entries``.
        scheduler: address of a Dask scheduler; None starts workers on this machine.
        workers: on this machine; None is one a core.
    """

    sources: Sequence[str]
    out: Path
    key: bytes = field(repr=False)
    extraction: Extraction = field(default_factory=Extraction)
    rules: Rules = field(default_factory=Rules)
    evaluation: Sequence[str] = ()
    group_by: str = "auto"
    scheduler: str | None = None
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the reading is."""

    files: int
    files_in_all: int
    frames: int = 0
    kept: int = 0
    refused: int = 0


def build(plan: Plan, on_progress: Callable[[Progress], None] | None = None) -> dict[str, Any]:
    """Build, or go on building, the corpus in ``plan.out``; returns its summary, as summary.json holds it.

    What is done stays done: a batch of files is read once for the same settings, and a build that was killed goes
    on with the next one. The same sources, settings and key give the same manifest, byte for byte.

    Raises:
        EmptyInputError: no frame is worth keeping.
        LeakageError: the corpus shows frames of an evaluation set, and ``rules.on_leak`` is "fail".
        UnfinishedBuildError: a batch lost its workers too often.
        SonoDistillError: another build works in the same folder.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.out / ".lock")
    try:
        with lock.acquire(timeout=0):
            return _build(plan, on_progress or (lambda _: None))
    except Timeout:
        raise SonoDistillError(
            "another build works in this folder", path=plan.out, remedy="wait for its end, or name another --out"
        ) from None


def _build(plan: Plan, on_progress: Callable[[Progress], None]) -> dict[str, Any]:
    for encoder in filter(None, (plan.extraction.encoder, plan.rules.embedding)):
        load_embedder(encoder)  # a wrong name is better told now than after hours of reading
    names, options = KeyedNames(plan.key), plan.extraction.to_json()
    entries = list_entries(plan.sources, names, by=plan.group_by)
    held_out = list_entries(plan.evaluation, names, by=plan.group_by, allow_evaluation=True)
    batches = list(deal(entries, options, "corpus"))
    signed = {**options, "windows": True}
    audits = list(deal(held_out, signed, "embedded" if plan.rules.embedding else "evaluation"))
    (plan.out / manifest.MANIFEST).unlink(missing_ok=True)  # until the end there is no corpus
    _read(plan, [(SHARDS, options, batches), (AUDIT if plan.rules.embedding else None, signed, audits)], on_progress)
    frames, files = read_parts(plan.out, batches)
    if plan.rules.duplicates:
        frames = drop_duplicates(frames)
    leaks = []
    if audits:
        frames, leaks = drop_leaks(frames, read_parts(plan.out, audits)[0], plan.rules, plan.out)
    counts = count(frames, "status")
    if not counts.get(manifest.KEPT):
        raise EmptyInputError(
            "not one frame is worth keeping: " + ", ".join(f"{n} {code}" for code, n in counts.items()),
            path=plan.out,
            remedy="see `sonodistill frames info` on one of the files",
        )
    frames = give_splits(frames, plan.rules, plan.out / SPLITS)
    summary = _summary(frames, files, plan, counts, len(leaks))
    header = {
        "sha256": summary["sha256"],
        "short_side": str(plan.extraction.short_side),
        "sources_key": summary["sources_key"],
        "options": json.dumps(options, sort_keys=True),
    }
    manifest.write_table(plan.out / manifest.FILES, files, header)
    write_licences(plan.out / LICENCES, frames)
    write_text(plan.out / SUMMARY, json.dumps(summary, indent=2, sort_keys=True) + "\n")
    manifest.write_table(plan.out / manifest.MANIFEST, frames, header)
    write_contact_sheet(plan.out)
    _prune(plan.out, batches if plan.rules.embedding else [*batches, *audits])
    return summary


def _read(
    plan: Plan,
    work: Sequence[tuple[str | None, dict[str, Any], list[Batch]]],
    on_progress: Callable[[Progress], None],
) -> None:
    """Do the batches that no earlier build has done.

    Args:
        work: the folder of the shards, the options, and the batches.
    """
    in_all = sum(len(batch.entries) for _, _, listed in work for batch in listed)
    lost: list[Batch] = []
    out = str(plan.out.resolve())
    jobs = [
        (
            Job(out, options, plan.key.hex(), folder),
            [batch for batch in listed if not finished(plan.out, batch, plan.limits)],
        )
        for folder, options, listed in work
    ]
    to_do = sum(len(batch.entries) for _, waiting in jobs for batch in waiting)
    progress = Progress(in_all - to_do, in_all)
    on_progress(progress)
    if not to_do:
        return
    with connect(plan.scheduler, plan.workers, plan.limits) as client:
        for job, waiting in jobs:
            for done in run(client, waiting, job, plan.limits):
                if isinstance(done, Batch):
                    lost.append(done)
                    continue
                progress = Progress(
                    progress.files + done.files,
                    in_all,
                    progress.frames + done.frames,
                    progress.kept + done.kept,
                    progress.refused + done.refused,
                )
                on_progress(progress)
    if lost:
        raise UnfinishedBuildError(
            f"{len(lost)} batches with {sum(len(batch.entries) for batch in lost)} files lost their workers again "
            "and again",
            path=plan.out,
            remedy="run the same command again; if it comes back, give the workers more memory",
        )


def _summary(frames: pa.Table, files: pa.Table, plan: Plan, counts: dict[str, int], leaks: int) -> dict[str, Any]:
    datasets = sorted(set(frames["dataset"].to_pylist()))
    return {
        "sha256": manifest.content_sha256(frames),
        "sources_key": KeyedNames(plan.key)("sources", *files["source"].to_pylist()),
        "files": files.num_rows,
        "files_refused": sum(status != "read" for status in files["status"].to_pylist()),
        "frames_read": sum(files["frames"].to_pylist()),
        "frames_redundant": sum(files["redundant"].to_pylist()),
        "frames": counts,
        "datasets": {name: count(frames.filter(pc.equal(frames["dataset"], name)), "status") for name in datasets},
        "splits": count(frames.filter(pc.equal(frames["status"], manifest.KEPT)), "split"),
        "leaks": leaks,
    }


def _prune(out: Path, batches: list[Batch]) -> None:
    """Remove the parts and shards of other batches (earlier settings', evaluation frames), and what processes that were
    killed had begun to write; nothing else."""
    keys = {batch.key for batch in batches}
    for folder in (PARTS, SHARDS, AUDIT):
        for path in (out / folder).glob("*"):
            ours, begun = _OURS.fullmatch(path.name), _BEGUN.fullmatch(path.name)
            if begun or (ours and path.name.split(".")[0] not in keys):
                path.unlink(missing_ok=True)
