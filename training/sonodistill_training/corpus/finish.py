"""What only all frames together can tell: duplicates, frames of an evaluation set, and the splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.progress import track

from sonodistill.errors import SonoDistillError
from sonodistill_training.corpus import manifest
from sonodistill_training.corpus.blocks import BLOCK_ROWS, MappedBlocks
from sonodistill_training.corpus.duplicates import find_duplicates
from sonodistill_training.corpus.embedding import embed, load_embedder
from sonodistill_training.corpus.leakage import WINDOWS, Embeddings, Leak, LeakageError, audit
from sonodistill_training.corpus.signatures import APPEARANCE_SIZE, HASH_BYTES, Signature
from sonodistill_training.corpus.splits import check_fractions, split_groups, write_split

ON_LEAK = ("fail", "drop", "allow")


@dataclass(frozen=True, slots=True)
class Rules:
    """How all frames together become a corpus.

    Attributes:
        duplicates: leave near-duplicates out.
        on_leak: what a frame of an evaluation set does: "fail" the build, be dropped, or be allowed.
        embedding: an encoder that looks for such frames beside the hash, as ``leakage`` takes it.
        fractions: of the frames in train, validation and test.
        seed: of the splits.
    """

    duplicates: bool = True
    on_leak: str = "fail"
    embedding: str | None = None
    fractions: Sequence[float] = (0.9, 0.05, 0.05)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.on_leak not in ON_LEAK:
            raise SonoDistillError(f"on leak {self.on_leak}", remedy=f"choose one of {', '.join(ON_LEAK)}")
        check_fractions(self.fractions)


def drop_duplicates(frames: pa.Table) -> pa.Table:
    """Leave out every kept frame that another kept one shows as well. Labelled frames stay, then larger ones."""
    rows = _kept(frames)
    hashes, appearances = signatures_of(frames, rows)
    labelled = np.array([bool(label) for label in frames["label"].take(rows).to_pylist()], dtype=np.int64)
    pixels = frames["height"].take(rows).to_numpy() * frames["width"].take(rows).to_numpy()
    stands = find_duplicates(hashes, appearances, labelled * 2**40 + pixels.astype(np.int64))
    ids = frames["id"].take(rows).to_pylist()
    dropped = {int(rows[i]): ids[stands[i]] for i in range(len(rows)) if stands[i] != i}
    return _mark(frames, dropped, manifest.DUPLICATE)


def drop_leaks(frames: pa.Table, evaluation: pa.Table, rules: Rules, corpus: Path) -> tuple[pa.Table, list[Leak]]:
    """Find kept frames that show one of an evaluation set, and do with them as the rules say.

    Raises:
        LeakageError: there are some, and the rules say "fail".
    """
    rows, usable = _kept(frames), _kept(evaluation)
    names = np.array(evaluation["dataset"].to_pylist())[usable]
    places = {str(name): usable[names == name] for name in sorted(set(names))}
    sets = {name: Signature(*signatures_of(evaluation, place)) for name, place in places.items()}
    embeddings = _embeddings(frames, rows, evaluation, places, rules.embedding, corpus) if rules.embedding else None
    parts = {name: _windows_of(evaluation, place) for name, place in places.items()}
    leaks = audit(*signatures_of(frames, rows), sets, parts=parts, embeddings=embeddings)
    if leaks and rules.on_leak == "fail":
        raise LeakageError(leaks, path=corpus)
    if rules.on_leak == "allow":
        return frames, leaks
    ids = evaluation["id"].to_pylist()
    dropped = {int(rows[leak.corpus_row]): ids[places[leak.evaluation_set][leak.evaluation_row]] for leak in leaks}
    return _mark(frames, dropped, manifest.LEAK), leaks


def _embeddings(
    frames: pa.Table,
    rows: NDArray[np.int64],
    evaluation: pa.Table,
    places: dict[str, NDArray[np.int64]],
    spec: str,
    corpus: Path,
) -> Embeddings:
    network, blocks = load_embedder(spec), MappedBlocks(str(corpus))

    def pixels(table: pa.Table, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        where = zip(*(table[name].take(rows).to_pylist() for name in ("shard", "row")), strict=True)
        for shard, row in track(list(where), description="embedding"):
            block, place = divmod(row, BLOCK_ROWS)
            yield blocks[shard, block].frame(place)

    return Embeddings(
        embed(pixels(frames, rows), network),
        {name: embed(pixels(evaluation, place), network) for name, place in places.items()},
        {name: embed(pixels(evaluation, place), network, mirror=True) for name, place in places.items()},
    )


def give_splits(frames: pa.Table, rules: Rules, target: Path) -> pa.Table:
    """Give whole groups to splits, write that down in ``target``, and say it in every row."""
    rows = _kept(frames)
    groups, labels, datasets = (frames[name].take(rows).to_pylist() for name in ("group", "label", "dataset"))
    assignment = split_groups(groups, labels, rules.fractions, rules.seed, datasets=datasets)
    write_split(target, assignment, {"fractions": list(rules.fractions), "seed": rules.seed, "members": "groups"})
    splits = [assignment.get(group) for group in frames["group"].to_pylist()]
    return _replace(frames, "split", splits)


def signatures_of(frames: pa.Table, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """(N, 32) hashes and (N, 256) appearances of the rows."""
    hashes = b"".join(frames["hash"].take(rows).to_pylist())
    appearances = b"".join(frames["appearance"].take(rows).to_pylist())
    return (
        np.frombuffer(hashes, np.uint8).reshape(-1, HASH_BYTES),
        np.frombuffer(appearances, np.int8).reshape(-1, APPEARANCE_SIZE),
    )


def _windows_of(frames: pa.Table, rows: NDArray[np.int64]) -> Signature:
    """What ``leakage.windows`` gave for the rows, one frame after the other."""
    stored = np.frombuffer(b"".join(frames["windows"].take(rows).to_pylist()), np.uint8)
    whole = stored.reshape(len(rows), WINDOWS * (HASH_BYTES + APPEARANCE_SIZE))
    hashes, appearances = np.split(whole, [WINDOWS * HASH_BYTES], axis=1)
    return Signature(
        np.ascontiguousarray(hashes).reshape(-1, HASH_BYTES),
        np.ascontiguousarray(appearances).view(np.int8).reshape(-1, APPEARANCE_SIZE),
    )


def count(frames: pa.Table, column: str) -> dict[str, int]:
    """How often each value of a column occurs, sorted by value."""
    return dict(sorted(Counter(frames[column].to_pylist()).items()))


def _kept(frames: pa.Table) -> NDArray[np.int64]:
    return np.flatnonzero(pc.equal(frames["status"], manifest.KEPT).to_numpy(zero_copy_only=False))


def _mark(frames: pa.Table, dropped: dict[int, str], status: str) -> pa.Table:
    """Give rows a status, its reason, and the id of the frame that stands for each."""
    if not dropped:
        return frames
    columns = {"status": status, "reason": manifest.REASONS[status]}
    for name, value in columns.items():
        values = frames[name].to_pylist()
        for row in dropped:
            values[row] = value
        frames = _replace(frames, name, values)
    values = frames["duplicate_of"].to_pylist()
    for row, stands in dropped.items():
        values[row] = stands
    return _replace(frames, "duplicate_of", values)


def _replace(frames: pa.Table, name: str, values: list[str | None]) -> pa.Table:
    index = frames.schema.get_field_index(name)
    return frames.set_column(index, frames.schema.field(index), pa.array(values, frames.schema.field(index).type))
