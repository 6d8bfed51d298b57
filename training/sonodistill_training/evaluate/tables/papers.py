"""The papers' tables, with ours beside what they print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sonodistill_training.evaluate.learning.recipes import RECIPES, Recipe, published_recipe
from sonodistill_training.evaluate.metrics.structures import metrics_of_structures
from sonodistill_training.evaluate.results import Cell
from sonodistill_training.evaluate.tables.costs import SIZES, cost_of
from sonodistill_training.evaluate.tables.errata import codes_of
from sonodistill_training.evaluate.tables.needed import IMAGENET, PaperCell, paper_cells
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
    short_weights,
    unlike,
)
from sonodistill_training.evaluate.tables.published import (
    BUSI_TEST_IMAGES,
    STUDENTS,
    TEACHER,
    TEST_IMAGES,
    US,
    Published,
    published,
)

PROTOCOLS = {
    "linear": "linear head on a frozen encoder",
    "frozen_encoder_unet": "decoder on a frozen encoder",
    "finetune": "fine-tuned",
    "knn": "nearest neighbours",
}
TASKS = {"segmentation": "segmentation", "classification": "classification"}
_DATA = {"ddti": "DDTI", "busi": "BUSI", "jnu_ifm": "JNU-IFM", "fass": "FASS", "fetal_planes": "Fetal Planes"}
_METRICS = {"2": ("dice", "iou"), "3": ("dice", "iou"), "6": ("dice", "iou"), "7": ("dice", "iou")}
_CLASSES = {"4": ("accuracy",), "headline": ("macro_f1",)}
_MISSING = "no result in the store"
_UNMEASURED = "not measured here"
_UNLIKE_B = {
    "segmentation": "Whether paper B's Dice counts the background as a class is not in its summary; its code computes "
    "both, over the pixels of all images. The published value stands beside the structures alone, the stricter one.",
    "classification": "Not quite the measurement of paper B's code, which augments and mixes the frames of a probe; "
    "ours computes their features once.",
}
_NOT_TOLD_APART = "The data set given has masks of one foreground: its structures are not told apart, as paper B's are."
_FACTORS = {row: f"{augmentation}, {'' if mixup else 'no '}mixup" for row, (augmentation, mixup) in STUDENTS.items()}
_TABLE_8 = {
    TEACHER: ("natural images", "ViT-B/16"),
    "Temporal SAM2 Hiera-B+": ("SAM 2", "Hiera-B+"),
    "USFM ViT-B/16": ("ultrasound", "ViT-B/16"),
    US: ("distilled on ultrasound", "ResNet-50"),
}
TABLE_5 = {
    "encoder_parameters_millions": "Parameters of the encoder (10^6)",
    "parameters_millions": "Parameters with the head (10^6)",
    "gflops": 'Multiply-accumulates at 256 px (10^9), printed as "GFLOPs"',
    "gpu_latency_ms": "GPU latency (ms)",
    "gpu_images_per_second": "GPU throughput (images/s)",
    "gpu_peak_mb": "Peak GPU memory (MB)",
    "cpu_latency_ms": "CPU latency (ms)",
    "cpu_images_per_second": "CPU throughput (images/s)",
}


_Setting = tuple[str, Recipe, str]
"""Data, recipe and precision, which all rows of a table share."""


def data_name(key: str) -> str:
    """A data set's name in print."""
    return _DATA.get(key, key)


def tables_of_papers(runs: Sequence[Runs], tables: Sequence[str]) -> list[Table]:
    """See :func:`sonodistill_training.evaluate.tables.build.paper_tables`."""
    made = []
    for table in tables:
        blocks: dict[tuple[str, str, str], list[PaperCell]] = {}
        for cell in paper_cells([table]):
            blocks.setdefault((cell.task, cell.data, cell.protocol), []).append(cell)
        for cells in blocks.values():
            chosen = _choose(cells, runs)
            made.append(_TABLES_OF_THEIR_OWN.get(table, _block)(table, cells, chosen))
    return made


@dataclass
class _Chosen:
    """The runs of each cell that has any, all of the same conditions, and what was left out."""

    runs: dict[PaperCell, Runs] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    @property
    def has_normals(self) -> bool:
        return any(runs.has_normals for runs in self.runs.values())


def _choose(cells: Sequence[PaperCell], runs: Sequence[Runs]) -> _Chosen:
    chosen = _Chosen()
    found = {cell: [one for one in runs if _answers(one.cell, cell)] for cell in cells}
    for name in RECIPES:
        of_recipe = {cell: several for cell, several in found.items() if cell.recipe == name and several}
        if not of_recipe:
            continue
        settings = _setting(of_recipe)
        for cell, several in of_recipe.items():
            _take(chosen, cell, several, settings)
    return chosen


def _answers(cell: Cell, asked: PaperCell) -> bool:
    names = ("task", "data", "protocol", "head", "fraction", "shots")
    same = all(getattr(cell, name) == getattr(asked, name) for name in names)
    return same and cell.encoder == asked.row and cell.recipe.name == asked.recipe


def _setting(found: dict[PaperCell, list[Runs]]) -> _Setting:
    """What most cells have; of equals, the recipe as it is given."""
    counts: dict[_Setting, int] = {}
    for several in found.values():
        for setting in {_setting_of(one.cell) for one in several}:
            counts[setting] = counts.get(setting, 0) + 1
    first = next(iter(found))
    return max(
        counts,
        key=lambda s: (counts[s], s[1] == published_recipe(s[1].name, first.task, first.shots), s[1].epochs, s[0]),
    )


def _setting_of(cell: Cell) -> _Setting:
    return cell.data_sha256, cell.recipe.comparable, cell.precision


def _take(chosen: _Chosen, cell: PaperCell, several: Sequence[Runs], setting: _Setting) -> None:
    fitting = [one for one in several if _setting_of(one.cell) == setting]
    reference = next(iter(chosen.runs.values()), None)
    if fitting and reference is not None and sorted(reference.truth()) != sorted(fitting[0].truth()):
        chosen.notices.append(f"{_name(cell)} is left out: other test images than {reference.cell.encoder}.")
        fitting = []
    if fitting:
        best = max(fitting, key=lambda one: (len(one.results), one.cell.weights))
        chosen.runs[cell] = best
        for other in fitting:
            if other is not best:
                weights = f"weights {short_weights(other.cell.weights)}, not {short_weights(best.cell.weights)}"
                chosen.notices.append(f"A result of {_name(cell)} is left out: {weights}.")
    for other in several:
        if _setting_of(other.cell) != setting:
            chosen.notices.append(f"A result of {_name(cell)} is left out: {_unlike(other.cell, setting)}.")


def _unlike(cell: Cell, setting: _Setting) -> str:
    asked = replace(cell, data_sha256=setting[0], recipe=setting[1], precision=setting[2])
    found = unlike(cell, asked, ["data_sha256", "precision"])
    found += unlike(cell.recipe.comparable, asked.recipe, Recipe.__dataclass_fields__)
    return "; ".join(found)


def _name(cell: PaperCell) -> str:
    name = f"{cell.row} ({_FACTORS[cell.row]})" if cell.table == "6" else cell.row
    name += ", ViT recipe" if cell.recipe == "vit" else ""
    return name + (f", {100 * cell.fraction:g} %" if cell.fraction < 1 else "")


def _printed(cell: PaperCell, metric: str) -> Published | None:
    if cell.recipe == "vit":
        return None
    names = ("table", "row", "task", "data", "fraction", "shots")  # not the protocol: in Table 2 it is a guess
    asked = tuple(getattr(cell, name) for name in names)
    values = (value for value in published() if value.metric == metric)
    return next((value for value in values if tuple(getattr(value, name) for name in names) == asked), None)


def _columns(cells: Sequence[PaperCell], chosen: _Chosen) -> list[tuple[Column, str]]:
    """The columns, and the published metric that each stands beside ("" for none)."""
    table, task = cells[0].table, cells[0].task
    if task == "classification":
        return [(Column(name, TITLES[name]), name) for name in _CLASSES.get(table, ("accuracy", "macro_f1"))]
    if table == "headline":
        return _columns_of_b(chosen)
    normals = cells[0].data == "busi" or chosen.has_normals
    shown = []
    for metric in _METRICS.get(table, ("dice",)):
        for subset in ("empty1", "lesions") if normals else ("empty1",):
            title = f"{TITLES[f'{metric}_empty1']}, empty = 1" if normals and subset == "empty1" else ""
            shown.append((Column(f"{metric}_{subset}", title or TITLES[f"{metric}_{subset}"]), metric))
    if normals:
        shown.append((Column("false_positive_rate", TITLES["false_positive_rate"]), ""))
    return shown


def _columns_of_b(chosen: _Chosen) -> list[tuple[Column, str]]:
    told_apart = [runs for runs in chosen.runs.values() if runs.structures]
    if chosen.runs and not told_apart:
        return [(Column("dice_empty1", TITLES["dice_empty1"]), "dice")]
    shown = [(Column("dice_structures", TITLES["dice_structures"]), "dice")]
    of_each = [name for runs in told_apart[:1] for name in metrics_of_structures(runs.columns)]
    return shown + [(Column(name, heading(name)), "") for name in of_each if name != "dice_structures"]


def _row(cell: PaperCell, columns: Sequence[tuple[Column, str]], runs: Runs | None) -> Row:
    entries = []
    for column, metric in columns:
        ours = Entry(reason=_MISSING) if runs is None else entry_of(runs, column.key)
        entries.append(_beside(ours, _printed(cell, metric)))
    return Row(_name(cell), tuple(entries), *(runs.counts if runs else (0, 0, 0)))


def _beside(ours: Entry, printed: Published | None) -> Entry:
    codes = () if printed is None else codes_of(printed)
    return Entry(ours.estimate, ours.low, ours.high, printed, codes, ours.reason, ours.text)


def _shown(cells: Sequence[PaperCell], chosen: _Chosen) -> list[PaperCell]:
    """The rows: what the paper has, and beside it only what there is."""
    extra = [cell for cell in cells if cell.recipe == "vit" and cell not in chosen.runs]
    return [cell for cell in cells if cell not in extra]


def _block(table: str, cells: Sequence[PaperCell], chosen: _Chosen) -> Table:
    columns = _columns(cells, chosen)
    rows = tuple(_row(cell, columns, chosen.runs.get(cell)) for cell in _shown(cells, chosen))
    return _table(table, cells, chosen, tuple(column for column, _ in columns), rows)


def _table_8(table: str, cells: Sequence[PaperCell], chosen: _Chosen) -> Table:
    columns = _columns(cells, chosen)
    about = (
        Column("type", "Foundation model"),
        Column("backbone", "Backbone"),
        Column("parameters", "Encoder (10^6)", 2),
    )
    rows = []
    for cell in _shown(cells, chosen):
        row = _row(cell, columns, chosen.runs.get(cell))
        front = (
            *(Entry(text=text) for text in _TABLE_8[cell.row]),
            _quantity("8", cell.row, "encoder_parameters_millions"),
        )
        rows.append(Row(row.name, (*front, *row.entries), row.runs, row.seeds, row.draws))
    return _table(table, cells, chosen, (*about, *(column for column, _ in columns)), tuple(rows))


def _table_5(table: str, cells: Sequence[PaperCell], chosen: _Chosen) -> Table:
    rows = [
        Row(title, tuple(_quantity(table, row, metric) for row in (TEACHER, US))) for metric, title in TABLE_5.items()
    ]
    counted = [cost_of(row) for row in (TEACHER, US)]
    macs = [cost.gmacs[SIZES[0]] if cost else None for cost in counted]
    rows.insert(3, Row(f"Multiply-accumulates at {SIZES[0]} px (10^9)", tuple(Entry(value) for value in macs)))
    for column, metric in _columns(cells, chosen):
        of_cell = [_row(cell, [(column, metric)], chosen.runs.get(cell)) for cell in cells]
        counts = max((row.runs, row.seeds, row.draws) for row in of_cell)
        rows.append(Row(f"DDTI {column.title}", tuple(row.entries[0] for row in of_cell), *counts))
    return _table(table, cells, chosen, (Column(TEACHER, TEACHER, 3), Column(US, US, 3)), tuple(rows))


def _quantity(table: str, row: str, metric: str) -> Entry:
    """A number of Table 5 or 8 that needs no training, counted where it can be."""
    names = (table, row, metric)
    printed = next((v for v in published() if (v.table, v.row, v.metric) == names), None)
    cost = cost_of(row)
    ours = None
    if cost is not None:
        counts = {"encoder_parameters_millions": cost.encoder_millions, "parameters_millions": cost.millions}
        ours = (counts | {"gflops": cost.gmacs[SIZES[1]]}).get(metric)
    return _beside(Entry(ours, reason="" if ours is not None else _UNMEASURED), printed)


_TABLES_OF_THEIR_OWN = {"5": _table_5, "8": _table_8}


def _table(
    table: str, cells: Sequence[PaperCell], chosen: _Chosen, columns: tuple[Column, ...], rows: tuple[Row, ...]
) -> Table:
    first = cells[0]
    paper = "B" if table == "headline" else "A"
    of_paper = "Paper B" if paper == "B" else f"Paper A, Table {table}"
    shots = f", {first.shots} labelled images" if first.shots else ""
    title = f"{of_paper}: {data_name(first.data)} {TASKS[first.task]}, {PROTOCOLS[first.protocol]}{shots}"
    if table == "5":
        title = f"{of_paper}: teacher and student in use"
    key = f"{table}-{first.data}-{first.task}-{first.protocol}" + (f"-{first.shots}" if first.shots else "")
    return Table(key, title, _caption(first, chosen), columns, rows, tuple(_notices(chosen)))


def _caption(first: PaperCell, chosen: _Chosen) -> str:
    settings: dict[tuple[str, Recipe], list[Runs]] = {}
    for runs in chosen.runs.values():
        settings.setdefault((runs.cell.data_sha256, runs.cell.recipe), []).append(runs)
    ours = " ".join(f"Ours: {describe(runs)}." for runs in settings.values()) or f"Ours: {_MISSING}."
    if first.table == "5":
        ours = f"Parameters and operations are counted here, speed and memory by `sonodistill bench deploy`. {ours}"
    images = TEST_IMAGES.get((first.task, first.data)) if first.table not in ("5", "headline") else None
    theirs = "Published: a single run without an interval" + (f", {images} test images" if images else "")
    theirs += " (by its accuracies)" if images == BUSI_TEST_IMAGES else ""
    return f"{ours} {theirs}."


def _notices(chosen: _Chosen) -> list[str]:
    said = []
    if any(cell.row == IMAGENET for cell in chosen.runs):
        said.append(f"{IMAGENET} is not in the paper.")
    of_b = {cell: runs for cell, runs in chosen.runs.items() if cell.table == "headline"}
    said += [_UNLIKE_B[cell.task] for cell in of_b]
    if any(cell.task == "segmentation" and not runs.structures for cell, runs in of_b.items()):
        said.append(_NOT_TOLD_APART)
    for cell, runs in chosen.runs.items():
        usual = published_recipe(cell.recipe, cell.task, cell.shots)
        changed = _unlike(runs.cell, (runs.cell.data_sha256, usual, runs.cell.precision))
        if changed:
            said.append(f"Recipe {cell.recipe} is changed: {changed}.")
    return list(dict.fromkeys(said + chosen.notices))
