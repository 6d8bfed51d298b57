"""The numbers of a representation analysis as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NONE = "-"


def markdown(result: Mapping[str, Any]) -> str:
    """The numbers as Markdown: what was embedded, a row an encoder, and the CKA of every two."""
    lines = ["# Representation", ""]
    rows = [(name, of["frames"], of["groups"], ", ".join(of["anatomies"])) for name, of in result["data_sets"].items()]
    lines += _grid(("Data set", "Frames", "Groups", "Anatomy"), rows)
    header = ("Encoder", "Channels", "RankMe", "Silhouette: anatomy", "data set")
    header += ("Purity: anatomy (chance)", "data set (chance)", "Scanner shortcut")
    rows = []
    for name, of in result["encoders"].items():
        sides = [of["silhouette"][side] for side in ("anatomy", "dataset")]
        purities = [_purity(of["purity"][side]) for side in ("anatomy", "dataset")]
        figures = (of["channels"], f"{of['rankme']:.1f}", *map(_number, sides), *purities, _number(of["shortcut"]))
        rows.append((name, *figures))
    lines += ["", *_grid(header, rows), ""]
    lines.append(
        f"Purity: share of the {result['neighbours']} nearest neighbours ({result['metric']}; frames of the same group "
        "never count) with the same anatomy or data set; in brackets, that "
        "of random neighbours. Scanner shortcut: purity by data set among the frames of one anatomy, beyond chance, "
        "mean over the anatomies with two data sets or more; a dash where there is none."
    )
    if result["confounded"]:
        lines += ["", "Every anatomy comes from one data set: what looks like anatomy here may be the scanner."]
    for title, key in (("Linear CKA", "cka"), ("Linear CKA, debiased", "cka_debiased")):
        names = list(result[key])
        lines += ["", *_grid((title, *names), [(one, *map(_number, result[key][one].values())) for one in names])]
    return "\n".join(lines) + "\n"


def _grid(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + " --- |" * len(header)
    for row in rows:
        yield "| " + " | ".join(str(value).replace("|", "\\|") for value in row) + " |"


def _purity(purity: Mapping[str, float] | None) -> str:
    """Value and, in brackets, chance."""
    return _NONE if purity is None else f"{purity['value']:.3f} ({purity['chance']:.3f})"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"
