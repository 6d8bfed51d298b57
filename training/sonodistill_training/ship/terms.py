"""May a model be shipped? Only what data under CC BY or CC0 made, and every licence has to be known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sonodistill.errors import SonoDistillError
from sonodistill.models import Model
from sonodistill.weights_header import WeightsInfo
from sonodistill_training.corpus import registry
from sonodistill_training.corpus.licences import UNKNOWN

_FREE = re.compile(r"CC0( 1\.0)?|CC BY( [1-4]\.0)?", re.IGNORECASE)
_NOT_SAID = {UNKNOWN, "one a file", ""}
"""What stands in the place of a licence where a source names none for all of it."""


class LicenceError(SonoDistillError):
    """A model that cannot be shipped: its data are not all known to be under CC BY or CC0."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a model was made with.

    Attributes:
        data: data set -> its licence, in the words of its source.
        licences: all of them, each once.
    """

    data: dict[str, str]
    licences: tuple[str, ...]


def terms_of(info: WeightsInfo, data: Sequence[str], licences: Sequence[str], encoder: Model | None = None) -> Terms:
    """The terms of a model by its header, by the registry of data sets, and by what is said of it.

    Args:
        info: the header, whose ``corpus_licences`` count.
        data: keys of the data sets it was trained on, as ``sonodistill datasets list`` has them.
        licences: of data for which neither header nor registry says one.
        encoder: shipped, of the same corpus: its data are the network's too, and their licences known.

    Raises:
        LicenceError: no data set is named, one has a licence that allows less than CC BY, or one's is not known.
        DatasetError: there is no such data set.
    """
    named = {entry.key: entry.licence.name for entry in map(registry.get, data)}
    if not named and (encoder is None or info.kind != "encoder"):
        raise LicenceError(
            "it is not said what the model was trained on", remedy="give --data KEY, of `sonodistill datasets list`"
        )
    corpus = list(info.corpus_licences)
    silent = [key for key, name in named.items() if name in _NOT_SAID]
    unknown = [f"of the data set {key}" for key in silent]
    if encoder is None and any(name in _NOT_SAID for name in corpus):
        unknown.append(f"of {sum(info.corpus_licences.get(name, 0) for name in _NOT_SAID)} frames of its corpus")
    if encoder is None and info.kind == "encoder" and not corpus:
        unknown.append("of its corpus")
    if unknown and not licences:
        raise LicenceError(
            f"the licence {' and '.join(unknown)} is not known",
            remedy='say it where you know it: --licence "CC BY 4.0"; can be given several times',
        )
    said = [*licences, *(name for name in (*corpus, *named.values()) if name not in _NOT_SAID)]
    refused = sorted({name for name in said if not is_free(name)})
    if refused:
        raise LicenceError(
            f"it was made with data under {', '.join(refused)}; only CC BY and CC0 may be shipped",
            remedy="train it without them",
        )
    given = ", ".join(licences)
    found = {key: given if key in silent else name for key, name in named.items()}
    if encoder is not None:
        found, said = {**encoder.data, **found}, [*said, *encoder.licences]
    return Terms(found, tuple(dict.fromkeys(said)))


def is_free(text: str) -> bool:
    """Whether a text names nothing but CC BY and CC0: "CC0 1.0 (data sets 1, 2), CC BY 4.0 (3, 4)"."""
    names = re.split(r"[,/;]| and ", re.sub(r"\([^)]*\)", "", text))
    return all(_FREE.fullmatch(name.strip()) for name in names)
