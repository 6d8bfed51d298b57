"""What a corpus may be used for, as far as its sources say: a page of their licences and citations."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa

from sonodistill.files import write_text
from sonodistill_training.corpus import manifest, registry

UNKNOWN = "unknown"
_MARKS = {"NC": "non-commercial", "ND": "no derivatives", "SA": "share alike"}
"""What the parts of a Creative Commons licence's name stand for."""
_ANSWER = {True: "yes", False: "no", None: "not stated"}


def write_licences(target: Path, frames: pa.Table) -> None:
    """Write the licence summary of the frames that a corpus stores (kept, or kept apart)."""
    stored: Counter[str] = Counter()
    licences: dict[str, set[str]] = defaultdict(set)
    columns = (frames[name].to_pylist() for name in ("dataset", "licence", "status"))
    for dataset, licence, status in zip(*columns, strict=True):
        if status in (manifest.KEPT, manifest.APART):
            stored[dataset] += 1
            licences[dataset].add(licence or UNKNOWN)
    known = registry.data_sets()
    lines = [
        "# Licences of this corpus",
        "",
        "As their sources state them; nothing here is legal advice. A corpus, and weights trained on it, may be passed "
        "on only as far as every line allows.",
        "",
        "| data set | frames | licence | redistribution | commercial use |",
        "|---|---|---|---|---|",
    ]
    for dataset in sorted(stored):
        entry = known.get(dataset)
        terms = entry.licence if entry else None
        name = terms.name if terms else ", ".join(sorted(licences[dataset]))
        redistribution = _ANSWER[terms.redistribution if terms else None]
        commercial = _ANSWER[terms.commercial if terms else None]
        lines.append(f"| {dataset} | {stored[dataset]} | {name} | {redistribution} | {commercial} |")
    cited = [known[dataset] for dataset in sorted(stored) if dataset in known]
    if cited:
        lines += ["", "## Please cite", "", *(f"- {entry.name}: {entry.citation} {entry.url}" for entry in cited)]
    notices = [entry for entry in cited if entry.licence.notice]
    if notices:
        lines += ["", "## Notices", "", *(f"- {entry.name}: {entry.licence.notice}" for entry in notices)]
    write_text(target, "\n".join(lines) + "\n")


def terms_of(dataset: str, recorded: str | None) -> registry.Licence:
    """The terms of a frame, by what its corpus recorded when it was built.

    The registry's answers count as long as it still names the same licence. Of any other name nothing is known but the
    name, and a frame of no registered data set without a recorded licence (all of a plain pack) has "unknown" terms.
    """
    entry = registry.data_sets().get(dataset)
    if entry is not None and recorded in (None, "", entry.licence.name):
        return entry.licence
    return registry.Licence(recorded or UNKNOWN, None, None)


def restrictions(terms: registry.Licence) -> list[str]:
    """What a licence withholds, and "commercial use not stated" where its source does not say."""
    marks = re.findall(r"\b(NC|ND|SA)\b", terms.name)
    found = [words for mark, words in _MARKS.items() if mark in marks or (mark == "NC" and terms.commercial is False)]
    if terms.redistribution is False:
        found.append("no redistribution")
    if terms.commercial is None and "NC" not in marks:
        found.append("commercial use not stated")
    return found
