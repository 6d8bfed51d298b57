"""What the masks of a folder of labelled frames are called: by its index, or by the data set that it names."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from torch import nn

from sonodistill.errors import BundleConfigError
from sonodistill_training.corpus.labelled import INDEX, read_labelled
from sonodistill_training.corpus.registry import data_sets
from sonodistill_training.corpus.simulator import DATASET, STRUCTURE

logger = logging.getLogger(__name__)

UNNAMED = "structure"
"""Of masks that nobody gave a name."""
_BETWEEN = " or "
_HEADS = {"segmenter": ("segmentation_head.0.weight", "channel"), "classifier": ("head.weight", "class")}


def structure_name(folder: str | Path) -> str:
    """The name of what the masks show; "" where neither the index nor the registry says it.

    That is the column ``structure`` of ``index.csv``; else the names in its column ``structures``; else what the data
    set of its column ``dataset`` annotates. Several are joined: "liver or spleen" is what a mask of either shows.

    Raises:
        DatasetError: see ``read_labelled``.
    """
    folder = Path(folder)
    frames = read_labelled(folder)
    with (folder / INDEX).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("mask")]
    names = {(row.get("structure") or "").strip() for row in rows}
    if not any(names):
        names = {name for frame in frames for _, name in frame.structures}
    if not names:
        names = {part for row in rows for part in _of_dataset(row.get("dataset") or "")}
    return "" if "" in names else _BETWEEN.join(sorted(names))


def mask_names(folder: str | Path) -> list[str]:
    """The one label of a segmenter: :func:`structure_name`, or :data:`UNNAMED`, of which a line of the log warns."""
    name = structure_name(folder)
    if not name:
        logger.warning(
            '%s does not say what its masks show, so the model calls it "%s": give --labels "[\'name\']", or its %s '
            "a column structure",
            folder,
            UNNAMED,
            INDEX,
        )
    return [name or UNNAMED]


def require_named(network: nn.Module, labels: list[str]) -> None:
    """Raise BundleConfigError where the network has another number of outputs than there are labels."""
    head, what = _HEADS.get(str(getattr(network, "kind", "")), ("", ""))
    tensor = network.state_dict().get(head) if head else None
    if tensor is not None and len(tensor) != len(labels):
        raise BundleConfigError(
            f"--labels has {len(labels)} names ({', '.join(labels)[:100]}), and the network {len(tensor)} {what}"
            + ("" if len(tensor) == 1 else "es" if what == "class" else "s"),
            remedy="give one name for each; train.yaml takes everything in a mask for one structure",
        )


def _of_dataset(key: str) -> tuple[str, ...]:
    """What a public data set annotates; ("",) of one that is not known."""
    if key == DATASET:
        return (STRUCTURE,)
    known = data_sets().get(key)
    if known is None or not (known.structure or known.structures):
        return ("",)
    return known.structures or (known.structure,)
