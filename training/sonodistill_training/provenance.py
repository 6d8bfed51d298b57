"""Where a student comes from: the code that trained it, and the licences of the frames it was trained on."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sonodistill_training.corpus.licences import restrictions, terms_of
from sonodistill_training.corpus.shards import Corpus

_SECONDS = 2.0
_VERSION = re.compile(r"[0-9a-f]{40,64}(-dirty)?")


@dataclass(frozen=True, slots=True)
class LicenceSummary:
    """The licences of a corpus, as far as its sources state them.

    Attributes:
        frames: number of frames by licence, most first; "unknown" where none is stated.
        restrictions: number of frames by what their licence withholds: "non-commercial", "no derivatives",
            "share alike", "no redistribution", or "commercial use not stated". A frame may count under several.
    """

    frames: dict[str, int]
    restrictions: dict[str, int]


def licence_summary(corpus: Corpus) -> LicenceSummary:
    """Count the frames of a corpus, or of the part of it that is trained on, by licence. Nothing is guessed."""
    codes, names = corpus.datasets
    recorded = Counter(zip(codes.tolist(), corpus.column("licence"), strict=True))
    frames: Counter[str] = Counter()
    withheld: Counter[str] = Counter()
    for (code, licence), count in recorded.items():
        terms = terms_of(names[code], licence)
        frames[terms.name] += count
        withheld.update(dict.fromkeys(restrictions(terms), count))
    return LicenceSummary(dict(frames.most_common()), dict(withheld.most_common()))


def record_of(corpus: Corpus) -> dict[str, Any]:
    """What the header of a product says about its data and the code: the fields of ``WeightsInfo`` by name."""
    licences = licence_summary(corpus)
    return {
        "corpus_licences": licences.frames,
        "corpus_restrictions": licences.restrictions,
        "code_version": code_version(),
    }


def code_version(folder: str | Path | None = None) -> str:
    """The git commit that the code in ``folder`` (default: this package) was checked out from.

    "-dirty" follows when tracked files were changed since; new files do not count. Empty without git, outside a
    checkout, and for an installed copy that merely lies inside one, such as a project's virtual environment.
    """
    folder = Path(__file__).parent if folder is None else Path(folder)
    if not _git(folder, "ls-files", "--", "*.py"):
        return ""
    # No tag's name: a commit says as much, and whoever names a tag may put anything in it.
    version = _git(folder, "describe", "--always", "--dirty", "--abbrev=64", "--exclude=*")
    return version if _VERSION.fullmatch(version) else ""


def _git(folder: Path, *arguments: str) -> str:
    """What a git command prints, or nothing when it fails or takes too long; it changes nothing."""
    # A hook's or a rebase's variables would point git at another repository than the folder's own.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_SECONDS, check=True, stdin=subprocess.DEVNULL, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("ascii", "replace").strip()
