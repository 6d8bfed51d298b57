"""The report of an evaluation: one self-contained HTML file, and beside it everything that it was made from."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill.files import write_text
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.report.charts import Encoder, Pen, legend, pens
from sonodistill_training.evaluate.report.commands import commands
from sonodistill_training.evaluate.report.curves import label_curves, learning_curves
from sonodistill_training.evaluate.report.facts import facts, grid
from sonodistill_training.evaluate.report.files import write_files
from sonodistill_training.evaluate.report.gallery import gallery
from sonodistill_training.evaluate.representation.run import NUMBERS, TABLE
from sonodistill_training.evaluate.results import Result, Store
from sonodistill_training.evaluate.tables import text as tables_text
from sonodistill_training.evaluate.tables.build import own_tables, paired_table, paper_tables
from sonodistill_training.evaluate.tables.papers import data_name
from sonodistill_training.evaluate.tables.parts import Runs, Table, together
from sonodistill_training.report.page import page

REPORT = "report.html"
_LEAD = (
    "Encoders for ultrasound, judged by what can be learnt on top of them. Numbers are of test images that were not "
    "trained on here; intervals are of 95 %, over patients and runs."
)
_RESEARCH = "<strong>Research use only.</strong> A segmentation or class in this report is not a diagnosis."
_PAIRED_NONE = "No two encoders were evaluated under the same conditions, so that none is tested against another."
_PAPERS = (
    "Ours beside what the papers print, with what is wrong in that as a footnote. Paper A: domain-constrained "
    "distillation; paper B: UltraDINO."
)


def write_report(
    store: Store,
    out: str | Path,
    *,
    data: Mapping[str, LabelledSet] | None = None,
    representation: str | Path | None = None,
    papers: bool = True,
) -> Path:
    """Write ``report.html``, the per-image results (Parquet and CSV), ``curves.csv`` and ``tables.csv`` into a folder.

    The same store, frames and representation give the same bytes.

    Args:
        store: the results.
        out: the folder.
        data: frames by the name of their data set, at any size; without them the gallery says how to get them.
        representation: folder of a finished representation analysis, to be shown as well.
        papers: whether the papers' tables are there, ours beside what they print.

    Returns:
        the path of the page.

    Raises:
        DatasetError: the store or the representation's folder is empty.
        UnreadableFileError: a result was changed or damaged.
        MisalignedResultsError: results of one data set are not of the same test images.
        BundleConfigError: ``out`` is a file.
    """
    out = Path(out)
    if out.is_file():
        raise BundleConfigError("is a file", path=out, remedy="give the folder that report.html is to be in")
    results = store.all()
    runs, of = together(results), pens(result.cell for result in results)
    own, paired = own_tables(results), paired_table(results)
    theirs = paper_tables(results) if papers else []
    sections = {
        "What was evaluated": facts(results, runs, of),
        "Results": _tables(own) + _paired(paired),
        "The papers' tables": f"<p>{_PAPERS}</p>{_tables(theirs)}" if theirs else "",
        "Learning curves": learning_curves(runs, of),
        "By the number of labels": label_curves(runs, of),
        "Where it fails": gallery(runs, of, data or {}),
        "Representation": "" if representation is None else _representation(Path(representation)),
    }
    files = write_files(results, [*own, paired, *theirs], out)
    sections["How to reproduce this"] = _reproduction(results, files)
    body = [
        _header(results, runs, of),
        *_numbered(sections),
        f"<footer>{_RESEARCH} Everything on this page is in this one file; nothing is loaded from elsewhere.</footer>",
    ]
    write_text(out / REPORT, page("SonoDistill: evaluation", "\n".join(body)))
    return out / REPORT


def _numbered(sections: Mapping[str, str]) -> list[str]:
    """The list of contents, and the sections that have any."""
    shown = [(title, content) for title, content in sections.items() if content]
    links = "".join(f'<li><a href="#part-{n}">{n} {escape(title)}</a></li>' for n, (title, _) in enumerate(shown, 1))
    nav = f'<nav aria-label="Contents" style="margin-top: 1.6em"><ul class="legend">{links}</ul></nav>'
    parts = (
        f'<section id="part-{n}"><h2>{n} {escape(title)}</h2>{content}</section>'
        for n, (title, content) in enumerate(shown, 1)
    )
    return [nav, *parts]


def _header(results: Sequence[Result], runs: Sequence[Runs], of: Mapping[Encoder, Pen]) -> str:
    seeds = sorted({one.seeds for one in runs})
    summary = {
        "Encoders": f"{len(of)}",
        "Data": ", ".join(dict.fromkeys(data_name(result.cell.data) for result in results)),
        "Tasks": ", ".join(dict.fromkeys(result.cell.task for result in results)),
        "Evaluations": f"{len(runs)}, in {len(results)} runs",
        "Seeds": f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}",
    }
    cards = "".join(f'<div class="card"><dt>{name}</dt><dd>{escape(text)}</dd></div>' for name, text in summary.items())
    return (
        f'<header><h1>Evaluation of ultrasound encoders</h1><p class="lead">{_LEAD}</p></header>\n'
        f'<aside class="notice"><p>{_RESEARCH}</p></aside>\n<dl class="summary">{cards}</dl>\n'
        f'<div style="margin-top: 1.6em">{legend(of.values())}</div>'
    )


def _tables(tables: Sequence[Table], width: str = "9em") -> str:
    """The tables as parts of a section, their titles one level lower; ``width`` is the least of their rows' names."""
    text = tables_text.html(tables).replace("<h2>", '<h3 style="margin-top: 2em">').replace("</h2>", "</h3>")
    return text.replace('<th scope="row">', f'<th scope="row" style="min-width: {width}">')


def _paired(table: Table) -> str:
    if table.rows:
        return _tables([table], width="21em")
    return "".join(f"<p>{escape(text)}</p>" for text in (_PAIRED_NONE, *table.notices))


def _representation(folder: Path) -> str:
    """The figures and tables of a representation analysis."""
    try:
        numbers = json.loads((folder / NUMBERS).read_text(encoding="utf-8"))
        pictures = [name for name in numbers["files"] if name.endswith(".png")]
        uris = [base64.b64encode((folder / name).read_bytes()).decode("ascii") for name in pictures]
        text = (folder / TABLE).read_text(encoding="utf-8")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"holds no finished representation analysis ({error})",
            path=folder,
            remedy="run `sonodistill evaluate representation --out` on it",
        ) from error
    encoders = escape(", ".join(numbers["encoders"]))
    figures = (
        f'<figure class="card" style="margin-bottom: 16px"><img alt="Embeddings of {encoders}, {Path(name).stem}" '
        f'src="data:image/png;base64,{uri}"><figcaption>{Path(name).stem}: the same frames embedded by {encoders}; '
        "colours are shared.</figcaption></figure>"
        for name, uri in zip(pictures, uris, strict=True)
    )
    return "".join(figures) + _of_markdown(text)


def _of_markdown(text: str) -> str:
    """Paragraphs and tables of the Markdown that a representation analysis writes; its heading is left out."""
    parts = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("| "):
            heads, *rows = ([cell.replace("\0", "|") for cell in _cells(line)] for line in [lines[0], *lines[2:]])
            parts.append(
                f'<div style="margin: 16px 0">{grid(heads, ([escape(cell) for cell in row] for row in rows))}</div>'
            )
        elif not lines[0].startswith("#"):
            parts.append(f"<p>{escape(' '.join(lines))}</p>")
    return "".join(parts)


def _cells(line: str) -> list[str]:
    """The entries of a table's line; an escaped bar is a null byte."""
    return [cell.strip() for cell in line.replace("\\|", "\0").strip().strip("|").split("|")]


def _reproduction(results: Sequence[Result], files: Sequence[str]) -> str:
    lines = [*commands(results), "sonodistill evaluate report OUT", "sonodistill evaluate tables OUT --papers"]
    code = escape("\n\n".join(lines))
    listed = "".join(f"<li><code>{escape(name)}</code></li>" for name in files)
    return (
        f'<div class="card"><pre><code>{code}</code></pre>'
        "<p>FILE, FOLDER and OUT stand for the weights, the data set and the folder of results; the hashes above tell "
        "whether they are the same ones. A result that is there already is not computed again. The same seed gives "
        "the same order and initial weights; last digits depend on the machine.</p>"
        "<p>Beside this page, a line for each image, epoch or entry of a table:</p>"
        f'<ul class="facts">{listed}</ul></div>'
    )
