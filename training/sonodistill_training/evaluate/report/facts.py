"""What a report says of the evaluations themselves: encoders, data, machines, and what to be warned of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from sonodistill_training.evaluate.report.charts import Encoder, Pen
from sonodistill_training.evaluate.report.curves import where
from sonodistill_training.evaluate.results import Result
from sonodistill_training.evaluate.tables.needed import SEEDS
from sonodistill_training.evaluate.tables.papers import PROTOCOLS, data_name
from sonodistill_training.evaluate.tables.parts import Runs, labelled, short_weights

_NEVER_CHANGES = "knn"
"""The protocol without a random start: of given weights one run says all."""


def facts(results: Sequence[Result], runs: Sequence[Runs], pens: Mapping[Encoder, Pen]) -> str:
    """Warnings, encoders, data sets, machines and all evaluations as HTML."""
    warned = "".join(f"<li>{escape(warning)}</li>" for warning in warnings(results, runs, pens))
    notice = f'<aside class="notice"><ul class="facts">{warned}</ul></aside>' if warned else ""
    return "".join(
        [
            notice,
            _part("Encoders", _encoders(results, pens)),
            _part("Data", _data(results)),
            _part("Machines", _machines(results)),
            f"<details><summary>All {len(runs)} evaluations</summary>{_evaluations(runs, pens)}</details>",
        ]
    )


def warnings(results: Sequence[Result], runs: Sequence[Runs], pens: Mapping[Encoder, Pen]) -> list[str]:
    """What weakens the results, a sentence each."""
    return [*_few_seeds(runs, pens), *_of_test_images(results), *_of_machines(results)]


def _few_seeds(runs: Sequence[Runs], pens: Mapping[Encoder, Pen]) -> Iterable[str]:
    few: dict[str, list[str]] = {}
    for one in runs:
        if one.seeds < SEEDS and one.cell.protocol != _NEVER_CHANGES:
            name = pens[one.cell.encoder, one.cell.weights].name
            few.setdefault(f"{where(one.cell)}, {labelled(one.cell)}", []).append(f"{name} ({one.seeds})")
    for conditions, names in few.items():
        yield f"Fewer than {SEEDS} seeds: {conditions}: {', '.join(dict.fromkeys(names))}."


def _of_test_images(results: Sequence[Result]) -> Iterable[str]:
    said = []
    for result in results:
        if result.cell.task != "segmentation":
            continue
        name, images = data_name(result.cell.data), len(result.images)
        calibrated = result.about.get("calibrated")
        if calibrated == 0:
            said.append(f"{name}: no pixel size is known, so that distances are in pixels and not in millimetres.")
        elif calibrated is not None and calibrated < images:
            said.append(
                f"{name}: of {images} test images {calibrated} have a known pixel size; HD95 in mm is of those."
            )
        if result.column("lesion").astype(bool).all():
            said.append(
                f"{name}: every test image has a lesion, so that nothing is known of false positives on normals."
            )
    return dict.fromkeys(said)


def _of_machines(results: Sequence[Result]) -> Iterable[str]:
    versions = sorted({str(result.about.get("code_version") or "") for result in results})
    if "" in versions:
        yield "Of some results it is unknown which version of the code computed them."
    if any(version.endswith("-dirty") for version in versions):
        yield "Some results were computed by code with changes that were not committed (-dirty)."
    if len(versions) > 1:
        yield f"The results are of {len(versions)} versions of the code."
    kinds = sorted({f"{_known(result, 'device')}, {_precision(result)}" for result in results})
    if len(kinds) > 1:
        yield f"The results were computed in several ways: {'; '.join(kinds)}."


def _encoders(results: Sequence[Result], pens: Mapping[Encoder, Pen]) -> str:
    rows = []
    for (encoder, weights), pen in pens.items():
        own = [result for result in results if (result.cell.encoder, result.cell.weights) == (encoder, weights)]
        protocols = [name for name in PROTOCOLS if any(result.cell.protocol == name for result in own)]
        status = {str(result.about.get("encoder_status") or "") for result in own} - {""}
        swatch = f'<span aria-hidden="true" style="color: {pen.colour}">&#9632;</span> '
        name = f"{swatch}{escape(pen.name)}"
        hashed = f'<code title="{escape(weights)}">{escape(short_weights(weights))}</code>'
        rows.append([name, hashed, _text("; ".join(sorted(status))), _text(", ".join(protocols)), str(len(own))])
    return grid(("Encoder", "Weights", "Checkpoint format", "Protocols", "Results"), rows)


def _data(results: Sequence[Result]) -> str:
    of_set: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        of_set.setdefault((result.cell.data, result.cell.task, result.cell.data_sha256), []).append(result)
    rows = []
    for (data, task, sha256), members in of_set.items():
        fullest = max(members, key=lambda result: result.about.get("frames", {}).get("train", 0))
        counts = fullest.about.get("frames", {})
        frames = " / ".join(str(counts.get(name, "?")) for name in ("train", "validation", "test"))
        way = ", ".join(sorted({_known(result, "split") for result in members}))
        classes = fullest.about.get("labelled_by_class", {})
        trained = ", ".join(f"{name or 'no label'} {count}" for name, count in sorted(classes.items()))
        code = f'<code style="white-space: nowrap" title="{escape(sha256)}">{escape(sha256[:8])}</code>'
        groups = len(set(fullest.column("group").tolist()))
        texts = (task, way, frames, trained, f"{len(fullest.images)} of {groups} groups{_normals(fullest)}")
        rows.append([_text(data_name(data)), *map(_text, texts), code])
    heads = ("Data", "Task", "Split", "Train / validation / test", "Training frames by class", "Test images", "Hash")
    return grid(heads, rows)


def _normals(result: Result) -> str:
    if result.cell.task != "segmentation":
        return ""
    return f", {int((~result.column('lesion').astype(bool)).sum())} without a lesion"


def _machines(results: Sequence[Result]) -> str:
    kinds: Counter[tuple[str, ...]] = Counter()
    seconds: Counter[tuple[str, ...]] = Counter()
    for result in results:
        software = result.about.get("software", {})
        versions = tuple(str(software.get(name, "unknown")) for name in ("sonodistill", "torch", "python"))
        kind = (_known(result, "device"), _precision(result), *versions, _known(result, "code_version"))
        kinds[kind] += 1
        seconds[kind] += result.about.get("seconds", 0)
    rows = [
        [
            *map(_text, kind[:-1]),
            f"<code>{escape(kind[-1][:12])}{_dirty(kind[-1])}</code>",
            f"{seconds[kind] / 60:.1f}",
            str(count),
        ]
        for kind, count in sorted(kinds.items())
    ]
    heads = ("Device", "Precision", "sonodistill", "torch", "Python", "Code version", "Minutes", "Results")
    return grid(heads, rows)


def _evaluations(runs: Sequence[Runs], pens: Mapping[Encoder, Pen]) -> str:
    rows = []
    for one in runs:
        counts = [result.about.get("best_epoch") for result in one.results]
        epochs = sorted({epoch for epoch in counts if epoch is not None})
        best = f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else "".join(map(str, epochs))
        recipe = f"{one.cell.recipe.name}, {one.cell.recipe.epochs} epochs"
        texts = (where(one.cell), labelled(one.cell), recipe, str(one.seeds), str(one.draws), best)
        rows.append([_text(pens[one.cell.encoder, one.cell.weights].name), *map(_text, texts)])
    return grid(("Encoder", "Evaluation", "Labels", "Recipe", "Seeds", "Draws", "Best epoch"), rows)


def grid(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of the page; entries are HTML, heads are text, and the first entry heads its row."""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{entry}</td>" for entry in rest)}</tr>'
        for first, *rest in rows
    )
    return f'<div class="card scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _part(title: str, content: str) -> str:
    return f'<h3 style="margin-top: 1.6em">{title}</h3>{content}'


def _text(text: str) -> str:
    return escape(text)


def _known(result: Result, name: str) -> str:
    value: Any = result.about.get(name)
    return str(value) if value else "unknown"


def _precision(result: Result) -> str:
    bf16 = result.about.get("bf16")
    return "unknown precision" if bf16 is None else "bfloat16" if bf16 else "float32"


def _dirty(version: str) -> str:
    return "-dirty" if version.endswith("-dirty") else ""
