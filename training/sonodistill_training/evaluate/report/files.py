"""What a report is made from, as files: per-image results and curves of all cells in long form, and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from sonodistill.files import atomic_path, write_text
from sonodistill_training.evaluate.results import Result
from sonodistill_training.evaluate.tables.parts import Table
from sonodistill_training.evaluate.tables.text import csv_text

TASKS = ("segmentation", "classification")
TABLES, CURVES = "tables.csv", "curves.csv"
CELL_COLUMNS = (
    "cell", "encoder", "weights", "task", "data", "protocol", "head", "recipe", "precision", "fraction", "shots",
    "draw", "seed",
)  # fmt: skip


def images_name(task: str, suffix: str) -> str:
    """ "images-segmentation.parquet", the per-image results of a task."""
    return f"images-{task}.{suffix}"


def image_table(results: Sequence[Result]) -> pa.Table:
    """A row for each cell and test image: :data:`CELL_COLUMNS` and the per-image columns, null where a cell has none.

    Args:
        results: of one task.
    """
    parts = [_with_cell(result, _typed(result.images)) for result in results]
    return pa.concat_tables(parts, promote_options="permissive")


def curve_table(results: Sequence[Result]) -> pa.Table | None:
    """A row for each cell and epoch: :data:`CELL_COLUMNS`, epoch, loss, validation; None where none was trained so."""
    parts = [_with_cell(result, pa.Table.from_pylist(result.curve)) for result in results if result.curve]
    return pa.concat_tables(parts, promote_options="permissive") if parts else None


def write_files(results: Sequence[Result], tables: Sequence[Table], out: Path) -> list[str]:
    """Write the files into a folder; returns their names."""
    names = []
    for task in TASKS:
        of_task = [result for result in results if result.cell.task == task]
        if of_task:
            table = image_table(of_task)
            with atomic_path(out / images_name(task, "parquet")) as path:
                pq.write_table(table, path)
            _write_csv(table, out / images_name(task, "csv"))
            names += [images_name(task, "parquet"), images_name(task, "csv")]
    curves = curve_table(results)
    if curves is not None:
        _write_csv(curves, out / CURVES)
        names.append(CURVES)
    write_text(out / TABLES, csv_text(tables))
    return [*names, TABLES]


def _with_cell(result: Result, table: pa.Table) -> pa.Table:
    cell = result.cell
    values: dict[str, Any] = {name: getattr(cell, name) for name in CELL_COLUMNS if name not in ("cell", "recipe")}
    values |= {"cell": cell.key, "recipe": cell.recipe.name}
    columns = {name: pa.array([values[name]] * len(table)) for name in CELL_COLUMNS}
    return pa.table(columns | {name: table[name] for name in table.column_names})


def _typed(table: pa.Table) -> pa.Table:
    """A column that is nowhere defined in a cell (HD95 in mm without a calibration) is a column of numbers."""
    fields = [
        pa.field(field.name, pa.float64() if pa.types.is_null(field.type) else field.type) for field in table.schema
    ]
    return table.cast(pa.schema(fields))


def _write_csv(table: pa.Table, target: Path) -> None:
    with atomic_path(target) as path:
        csv.write_csv(table, path)
