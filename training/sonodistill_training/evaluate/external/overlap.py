"""Was a set of frames part of what a model was made on? Its header and an audit of the pictures say it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError
from sonodistill.weights_header import WeightsInfo
from sonodistill_training.corpus.leakage import audit
from sonodistill_training.corpus.pack import is_corpus
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.corpus.signatures import signatures
from sonodistill_training.evaluate.external.frames import Item, Reading, index_sha256


class OverlapError(SonoDistillError):
    """The frames of an external check took part in the training of the model."""


def require_unknown(info: WeightsInfo | None, name: str, folder: Path, split: str) -> None:
    """Raise OverlapError where the model's header says that it was made on this folder.

    The header knows the index that its warning score was fitted to, and the hash of the corpus of its encoder. A
    ``split`` of "test" of the same index took no part in the training.
    """
    if info is None:
        return
    fitted = info.familiarity.get("index_sha256")
    if fitted and fitted == index_sha256(folder) and split != "test":
        raise OverlapError(
            f"the model was made on {name}: its header has the hash of this very index",
            path=folder,
            remedy="give another set, or its held-out part alone: --split test",
        )
    if info.corpus_hash and is_corpus(folder) and Corpus(folder).sha256 == info.corpus_hash:
        raise OverlapError(
            f"the model's encoder was trained on the corpus {name}", path=folder, remedy="give frames it never saw"
        )


def seed_of(info: WeightsInfo | None, folder: Path) -> int:
    """The seed by which a folder without splits was dealt when the model was made on it; 0 of any other folder."""
    fitted = info.familiarity if info is not None else {}
    seed = fitted.get("seed", 0) if fitted.get("index_sha256") == index_sha256(folder) else 0
    return seed if isinstance(seed, int) else 0


def alike(images: Sequence[NDArray[np.uint8]], trained_on: Sequence[Item], batch: int = 64) -> dict[int, str]:
    """Those of the (H, W) images that show what a training frame shows, upright or mirrored: number to its name.

    Near-duplicates as ``sonodistill corpus build --evaluation`` finds them, without its search for cropped parts.
    """
    sought = {"external": signatures(images)}
    found: dict[int, str] = {}
    reading = iter(Reading(list(trained_on)))
    while block := [pair for _, pair in zip(range(batch), reading, strict=False)]:
        known = signatures(frame.image for _, frame in block)
        for leak in audit(known.hash, known.appearance, sought):
            found.setdefault(leak.evaluation_row, block[leak.corpus_row][0].name)
    return found
