"""Which groups are trained on and which are held out: decided once for each, and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from sonodistill.annotate.errors import ConflictError
from sonodistill.files import write_text

TRAIN, VALIDATION = "train", "validation"
SHARE = 0.2
"""Of the groups that is validated on."""


def split(path: Path, frames: Mapping[str, str], seed: int = 0) -> tuple[dict[str, str], bool, dict[str, int]]:
    """Divide frames by their groups, as ``path`` says of the groups it knows; the others are added to it.

    Args:
        path: JSON object, opaque group -> "train" or "validation".
        frames: id -> group.

    Returns:
        Id -> "train" or "validation"; whether there is one group only, of which some frames are held out; how many
        groups each has.

    Errors: ConflictError when the file cannot be read.
    """
    try:
        known = dict(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        known = {}
    except (OSError, ValueError, TypeError) as error:
        raise ConflictError(
            "which groups are held out cannot be read", path=path, remedy="restore the file, or remove it to deal anew"
        ) from error
    dealt = deal(map(opaque, frames.values()), known, seed)
    write_text(path, json.dumps({**known, **dealt}, indent=1, sort_keys=True))
    count = {split: sum(side == split for side in dealt.values()) for split in (TRAIN, VALIDATION)}
    by_frames = 0 in count.values()
    if not by_frames:
        return {id: dealt[opaque(group)] for id, group in frames.items()}, False, count
    ids = sorted(frames, key=lambda id: _draw(id, seed))
    held = max(1, round(SHARE * len(ids)))
    return {id: VALIDATION if at < held else TRAIN for at, id in enumerate(ids)}, True, count


def deal(groups: Iterable[str], known: Mapping[str, str], seed: int = 0) -> dict[str, str]:
    """Group -> "train" or "validation": ``known`` ones stay, new ones go by the hash of their name.

    Where that leaves one of the two without a group, a new group makes up for it; a lone group is trained on.
    """
    groups = set(groups)
    new = sorted(groups - known.keys(), key=lambda group: _draw(group, seed))
    dealt = {group: known[group] for group in groups & known.keys()}
    dealt |= {group: VALIDATION if _draw(group, seed) < SHARE else TRAIN for group in new}
    if new and VALIDATION not in dealt.values() and len(groups) > 1:
        dealt[new[0]] = VALIDATION
    if new and TRAIN not in dealt.values():
        dealt[new[-1]] = TRAIN
    return dealt


def opaque(group: str) -> str:
    """A group without what its name may say."""
    return hashlib.sha256(group.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _draw(name: str, seed: int) -> float:
    """In [0, 1) by the hash of a name: stable whatever else there is."""
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
