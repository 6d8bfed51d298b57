"""Before a training starts: its corpus shows no frame of the sets that its student will be evaluated on."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from sonodistill import __version__, frames
from sonodistill.errors import SonoDistillError
from sonodistill.files import sha256, write_text
from sonodistill_training.corpus.clip import Clip
from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.labelled import INDEX, LabelledFrame, read_labelled
from sonodistill_training.corpus.leakage import LEAK_COSINE, LEAK_HASH, WINDOWS, Leak, audit, windows
from sonodistill_training.corpus.pack import shrink
from sonodistill_training.corpus.plan import LOCAL
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.corpus.signatures import APPEARANCE_SIZE, HASH_BYTES, Signature, signatures

logger = logging.getLogger(__name__)

SHOWN = 5
"""Pairs that an error lists."""

_RULES = f"{__version__} {LEAK_HASH} {LEAK_COSINE} {WINDOWS}"  # another release may see a sector elsewhere
_AT_ONCE = 256  # frames of a corpus


class EvaluationLeakError(SonoDistillError):
    """The corpus of a training holds, or shows, frames of a set that the student is to be evaluated on.

    Args:
        evaluation: name of the set.
        found: what was found, in words.
        examples: frames of the corpus by id, and what they show; no path of either.
        corpus: where it lies.
    """

    def __init__(self, evaluation: str, found: str, examples: Sequence[str], corpus: str) -> None:
        self.evaluation, self.examples = evaluation, list(examples)
        more = ["..."] if len(self.examples) > SHOWN else []
        super().__init__(
            f"{found}: {'; '.join([*self.examples[:SHOWN], *more])}",
            path=corpus,
            remedy=f"leave {evaluation} out of its sources and build it with `sonodistill corpus build ... "
            f"--evaluation {evaluation}=PATH --on-leak drop`, or do not evaluate on this set",
        )


def require_no_leak(corpus: Corpus, evaluation: Sequence[str | Path], cache: str | Path | None = None) -> None:
    """Compare a corpus with every evaluation set: by the names of its data sets, then by what its frames show.

    Frames are compared as the audit of ``corpus build`` compares them (``leakage.audit``: whole frames and windows of
    the evaluation frames, upright and mirrored), each evaluation frame both as a pack stores it and as that corpus'
    build would have: cropped to its sector and cleaned. Frames of a pack are as their files are: a copy that was
    cropped more than the evaluation frame is found, one that shows much more around it is not.

    A corpus does not say what it was audited against, so it is compared again, once: a pair without leak is noted in
    the cache. Only one process of several is to call this.

    Args:
        evaluation: folders of labelled frames, as ``read_labelled`` takes them.
        cache: a JSON file of what was found to be without leak; None keeps nothing.

    Raises:
        EvaluationLeakError: of the first set that the corpus overlaps with.
        DatasetError, UnreadableFileError: a folder is no labelled set, or names an image that cannot be read.
    """
    folders = [Path(folder) for folder in evaluation]
    for folder in folders:
        _require_other_names(corpus, folder)
    sound = _Sound(cache)
    signed: Signature | None = None
    with Progress(transient=True) as progress:
        for folder in folders:
            labelled = read_labelled(folder)
            key = _key(corpus, labelled)
            if key in sound:
                logger.info("the corpus was compared with %s before", _name(folder))
                continue
            signed = signed or _signatures_of(corpus, progress)
            _require_other_frames(corpus, signed, folder, labelled, progress)
            sound.add(key)


def _require_other_names(corpus: Corpus, folder: Path) -> None:
    """No data set of the corpus is called as the folder is, or as its index says."""
    called = _names(folder)
    codes, names = corpus.datasets
    same = [code for code, name in enumerate(names) if name.casefold() in called]
    rows = np.flatnonzero(np.isin(codes, same))
    if not len(rows):
        return
    found = Counter(names[code] for code in codes[rows].tolist())
    counts = ", ".join(f"{count:,} frames of {name}" for name, count in sorted(found.items()))
    ids = corpus.column("id")
    message = f"the corpus holds {counts}, a set to evaluate on"
    some = [str(ids[row]) for row in rows[: SHOWN + 1].tolist()]
    raise EvaluationLeakError(sorted(found)[0], message, some, corpus.location)


def _names(folder: Path) -> set[str]:
    """What the set may be called in a corpus, in lower case; sources without a name are all called the same there."""
    read_labelled(folder)  # says what is wrong with it
    with (folder / INDEX).open(newline="", encoding="utf-8") as file:
        names = {row.get("dataset") or "" for row in csv.DictReader(file)}
    return {name.casefold() for name in (*names, _name(folder))} - {"", LOCAL}


def _name(folder: Path) -> str:
    return folder.resolve().name


def _require_other_frames(
    corpus: Corpus, signed: Signature, folder: Path, labelled: Sequence[LabelledFrame], progress: Progress
) -> None:
    name = _name(folder)
    whole, parts, row_of = _sign(corpus, labelled, f"reading {name}", progress)
    task = progress.add_task(f"comparing with {name}", total=None)
    leaks = audit(*signed, {name: whole}, parts={name: parts})
    progress.remove_task(task)
    if not leaks:
        return
    # An evaluation frame has several forms: the closest of what a pair of frames has in common.
    closest: dict[tuple[int, int], Leak] = {}
    for leak in sorted(leaks, key=lambda leak: -leak.cosine):
        closest.setdefault((leak.corpus_row, row_of[leak.evaluation_row]), leak)
    ids, (codes, set_names) = corpus.column("id"), corpus.datasets
    pairs = [
        f"{ids[row]} shows row {shown + 1} of {INDEX}" + (" mirrored" if leak.mirrored else "")
        for (row, shown), leak in sorted(closest.items())
    ]
    rows = {row for row, _ in closest}
    of = Counter(set_names[codes[row]] for row in rows)
    counts = ", ".join(f"{count:,} of {source}" for source, count in sorted(of.items()))
    shown = len({other for _, other in closest})
    message = f"{len(rows):,} frames of the corpus ({counts}) show {shown:,} frames of {name}"
    raise EvaluationLeakError(name, message, pairs, corpus.location)


def _sign(
    corpus: Corpus, labelled: Sequence[LabelledFrame], description: str, progress: Progress
) -> tuple[Signature, Signature, list[int]]:
    """The signatures of every form of the labelled frames, those of their windows, and each form's row of the index."""
    options = json.loads(corpus.header.get("options", "{}"))
    extraction = Extraction.from_json(options) if options else Extraction(short_side=corpus.short_side)
    whole, parts, row_of = [], [], []
    for row, frame in enumerate(progress.track(labelled, description=description)):
        for form in _forms(frame.image, replace(extraction, encoder="", windows=False)):
            whole.append(signatures([form]))
            parts.append(windows([form]))
            row_of.append(row)
    return _joined(whole), _joined(parts), row_of


def _forms(path: Path, extraction: Extraction) -> Iterator[NDArray[np.uint8]]:
    """The frame as a pack stores it, and as a build does; a build may refuse it."""
    for frame in frames.read(path):
        yield shrink(frame.image, extraction.short_side)
    for header, payload in Clip(path, "", extraction, (), None).answers():
        if header["kind"] == "frame":
            shape = header["height"], header["width"]
            yield np.frombuffer(payload[: header["sizes"][0]], np.uint8).reshape(shape)


def _signatures_of(corpus: Corpus, progress: Progress) -> Signature:
    """Those that the manifest holds; the frames of a pack are signed here."""
    hashes, appearances = corpus.column("hash"), corpus.column("appearance")
    missing = [row for row, stored in enumerate(hashes) if stored is None]
    missing.sort(key=corpus.blocks.item)  # a block of a stream is fetched once
    starts = range(0, len(missing), _AT_ONCE)
    for start in progress.track(starts, description="reading the corpus") if missing else ():
        rows = missing[start : start + _AT_ONCE]
        made = signatures(corpus.take(rows))
        for place, row in enumerate(rows):
            hashes[row], appearances[row] = made.hash[place].tobytes(), made.appearance[place].tobytes()
    return Signature(
        np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES),
        np.frombuffer(b"".join(appearances), np.int8).reshape(-1, APPEARANCE_SIZE),
    )


def _joined(of: Sequence[Signature]) -> Signature:
    return Signature(*(np.concatenate(values) for values in zip(*of, strict=True)))


def _key(corpus: Corpus, labelled: Sequence[LabelledFrame]) -> str:
    """Of what the corpus and the set hold, wherever they lie and whatever their files are called."""
    content = sorted(sha256(frame.image) for frame in labelled)
    return hashlib.sha256(" ".join([_RULES, corpus.sha256, *content]).encode()).hexdigest()


class _Sound:
    """Keys of pairs without leak, in a JSON file. One that cannot be read is as good as none."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._keys: list[str] = []
        if self.path is not None and self.path.is_file():
            try:
                self._keys = list(map(str, json.loads(self.path.read_text(encoding="utf-8"))["no_leak"]))
            except (ValueError, KeyError, TypeError):
                logger.warning("%s cannot be read: everything is compared again", self.path)

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str) -> None:
        self._keys.append(key)
        if self.path is not None:
            write_text(self.path, json.dumps({"no_leak": self._keys}, indent=1) + "\n")
