"""What a corpus may be used for, as far as its sources say: a page of their licences and citations."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa

from sonodistill.files import write_text
from sonodistill_training.corpus import manifest, registry

_ANSWER = {True: "yes", False: "no", None: "not stated"}


def write_licences(target: Path, frames: pa.Table) -> None:
    """Write the licence summary of the frames that a corpus stores (kept, or kept apart)."""
    stored: Counter[str] = Counter()
    licences: dict[str, set[str]] = defaultdict(set)
    columns = (frames[name].to_pylist() for name in ("dataset", "licence", "status"))
    for dataset, licence, status in zip(*columns, strict=True):
        if status in (manifest.KEPT, manifest.APART):
            stored[dataset] += 1
            licences[dataset].add(licence or "unknown")
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
