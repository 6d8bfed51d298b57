"""Tables of everything in a store, and of the papers with ours beside what they print."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sonodistill_training.evaluate.results import Cell, Result
from sonodistill_training.evaluate.tables.needed import TABLES, rank
from sonodistill_training.evaluate.tables.paired import (
    Comparison,
    by_conditions,
    differences,
    looks_like,
    not_compared,
    paired_tests,
)
from sonodistill_training.evaluate.tables.papers import PROTOCOLS, TASKS, data_name, tables_of_papers
from sonodistill_training.evaluate.tables.parts import (
    TITLES,
    Column,
    Entry,
    Row,
    Runs,
    Table,
    describe,
    entry_of,
    heading,
    labelled,
    metrics_of,
    short_weights,
    together,
)

__all__ = [
    "Column",
    "Comparison",
    "Entry",
    "Row",
    "Table",
    "own_tables",
    "paired_table",
    "paired_tests",
    "paper_tables",
]

_DECIMALS = {"hd95_px": 1, "hd95_mm": 2}


def paper_tables(results: Sequence[Result], tables: Sequence[str] = TABLES) -> list[Table]:
    """The papers' tables: ours beside the published value, with what is wrong in it.

    A table of a paper comes as one table for each task, data set and protocol in it. All of its rows share data, split
    and recipe; results of others are left out and named in its notices.

    Args:
        results: of any cells, also none.
        tables: "2" to "8" of paper A, and "headline" of paper B.

    Raises:
        MisalignedResultsError: results that share a cell but draw and seed are not of the same test images.
    """
    return tables_of_papers(together(results), tables)


def own_tables(results: Sequence[Result]) -> list[Table]:
    """A table for each task, data set, protocol, head and number of labels: encoders with all metrics.

    Results on other data, another split or another recipe are in tables of their own, and both say so.

    Raises:
        MisalignedResultsError: as in :func:`paper_tables`.
    """
    grouped = by_conditions(together(results))
    return [
        _own(cell, runs, [other for other in grouped.values() if other is not runs]) for cell, runs in grouped.items()
    ]


def paired_table(results: Sequence[Result], baseline: str | None = None) -> Table:
    """:func:`paired_tests` as one table, a row each; who could not be compared is named in the notices."""
    columns = (
        Column("metric", "Metric"),
        Column("difference", "Difference"),
        Column("p", "p", 4),
        Column("p_holm", "p, Holm", 4),
        Column("mcnemar", "McNemar"),
        Column("images", "Images"),
    )
    weights: dict[str, set[str]] = {}
    for result in results:
        weights.setdefault(result.cell.encoder, set()).add(result.cell.weights)
    several = {name for name, found in weights.items() if len(found) > 1}
    rows = tuple(_compared(each, several) for each in paired_tests(results, baseline))
    caption = (
        "First less second on the same test images, with its 95 % interval. p: Wilcoxon's signed-rank test of the "
        "groups' differences, mean over runs; corrected by Holm for the encoders of one table. McNemar: of one run of "
        "each, images that only the first and only the second got right."
    )
    notices = tuple(not_compared(results, baseline))
    return Table("paired", "Encoders against their baseline", caption, columns, rows, notices)


def _own(cell: Cell, runs: Sequence[Runs], others: Sequence[Sequence[Runs]]) -> Table:
    ordered = sorted(runs, key=lambda one: rank(one.cell.encoder))
    metrics = metrics_of(ordered)
    twice = {name for name in (one.cell.encoder for one in runs) if sum(name == o.cell.encoder for o in runs) > 1}
    rows = tuple(
        Row(
            one.cell.encoder + (f" ({short_weights(one.cell.weights)})" if one.cell.encoder in twice else ""),
            tuple(entry_of(one, metric) for metric in metrics),
            *one.counts,
        )
        for one in ordered
    )
    columns = tuple(Column(name, heading(name), _DECIMALS.get(name, 3)) for name in metrics)
    title = f"{data_name(cell.data)} {TASKS[cell.task]}, {PROTOCOLS[cell.protocol]} ({cell.head}), {labelled(cell)}"
    labels = cell.shots or f"{cell.fraction:g}"
    key = f"{cell.data}-{cell.task}-{cell.protocol}-{cell.head}-{labels}-{cell.key[:6]}"
    caption = describe(ordered)
    return Table(key, title, caption[0].upper() + caption[1:] + ".", columns, rows, tuple(_apart(runs[0], others)))


def _apart(one: Runs, others: Sequence[Sequence[Runs]]) -> list[str]:
    """The other tables that look like this one and must not be read beside it."""
    found = []
    for runs in others:
        if looks_like(one, runs[0]):
            names = ", ".join(run.cell.encoder for run in runs)
            found.append(f"Not to be compared with the table of {names}: {'; '.join(differences(one, runs[0]))}.")
    return found


def _compared(each: Comparison, several: Collection[str]) -> Row:
    """A row; encoders with ``several`` weights are named with theirs."""
    found, cell = each.found, each.cell
    exact = each.mcnemar
    shown = "" if exact is None else f"{exact.only_a} : {exact.only_b}, p {exact.p_value:.4f}, run {each.mcnemar_run}"
    entries = (
        Entry(text=TITLES[each.metric]),
        Entry(found.difference, found.low, found.high),
        Entry(found.p_value),
        Entry(each.p_holm),
        Entry(text=shown or "not for segmentation"),
        Entry(text=f"{found.images} of {found.n_groups} groups; runs {each.runs[0]} and {each.runs[1]}"),
    )
    heads = cell.head if cell.head == each.against.head else f"{cell.head} - {each.against.head}"
    where = f"{data_name(cell.data)}, {PROTOCOLS[cell.protocol]} ({heads}), {labelled(cell)}"
    first, second = (
        one.encoder + (f" ({short_weights(one.weights)})" if one.encoder in several else "")
        for one in (cell, each.against)
    )
    return Row(f"{first} - {second} ({where})", entries)
