"""Tables as Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sonodistill_training.evaluate.tables.errata import REASONS
from sonodistill_training.evaluate.tables.parts import P_VALUES, Column, Entry, Row, Table

DASH = "—"
FIELDS = (
    "table", "row", "column", "estimate", "low", "high", "runs", "seeds", "draws", "published", "difference", "errata",
    "reason", "text",
)  # fmt: skip


def markdown(tables: Sequence[Table]) -> str:
    """Tables with their captions, and below all of them the errata as footnotes."""
    parts = [_markdown_table(table) for table in tables]
    notes = [f"[^{code}]: {REASONS[code]}" for code in _codes(tables)]
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def csv_text(tables: Sequence[Table]) -> str:
    """A line for each entry, with the columns :data:`FIELDS`; numbers in full, nothing where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for table in tables:
        for row in table.rows:
            for column, entry in zip(table.columns, row.entries, strict=True):
                printed = None if entry.published is None else entry.published.value
                numbers = (
                    entry.estimate,
                    entry.low,
                    entry.high,
                    row.runs,
                    row.seeds,
                    row.draws,
                    printed,
                    entry.difference,
                )
                words = (" ".join(entry.codes), entry.reason, entry.text)
                writer.writerow([table.key, row.name, column.key, *numbers, *words])
    return out.getvalue()


def html(tables: Sequence[Table]) -> str:
    """A fragment for ``report.page``: a section for each table, and one for the errata."""
    marks = {code: str(number) for number, code in enumerate(_codes(tables), 1)}
    notes = "".join(f'<li id="erratum-{code}">{escape(REASONS[code])}</li>' for code in marks)
    below = f'<section><h2>Errata of the papers</h2><div class="card"><ol>{notes}</ol></div></section>' if notes else ""
    return "\n".join([_html_table(table, marks) for table in tables] + [below] * bool(below))


def runs_of(row: Row) -> str:
    """ "5 seeds", "5 draws, a seed each", "10 runs of 5 draws, 2 seeds", why there is none, or a dash."""
    if not row.runs:
        return common_reason(row) or DASH
    seeds = f"{row.seeds} {'seed' if row.seeds == 1 else 'seeds'}"
    if row.draws == 1:
        return seeds
    together = row.runs == row.seeds == row.draws
    return f"{row.draws} draws, a seed each" if together else f"{row.runs} runs of {row.draws} draws, {seeds}"


def common_reason(row: Row) -> str:
    """Why a row has no value of ours at all, if it is for one reason; else nothing."""
    reasons = {entry.reason for entry in row.entries if not entry.text}
    return reasons.pop() if len(reasons) == 1 else ""


@dataclass(frozen=True)
class _Marks:
    """Errata where they belong: of all that a table prints of the paper, of a row, or of single entries."""

    table: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def entry(self, place: int, entry: Entry) -> list[str]:
        """Those of an entry in that row that are not said of more."""
        return [code for code in entry.codes if code not in self.table and code not in self.rows[place]]


def _marks(table: Table) -> _Marks:
    everywhere = _shared([entry for row in table.rows for entry in row.entries])
    rows = (tuple(code for code in _shared(row.entries) if code not in everywhere) for row in table.rows)
    return _Marks(everywhere, tuple(rows))


def _shared(entries: Sequence[Entry]) -> tuple[str, ...]:
    """The codes of every entry that has a published value, if there are several."""
    printed = [entry for entry in entries if entry.published is not None]
    if len(printed) < 2:
        return ()
    return tuple(code for code in printed[0].codes if all(code in entry.codes for entry in printed))


def _codes(tables: Sequence[Table]) -> list[str]:
    """The errata that occur, in the order of :data:`REASONS`."""
    used = {code for table in tables for row in table.rows for entry in row.entries for code in entry.codes}
    return [code for code in REASONS if code in used]


def _with_runs(table: Table) -> bool:
    return any(row.runs or common_reason(row) for row in table.rows)


def _ours(entry: Entry, column: Column, row: Row) -> str:
    """ "0.712 [0.651, 0.770]", a dash with the reason, or the text."""
    if entry.text:
        return entry.text
    if entry.estimate is None:
        return f"{DASH} ({entry.reason})" if entry.reason and not common_reason(row) else DASH
    if column.key in P_VALUES and entry.estimate < 1e-4:
        return "< 0.0001"
    shown = f"{entry.estimate:.{column.decimals}f}"
    ends = (entry.low, entry.high)
    return shown if None in ends else f"{shown} [{entry.low:.{column.decimals}f}, {entry.high:.{column.decimals}f}]"


def _theirs(entry: Entry, column: Column) -> str:
    """ "paper 0.7378 (+0.021)", or nothing."""
    if entry.published is None:
        return ""
    value, deviation = entry.published.value, entry.published.deviation
    shown = f"{value:.2f}" if entry.published.task == "deployment" else f"{value:.4f}"
    spread = "" if deviation is None else f" ± {deviation:.2f}"
    apart = "" if entry.difference is None else f" ({entry.difference:+.{column.decimals}f})"
    return f"paper {shown}{spread}{apart}"


def _markdown_table(table: Table) -> str:
    runs, marks = _with_runs(table), _marks(table)
    heads = ["", *(column.title for column in table.columns), *(["Runs"] * runs)]
    rules = ["---", *("---:" for _ in table.columns), *(["---"] * runs)]
    lines = [_line(heads), _line(rules)]
    for place, row in enumerate(table.rows):
        entries = [
            _markdown_entry(entry, column, row, marks.entry(place, entry))
            for entry, column in zip(row.entries, table.columns, strict=True)
        ]
        name = row.name + _footnotes(marks.rows[place])
        lines.append(_line([name, *entries, *([runs_of(row)] * runs)]))
    notices = "\n>\n".join(f"> {notice}" for notice in table.notices)
    blocks = [f"### {table.title}", table.caption + _footnotes(marks.table), "\n".join(lines), notices]
    return "\n\n".join(block for block in blocks if block)


def _markdown_entry(entry: Entry, column: Column, row: Row, codes: Sequence[str]) -> str:
    theirs = _theirs(entry, column)
    return _ours(entry, column, row) + (f"; {theirs}{_footnotes(codes)}" if theirs else "")


def _footnotes(codes: Sequence[str]) -> str:
    return "".join(f"[^{code}]" for code in codes)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _html_table(table: Table, numbers: dict[str, str]) -> str:
    runs, marks = _with_runs(table), _marks(table)
    heads = "".join(f'<th scope="col" class="figure">{escape(column.title)}</th>' for column in table.columns)
    lines = []
    for place, row in enumerate(table.rows):
        entries = "".join(
            _html_entry(entry, column, row, _links(marks.entry(place, entry), numbers))
            for entry, column in zip(row.entries, table.columns, strict=True)
        )
        name = escape(row.name) + _links(marks.rows[place], numbers)
        last = f'<td class="note">{escape(runs_of(row))}</td>' if runs else ""
        lines.append(f'<tr><th scope="row">{name}</th>{entries}{last}</tr>')
    head = f"<thead><tr><th></th>{heads}{'<th>Runs</th>' if runs else ''}</tr></thead>"
    notices = "".join(f"<p>{escape(notice)}</p>" for notice in table.notices)
    return (
        f'<section id="table-{escape(table.key)}"><h2>{escape(table.title)}</h2>'
        f'<p class="muted">{escape(table.caption)}{_links(marks.table, numbers)}</p>'
        f'<div class="card scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div>'
        + (f'<aside class="notice">{notices}</aside>' if notices else "")
        + "</section>"
    )


def _html_entry(entry: Entry, column: Column, row: Row, links: str) -> str:
    theirs = _theirs(entry, column)
    below = f'<br><span class="muted">{escape(theirs)}</span>{links}' if theirs else ""
    return f'<td class="figure">{escape(_ours(entry, column, row))}{below}</td>'


def _links(codes: Sequence[str], numbers: dict[str, str]) -> str:
    return "".join(
        f'<sup><a href="#erratum-{code}" title="{escape(REASONS[code])}">{numbers[code]}</a></sup>' for code in codes
    )
