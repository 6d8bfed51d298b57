"""What lies beside the report: per-image results, curves, representation."""

from __future__ import annotations

import base64
import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from sonodistill.errors import DatasetError
from sonodistill_training.evaluate.report.write import write_report
from sonodistill_training.evaluate.results import Store

sys.path.insert(0, str(Path(__file__).parent))
from report_case import FRAMES, cell, classified


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_parquet_and_csv_have_a_row_for_each_cell_and_image_as_the_store_has_it(written, store, task) -> None:
    results = [result for result in store.all() if result.cell.task == task]
    table = pq.read_table(written / f"images-{task}.parquet")
    assert len(table) == FRAMES * len(results)
    with (written / f"images-{task}.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == table.column_names
    metric = "dice" if task == "segmentation" else "probability_benign"
    by_key = {(row["cell"], row["image"]): row for row in table.to_pylist()}
    assert len(by_key) == len(table) == len(lines)
    in_text = {(line["cell"], line["image"]): line for line in lines}
    for result in results:
        for image, value in zip(result.column("image"), result.column(metric), strict=True):
            row = by_key[result.cell.key, image]
            assert row[metric] == value == float(in_text[result.cell.key, image][metric])
            assert (row["encoder"], row["seed"]) == (result.cell.encoder, result.cell.seed)
            assert (row["recipe"], row["fraction"]) == ("paper", result.cell.fraction)


def test_a_distance_that_no_image_has_is_an_empty_column_of_numbers(written) -> None:
    table = pq.read_table(written / "images-segmentation.parquet")
    assert str(table.schema.field("hd95_mm").type) == "double"
    assert table["hd95_mm"].null_count == len(table)


def test_other_classes_are_columns_of_their_own(tmp_path) -> None:
    store = Store(tmp_path)
    store.write(cell(task="classification"), classified(), {})
    store.write(cell(task="classification", data="other"), classified(("cyst", "solid")), {})
    write_report(store, tmp_path, papers=False)
    table = pq.read_table(tmp_path / "images-classification.parquet")
    assert [table[f"probability_{label}"].null_count for label in ("benign", "cyst")] == [FRAMES, FRAMES]


def test_curves_are_kept_as_numbers(written, store) -> None:
    with (written / "curves.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == sum(len(result.curve) for result in store.all())
    first = store.all()[0]
    mine = [float(line["loss"]) for line in lines if line["cell"] == first.cell.key]
    assert mine == [row["loss"] for row in first.curve]


# the representation


def test_a_representation_analysis_is_shown_with_figure_and_numbers(store, tmp_path) -> None:
    folder = tmp_path / "representation"
    folder.mkdir()
    picture = cv2.imencode(".png", np.full((4, 4, 3), 200, np.uint8))[1].tobytes()
    (folder / "tsne.png").write_bytes(picture)
    table = "# Representation\n\n| Encoder | RankMe |\n| --- | --- |\n| A\\|B <b> | 12.5 |\n\nPurity: a share.\n"
    (folder / "numbers.md").write_text(table, encoding="utf-8")
    numbers = {"files": ["tsne.svg", "tsne.png"], "encoders": {"A|B <b>": {}}}
    (folder / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")
    page = write_report(store, tmp_path, representation=folder, papers=False).read_text(encoding="utf-8")
    assert base64.b64encode(picture).decode() in page
    assert '<th scope="row">A|B &lt;b&gt;</th><td>12.5</td>' in page
    assert "<p>Purity: a share.</p>" in page


def test_an_unfinished_representation_analysis_is_refused(store, tmp_path) -> None:
    with pytest.raises(DatasetError, match="no finished representation analysis"):
        write_report(store, tmp_path, representation=tmp_path, papers=False)
