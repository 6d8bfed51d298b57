"""The curves of a report: how trainings went by epoch, and what an encoder is worth by the number of labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

from sonodistill_training.evaluate.report.charts import Encoder, Line, Pen, chart, legend
from sonodistill_training.evaluate.results import Cell
from sonodistill_training.evaluate.tables.paired import by_conditions, conditions
from sonodistill_training.evaluate.tables.papers import PROTOCOLS, TASKS, data_name
from sonodistill_training.evaluate.tables.parts import TITLES, Runs, labelled
from sonodistill_training.quickstart.charts import ticks

_SCORES = {
    "linear": "Log-likelihood of the validation frames",
    "finetune": "Macro F1 of the validation frames",
}
_DICE = "Dice of the validation frames"
_OF_LABELS = {"segmentation": ("dice_empty1", "dice_lesions"), "classification": ("accuracy", "macro_f1")}


def where(cell: Cell) -> str:
    """Task, data, protocol and head as the tables' titles have them."""
    return f"{data_name(cell.data)} {TASKS[cell.task]}, {PROTOCOLS[cell.protocol]} ({cell.head})"


def learning_curves(runs: Sequence[Runs], pens: Mapping[Encoder, Pen]) -> str:
    """Training loss and validation score by epoch, for each set of conditions under which something was trained."""
    parts = []
    for cell, members in by_conditions(runs).items():
        trained = [one for one in _ordered(members, pens) if any(result.curve for result in one.results)]
        if not trained:
            continue
        title = f"{where(cell)}, {labelled(cell)}"
        score = _DICE if cell.task == "segmentation" else _SCORES[cell.protocol]
        titles = {"loss": "Training loss", "validation_loss": "Validation loss", "validation": score}
        charts = [
            _card(name, chart(lines, label=f"{title}: {name} by epoch", x_label="epoch", x_ticks=_epochs(lines)))
            for key, name in titles.items()
            if (lines := [_by_epoch(one, key, _pen(one, pens)) for one in trained])
        ]
        of = [_pen(one, pens) for one in trained]
        parts.append(
            _block(title, f"{_recipe(cell)} Line: mean over runs; band: from the lowest to the highest.", of, charts)
        )
    return "".join(parts) or "<p>No evaluation here has trained by epochs.</p>"


def label_curves(runs: Sequence[Runs], pens: Mapping[Encoder, Pen]) -> str:
    """Metrics by the share or number of labelled frames; nothing where there is one amount only."""
    parts = []
    for name, x_label in (("fraction", "labelled share of the training frames"), ("shots", "labelled training frames")):
        groups: dict[Cell, list[Runs]] = {}
        for one in runs:
            if bool(one.cell.shots) == (name == "shots"):
                groups.setdefault(replace(conditions(one.cell), fraction=1.0, shots=0), []).append(one)
        for cell, members in groups.items():
            amounts = sorted({getattr(one.cell, name) for one in members})
            if len(amounts) > 1:
                written = {amount: f"{100 * amount:g} %" if name == "fraction" else f"{amount}" for amount in amounts}
                parts.append(_by_labels(cell, members, pens, name, f"{x_label} (logarithmic axis)", written))
    return "".join(parts)


def _by_labels(
    cell: Cell,
    members: Sequence[Runs],
    pens: Mapping[Encoder, Pen],
    name: str,
    x_label: str,
    written: Mapping[float, str],
) -> str:
    by_pen: dict[Pen, list[Runs]] = {}
    for one in _ordered(members, pens):
        by_pen.setdefault(_pen(one, pens), []).append(one)
    normals = any(one.has_normals for one in members)
    charts = []
    for metric in _OF_LABELS[cell.task]:
        if metric == "dice_lesions" and not normals:
            continue
        lines = [_by_amount(pen, several, name, metric) for pen, several in by_pen.items()]
        label = f"{where(cell)}: {TITLES[metric]} by {x_label}"
        charts.append(_card(TITLES[metric], chart(lines, label=label, x_label=x_label, x_ticks=written, log_x=True)))
    said = f"{_recipe(cell)} Mean over runs; band: 95 % interval, groups and runs resampled."
    return _block(f"{where(cell)}, by the number of labels", said, list(by_pen), charts)


def _by_amount(pen: Pen, several: Sequence[Runs], name: str, metric: str) -> Line:
    found = sorted(((getattr(one.cell, name), one.metric(metric)) for one in several), key=lambda pair: pair[0])
    values = [[math.nan if value is None else value for value in (of.estimate, of.low, of.high)] for _, of in found]
    y, low, high = zip(*values, strict=True)
    return Line(pen, [amount for amount, _ in found], y, low, high)


def _by_epoch(one: Runs, key: str, pen: Pen) -> Line:
    """Mean, lowest and highest value of the runs that have reached each epoch."""
    values: dict[float, list[float]] = {}
    for result in one.results:
        for row in result.curve:
            if key in row:
                values.setdefault(row["epoch"], []).append(row[key])
    epochs = sorted(values)
    means = [math.fsum(values[epoch]) / len(values[epoch]) for epoch in epochs]
    return Line(pen, epochs, means, [min(values[epoch]) for epoch in epochs], [max(values[epoch]) for epoch in epochs])


def _epochs(lines: Sequence[Line]) -> dict[float, str]:
    """Round numbers of epochs, no parts of one."""
    epochs = [epoch for line in lines for epoch in line.x] or [1]
    low, high = min(epochs), max(epochs)
    found = {tick: f"{tick:.0f}" for tick in (ticks(low, high) if high > low else ()) if tick == round(tick)}
    return found or {low: f"{low:.0f}"}


def _ordered(members: Sequence[Runs], pens: Mapping[Encoder, Pen]) -> list[Runs]:
    order = list(pens.values())
    return sorted(members, key=lambda one: order.index(_pen(one, pens)))


def _pen(one: Runs, pens: Mapping[Encoder, Pen]) -> Pen:
    return pens[one.cell.encoder, one.cell.weights]


def _recipe(cell: Cell) -> str:
    recipe = cell.recipe
    return (
        f"Recipe {recipe.name} ({recipe.input_size} px, {recipe.epochs} epochs, batch {recipe.batch_size}), "
        f"data and split {cell.data_sha256[:8]}."
    )


def _card(title: str, drawing: str) -> str:
    return f'<div class="card"><h4 style="margin: 0 0 .5em">{escape(title)}</h4>{drawing}</div>'


def _block(title: str, said: str, of: Sequence[Pen], charts: Sequence[str]) -> str:
    return (
        f'<h3 style="margin-top: 2em">{escape(title)}</h3><p class="muted">{escape(said)}</p>{legend(of)}'
        f'<div class="charts">{"".join(charts)}</div>'
    )
