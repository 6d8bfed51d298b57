"""The leakage audit: which frames of a corpus show what an evaluation set shows, upright or mirrored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError
from sonodistill_training.corpus.duplicates import near_pairs
from sonodistill_training.corpus.signatures import Signature, mirrored, signatures

# A leak costs more than a frame that is left out, so these are wider than those of near-duplicates. Of planted copies
# of 789 frames (busi, pocus_lung, hc18) all were found that had been re-encoded (JPEG 30), scaled by 0.5 to 1.3,
# mirrored, trimmed by 1 or 2 % a side or given a gain of 0.7 to 1.3; with two lines of text burned in 98 % and more,
# after a gamma of 0.7 95 % and more. Among 5.4 million pairs of different data sets, half of them mirrored, none
# differs by less than 87 bits.
LEAK_HASH = 72
LEAK_COSINE = 0.72

# For DINOv2 ViT-S/14, and as strict as zero alarms between hc18, aul, pocus_lung, muscle_timtrack and busi ask for: the
# nearest pair has 0.989, for the mean of patch tokens tells scanners rather than pictures. It then finds one in three
# of the copies that were cropped by 5 % a side, and one in ten of those by 10 %; ``windows`` find all of them.
EMBEDDING_COSINE = 0.99

_ZOOMS = (0.92, 0.84, 0.76, 0.68)
_PLACES = (0.0, 0.5, 1.0)
WINDOWS = len(_ZOOMS) * len(_PLACES) ** 2
"""Parts of an evaluation frame: four sizes, each at the corners, the edges and the middle.

They found all copies of 265 frames (busi, pocus_lung) that had been cropped by 5, 10 or 15 % a side, by 15 % of two
sides or by a random 0 to 8 % of each, and half of those by a random 0 to 15 % of each. There was no alarm among 48
million pairs of windows of busi and frames of other sets, upright or mirrored.
"""

_ROWS = 1 << 12


@dataclass(frozen=True, slots=True)
class Leak:
    """One corpus frame that shows what one evaluation frame shows.

    Attributes:
        corpus_row: of the corpus signatures.
        evaluation_set: its name.
        evaluation_row: of that set's signatures.
        bits: Hamming distance of the hashes; None where only the embedding found it.
        cosine: of the appearance vectors, or of the embeddings where only those found it.
        mirrored: the corpus frame is the evaluation frame turned left to right.
        how: "hash", "window" (the corpus frame is a part of the evaluation frame) or "embedding".
    """

    corpus_row: int
    evaluation_set: str
    evaluation_row: int
    bits: int | None
    cosine: float
    mirrored: bool
    how: str


class LeakageError(SonoDistillError):
    """The corpus shows frames of an evaluation set.

    Args:
        leaks: counted by evaluation set in the message.
        path: of the corpus.
    """

    def __init__(self, leaks: Sequence[Leak], *, path: str | Path | None = None) -> None:
        self.leaks = list(leaks)
        rows = Counter(name for name, _ in {(leak.evaluation_set, leak.corpus_row) for leak in leaks})
        shown = Counter(name for name, _ in {(leak.evaluation_set, leak.evaluation_row) for leak in leaks})
        counts = "; ".join(f"{name}: {rows[name]} frames show {shown[name]} of its own" for name in sorted(rows))
        super().__init__(
            f"{len(leaked_rows(leaks))} frames of the corpus show what an evaluation set shows ({counts})",
            path=path,
            remedy="leave them out with --on-leak drop; or --on-leak allow, and do not evaluate on those sets",
        )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Unit vectors of the same frames as the signatures (see ``embedding.embed``).

    Attributes:
        corpus: (N, D) float16.
        evaluation: (M, D) float16 of each evaluation set.
        mirrored: likewise, of the frames turned left to right; a set that is missing is not looked for mirrored.
    """

    corpus: NDArray[np.float16]
    evaluation: Mapping[str, NDArray[np.float16]]
    mirrored: Mapping[str, NDArray[np.float16]]


def audit(
    corpus_hashes: NDArray[np.uint8],
    corpus_vectors: NDArray[np.int8],
    evaluation: Mapping[str, Signature],
    *,
    parts: Mapping[str, Signature] | None = None,
    embeddings: Embeddings | None = None,
    bits: int = LEAK_HASH,
    cosine: float = LEAK_COSINE,
    embedding_cosine: float = EMBEDDING_COSINE,
) -> list[Leak]:
    """Every pair of a corpus frame and an evaluation frame that are alike, each pair once.

    The hashes of whole frames find copies that were re-encoded, scaled, brightened, mirrored, written on or trimmed by
    2 % a side; those of ``parts`` find copies that were cropped further.

    Args:
        corpus_hashes: (N, 32) uint8.
        corpus_vectors: (N, 256) int8.
        evaluation: signatures of the sets' frames, brought into the same form (cropped to the sector) as the corpus.
        parts: what :func:`windows` gives for the same frames; a set that is missing is not looked for cropped.
        embeddings: of the same rows.
        bits: at most so many differ.
        cosine: at least this, of the appearance vectors.
        embedding_cosine: at least this, of the embeddings; it belongs to the network that made them.

    Returns:
        Sorted by corpus row, evaluation set and evaluation row.
    """
    found: dict[tuple[int, str, int], Leak] = {}
    for name, whole in evaluation.items():
        looks = [("hash", 1, whole)]
        if parts is not None and name in parts:
            looks.append(("window", WINDOWS, parts[name]))
        for how, each, upright in looks:
            for turned, signed in ((False, upright), (True, mirrored(upright))):
                pairs = near_pairs(corpus_hashes, corpus_vectors, other=signed, bits=bits, cosine=cosine)
                columns = (pairs.first, pairs.second // each, pairs.bits, pairs.cosine)
                for row, other, distance, similar in zip(*(column.tolist() for column in columns), strict=True):
                    found.setdefault((row, name, other), Leak(row, name, other, distance, similar, turned, how))
        if embeddings is None:
            continue
        for turned, vectors in ((False, embeddings.evaluation[name]), (True, embeddings.mirrored.get(name))):
            if vectors is not None:
                for row, other, similar in _alike(embeddings.corpus, vectors, embedding_cosine):
                    found.setdefault((row, name, other), Leak(row, name, other, None, similar, turned, "embedding"))
    return [leak for _, leak in sorted(found.items())]


def windows(frames: Iterable[NDArray[np.uint8]]) -> Signature:
    """The signatures of ``WINDOWS`` parts of each (H, W) frame, one frame after the other: (N * WINDOWS, 32) and so on.

    They find a corpus frame that was cropped from an evaluation frame, which the whole frame's signature does not.
    """
    return signatures(part for frame in frames for part in _parts(frame))


def _parts(frame: NDArray[np.uint8]) -> Iterable[NDArray[np.uint8]]:
    height, width = frame.shape
    for zoom in _ZOOMS:
        tall, wide = round(height * zoom), round(width * zoom)
        for down in _PLACES:
            for right in _PLACES:
                top, left = round((height - tall) * down), round((width - wide) * right)
                yield frame[top : top + tall, left : left + wide]


def leaked_rows(leaks: Iterable[Leak]) -> NDArray[np.int64]:
    """The corpus rows to drop, sorted, each once."""
    return np.array(sorted({leak.corpus_row for leak in leaks}), np.int64)


def _alike(
    corpus: NDArray[np.float16], evaluation: NDArray[np.float16], threshold: float
) -> Iterable[tuple[int, int, float]]:
    """(corpus row, evaluation row, cosine) of the pairs at or above the threshold."""
    columns = evaluation.astype(np.float32).T
    for start in range(0, len(corpus), _ROWS):
        cosine = corpus[start : start + _ROWS].astype(np.float32) @ columns
        rows, others = np.nonzero(cosine >= threshold)
        yield from zip((rows + start).tolist(), others.tolist(), cosine[rows, others].tolist(), strict=True)
