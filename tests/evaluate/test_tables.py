"""Tables of a store that holds results made up from a seed."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sonodistill.errors import DatasetError
from sonodistill_training.evaluate.learning.recipes import recipe
from sonodistill_training.evaluate.metrics.classification import macro_f1
from sonodistill_training.evaluate.metrics.statistics import MisalignedResultsError, holm
from sonodistill_training.evaluate.results import Cell, Result, Store
from sonodistill_training.evaluate.tables.build import own_tables, paired_table, paired_tests, paper_tables
from sonodistill_training.evaluate.tables.errata import REASONS
from sonodistill_training.evaluate.tables.needed import paper_cells
from sonodistill_training.evaluate.tables.paired import compare
from sonodistill_training.evaluate.tables.parts import Row, Table, together
from sonodistill_training.evaluate.tables.published import TEACHER, US
from sonodistill_training.evaluate.tables.text import FIELDS, csv_text, html, markdown

CLASSES = ("benign", "malignant", "normal")
QUALITY = {"R18-Rand": 0.55, "R18-Distill-US": 0.75, "R50-Rand": 0.6, "R50-Distill-Default": 0.72}
QUALITY |= {US: 0.8, TEACHER: 0.78}
SHA = {"ddti": "d" * 64, "busi": "b" * 64}


def cell(encoder: str = "R18-Rand", data: str = "ddti", task: str = "segmentation", **changes) -> Cell:
    head = "linear" if task == "classification" else "light" if "ViT" in encoder else "unet"
    plain = Cell(encoder, "random", task, data, SHA[data], "finetune", head, recipe("paper", task))
    return replace(plain, **changes)


def segmented(of: Cell, images: int = 40, normals: int = 0) -> dict[str, list]:
    """Dice around the encoder's quality; the same frames for every cell."""
    rng = np.random.default_rng([of.seed, of.draw, len(of.encoder), sum(map(ord, of.encoder))])
    lesion = np.arange(images) >= normals
    truth = np.where(lesion, 1000 + 10 * np.arange(images), 0)
    dice = np.clip(rng.normal(QUALITY[of.encoder], 0.1, images), 0, 1) * (rng.random(images) > 0.05)
    predicted = np.where(lesion, np.where(dice > 0, 900, 0), np.where(rng.random(images) < 0.4, 50, 0))
    dice = np.where(lesion, dice, predicted == 0)
    hd95 = [float(8 * (1 - d) + 1) if a and b else None for d, a, b in zip(dice, lesion, predicted, strict=True)]
    return {
        "image": [f"{i:03d}.png" for i in range(images)],
        "group": [f"case{i // 2}" for i in range(images)],
        "label": ["x"] * images,
        "lesion": lesion.tolist(),
        "dice": dice.tolist(),
        "iou": (dice / (2 - dice)).tolist(),
        "hd95_px": hd95,
        "hd95_mm": [None] * images,
        "predicted_pixels": predicted.tolist(),
        "truth_pixels": truth.tolist(),
        "pixels": [65536] * images,
    }


def classified(of: Cell, images: int = 60) -> dict[str, list]:
    rng = np.random.default_rng([of.seed, of.draw, len(of.encoder)])
    truth = np.arange(images) % 3
    right = rng.random(images) < QUALITY[of.encoder]
    probabilities = rng.dirichlet((1, 1, 1), images)
    best = np.where(right, truth, (truth + 1) % 3)
    probabilities[np.arange(images), best] += 1
    probabilities /= 2
    columns = {
        "image": [f"{i:03d}.png" for i in range(images)],
        "group": [f"case{i}" for i in range(images)],
        "truth": [CLASSES[i] for i in truth],
        "predicted": [CLASSES[i] for i in best],
    }
    return columns | {f"probability_{name}": probabilities[:, k].tolist() for k, name in enumerate(CLASSES)}


def keep(folder: Path, cells: list[Cell], **changes) -> list[Result]:
    store = Store(folder)
    for one in cells:
        columns = classified(one) if one.task == "classification" else segmented(one, **changes)
        store.write(one, columns, {"summary": {}})
    return store.all()


def seeds(of: Cell, count: int = 3) -> list[Cell]:
    return [replace(of, seed=seed) for seed in range(count)]


def named(tables: list[Table], key: str) -> Table:
    return next(table for table in tables if table.key == key)


def row(table: Table, name: str) -> Row:
    return next(one for one in table.rows if one.name == name)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[Result]:
    """Fine-tuning on DDTI and BUSI by several encoders, three seeds each."""
    folder = tmp_path_factory.mktemp("store")
    keep(folder, [c for name in QUALITY for c in seeds(cell(name))])
    keep(folder, [c for name in ("R50-Rand", US) for c in seeds(cell(name, "busi"))], normals=8)
    classifiers = [c for name in ("R50-Rand", US) for c in seeds(cell(name, "busi", "classification"))]
    return keep(folder, classifiers)


@pytest.fixture(scope="module")
def tables(results) -> list[Table]:
    return paper_tables(results)


def test_a_paper_table_shows_the_mean_over_seeds_beside_the_published_value(tables) -> None:
    entry = named(tables, "3-ddti-segmentation-finetune").entry(US, "dice_empty1")
    expected = np.mean([segmented(one)["dice"] for one in seeds(cell(US))])
    assert entry.estimate == pytest.approx(expected, abs=1e-12)
    assert entry.published is not None and entry.published.value == 0.7872
    assert entry.difference == pytest.approx(expected - 0.7872)


def test_the_three_numbers_of_empty_truths_are_those_of_the_images(tables) -> None:
    table = named(tables, "3-busi-segmentation-finetune")
    runs = [segmented(one, normals=8) for one in seeds(cell(US, "busi"))]
    lesion = np.array(runs[0]["lesion"])
    assert table.entry(US, "dice_empty1").estimate == pytest.approx(np.mean([r["dice"] for r in runs]))
    of_lesions = np.mean([np.array(r["dice"])[lesion] for r in runs])
    assert table.entry(US, "dice_lesions").estimate == pytest.approx(of_lesions)
    false = np.mean([np.array(r["predicted_pixels"])[~lesion] > 0 for r in runs])
    assert table.entry(US, "false_positive_rate").estimate == pytest.approx(false)


def test_macro_f1_is_the_mean_of_the_runs_own(tables) -> None:
    expected = []
    for one in seeds(cell(US, "busi", "classification")):
        columns = classified(one)
        truth = np.array([CLASSES.index(name) for name in columns["truth"]])
        probabilities = np.stack([columns[f"probability_{name}"] for name in CLASSES], 1)
        expected.append(macro_f1(truth, probabilities))
    entry = named(tables, "3-busi-classification-finetune").entry(US, "macro_f1")
    assert entry.estimate == pytest.approx(np.mean(expected))


def test_every_interval_contains_its_estimate(tables, results) -> None:
    entries = [e for table in [*tables, *own_tables(results)] for one in table.rows for e in one.entries]
    with_interval = [e for e in entries if e.low is not None]
    assert len(with_interval) > 40
    assert all(e.low <= e.estimate <= e.high for e in with_interval)


def test_rows_say_how_many_seeds_they_are_of_and_captions_what_of(tables) -> None:
    table = named(tables, "3-ddti-segmentation-finetune")
    assert (row(table, US).seeds, row(table, US).draws) == (3, 1)
    assert all(part in table.caption for part in ("recipe paper", "50 epochs", SHA["ddti"][:8], "40 test images of 20"))
    assert "65 test images" in table.caption


def test_a_missing_result_is_said_and_the_published_value_stays(tables) -> None:
    table = named(tables, "2-ddti-segmentation-linear")
    entry = table.entry(US, "dice_empty1")
    assert (entry.estimate, entry.reason, row(table, US).seeds) == (None, "no result in the store", 0)
    assert entry.published is not None and entry.published.value == 0.7334
    assert "no result in the store" in markdown([table])


def test_an_empty_store_gives_every_table_with_nothing_of_ours() -> None:
    made = paper_tables([])
    assert {table.key.split("-")[0] for table in made} == {"2", "3", "4", "5", "6", "7", "8", "headline"}
    entries = [entry for table in made for one in table.rows for entry in one.entries]
    trained = [entry for entry in entries if entry.published and entry.published.task != "deployment"]
    assert len(trained) > 100
    assert all(entry.estimate is None for entry in trained)


def test_table_5_counts_what_needs_no_measurement_and_says_what_was_not_measured(tables) -> None:
    (table,) = [table for table in tables if table.key.startswith("5-")]
    assert table.entry("Parameters with the head (10^6)", US).estimate == pytest.approx(32.52, abs=0.01)
    latency = table.entry("CPU latency (ms)", US)
    assert (latency.estimate, latency.reason) == (None, "not measured here")
    assert table.entry("DDTI Dice", US).estimate == pytest.approx(QUALITY[US], abs=0.1)


def test_limited_labels_are_rows_with_their_draws(tmp_path) -> None:
    drawn = [cell(US, fraction=0.05, draw=draw, seed=seed) for draw in range(2) for seed in range(2)]
    table = named(paper_tables(keep(tmp_path, drawn), ["4"]), "4-ddti-segmentation-finetune")
    assert row(table, f"{US}, 5 %").runs == 4
    assert row(table, f"{US}, 10 %").seeds == 0
    assert "4 runs of 2 draws, 2 seeds" in markdown([table])


def test_draws_that_have_a_seed_each_are_told_from_all_combinations(tmp_path) -> None:
    drawn = [cell(US, fraction=0.05, draw=run, seed=run) for run in range(3)]
    text = markdown(paper_tables(keep(tmp_path, drawn), ["4"]))
    assert "3 draws, a seed each" in text


def test_a_transformers_own_recipe_is_a_row_beside_the_papers(tmp_path) -> None:
    fair = cell(TEACHER, recipe=recipe("vit", "segmentation"), data_sha256="e" * 64)
    kept = keep(tmp_path, [*seeds(cell(TEACHER)), *seeds(fair, 2)])
    table = named(paper_tables(kept, ["3"]), "3-ddti-segmentation-finetune")
    assert row(table, TEACHER).seeds == 3
    assert row(table, f"{TEACHER}, ViT recipe").seeds == 2
    assert row(table, f"{TEACHER}, ViT recipe").entries[0].published is None
    assert table.caption.count("Ours:") == 2


def test_results_on_other_data_are_left_out_of_a_paper_table_by_name(tmp_path) -> None:
    kept = keep(tmp_path, [*seeds(cell("R50-Rand")), *seeds(cell(US)), *seeds(cell(US, data_sha256="f" * 64), 5)])
    table = named(paper_tables(kept, ["3"]), "3-ddti-segmentation-finetune")
    assert row(table, US).seeds == 3
    assert any(US in notice and "ffffffff, not dddddddd" in notice for notice in table.notices)


def test_a_changed_recipe_is_said(tmp_path) -> None:
    short = recipe("paper", "segmentation", epochs=2)
    table = named(paper_tables(keep(tmp_path, [cell(US, recipe=short)]), ["3"]), "3-ddti-segmentation-finetune")
    assert any("epochs 2, not 50" in notice for notice in table.notices)


def test_own_tables_keep_other_data_apart_and_say_why(tmp_path) -> None:
    kept = keep(tmp_path, [cell("R18-Rand"), cell("R18-Distill-US", data_sha256="f" * 64)])
    made = own_tables(kept)
    assert [[one.name for one in table.rows] for table in made] != [["R18-Rand", "R18-Distill-US"]]
    assert len(made) == 2
    assert all("data_sha256" in table.notices[0] for table in made)


def test_own_tables_show_every_metric_that_is_defined(results) -> None:
    keys = {frozenset(column.key for column in table.columns) for table in own_tables(results)}
    assert frozenset({"dice_empty1", "iou_empty1", "missed", "hd95_px"}) in keys
    assert any({"dice_lesions", "iou_lesions", "false_positive_rate"} <= found for found in keys)
    assert any({"accuracy", "macro_f1", "auroc", "calibration_error"} <= found for found in keys)


def test_two_weights_of_one_encoder_are_two_rows(tmp_path) -> None:
    files = [f"sha256:{digit * 64}:resnet18" for digit in "12"]
    kept = keep(tmp_path, [cell("R18-Distill-US", weights=weights) for weights in files])
    (table,) = own_tables(kept)
    assert {one.name for one in table.rows} == {f"R18-Distill-US (sha256 {digit * 12})" for digit in "12"}


def test_seeds_of_other_test_images_are_refused(tmp_path) -> None:
    keep(tmp_path, [cell()])
    kept = keep(tmp_path, [cell(seed=1)], images=38)
    with pytest.raises(MisalignedResultsError, match="seed 1"):
        own_tables(kept)


def test_encoders_of_other_test_images_are_refused(tmp_path) -> None:
    keep(tmp_path, [cell()])
    kept = keep(tmp_path, [cell("R18-Distill-US")], images=38)
    with pytest.raises(MisalignedResultsError, match="R18-Distill-US"):
        own_tables(kept)


def test_the_order_of_the_images_does_not_matter(tmp_path) -> None:
    one, other = cell(), cell("R18-Distill-US")
    (straight,) = paired_tests(keep(tmp_path / "a", [one, other]))
    store = Store(tmp_path / "b")
    store.write(one, {name: values[::-1] for name, values in segmented(one).items()}, {"summary": {}})
    store.write(other, segmented(other), {"summary": {}})
    (turned,) = paired_tests(store.all())
    assert turned.found.difference == pytest.approx(straight.found.difference)
    assert turned.found.p_value == pytest.approx(straight.found.p_value)


def test_a_better_encoder_has_a_positive_difference_from_its_random_twin(results) -> None:
    found = {(c.cell.encoder, c.cell.data, c.cell.task): c for c in paired_tests(results)}
    compared = found["R18-Distill-US", "ddti", "segmentation"]
    assert compared.baseline == "R18-Rand"
    assert compared.found.difference > 0.1
    assert compared.found.low > 0 and compared.p_holm < 0.05
    assert found["R50-Distill-Default", "ddti", "segmentation"].baseline == "R50-Rand"


def test_the_other_way_round_only_the_sign_changes(results) -> None:
    runs = {one.cell.encoder: one for one in together(results) if one.cell.data == "ddti"}
    there, back = compare(runs[US], runs["R50-Rand"]), compare(runs["R50-Rand"], runs[US])
    assert there.difference == pytest.approx(-back.difference)
    assert there.p_value == pytest.approx(back.p_value)


def test_p_values_are_corrected_for_all_encoders_of_a_table(results) -> None:
    found = [c for c in paired_tests(results) if c.cell.data == "ddti"]
    assert len(found) == 3  # of six encoders two are baselines, and one stands alone with its head
    assert [c.p_holm for c in found] == pytest.approx(holm([c.found.p_value for c in found]))


def test_a_named_baseline_may_have_another_head_which_is_said(results) -> None:
    found = {c.cell.encoder: c for c in paired_tests(results, TEACHER)}
    assert set(found) == set(QUALITY) - {TEACHER}
    assert found["R50-Rand"].found.difference < 0
    assert any("unet - light" in one.name for one in paired_table(results, TEACHER).rows)


def test_accuracy_is_also_tested_by_mcnemar_on_one_run_of_each(results) -> None:
    (found,) = [c for c in paired_tests(results) if c.cell.task == "classification"]
    ours, theirs = (classified(cell(name, "busi", "classification")) for name in (US, "R50-Rand"))
    right = [np.array(one["predicted"]) == np.array(one["truth"]) for one in (ours, theirs)]
    assert found.mcnemar is not None and found.mcnemar_run == (0, 0)
    assert found.mcnemar.only_a == int((right[0] & ~right[1]).sum())
    assert found.mcnemar.only_b == int((right[1] & ~right[0]).sum())


def test_other_conditions_are_not_compared_and_are_named(tmp_path) -> None:
    kept = keep(tmp_path, [cell("R18-Rand"), cell("R18-Distill-US", data_sha256="f" * 64)])
    table = paired_table(kept)
    assert table.rows == ()
    assert any("R18-Distill-US is not compared with R18-Rand: data_sha256" in notice for notice in table.notices)
    one, other = together(kept)
    with pytest.raises(DatasetError, match="data_sha256"):
        compare(one, other)


def test_a_baseline_that_nothing_bears_is_refused(results) -> None:
    with pytest.raises(DatasetError, match="R51"):
        paired_tests(results, "R51")


def parsed(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text as lists of rows of cells."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M)
    return [[re.split(r" (?<!\\)\| ", line[2:-2]) for line in block.splitlines()] for block in blocks]


def test_markdown_parses_back_to_the_same_numbers(tables) -> None:
    found = parsed(markdown(tables))
    assert len(found) == len(tables)
    compared = 0
    for table, (head, rule, *lines) in zip(tables, found, strict=True):
        assert [title for title in head[1:] if title != "Runs"] == [column.title for column in table.columns]
        assert len(rule) == len(head)
        for one, line in zip(table.rows, lines, strict=True):
            assert len(line) == len(head)
            assert line[0].partition("[^")[0] == one.name
            for entry, column, shown in zip(one.entries, table.columns, line[1:], strict=False):
                if entry.estimate is not None:
                    assert float(shown.split()[0].strip(";")) == pytest.approx(entry.estimate, abs=10**-column.decimals)
                    compared += 1
                if entry.published is not None:
                    assert float(shown.partition("paper ")[2].split("[")[0].split()[0]) == entry.published.value
    assert compared > 20


def test_a_very_small_p_value_is_not_shown_as_zero(results) -> None:
    table = paired_table(results)
    small = [entry for one in table.rows for entry in one.entries[2:4] if entry.estimate < 1e-4]
    assert small
    assert markdown([table]).count("| < 0.0001 |") > 0
    assert "| 0.0000" not in markdown([table])


def test_every_footnote_is_explained_once(tables) -> None:
    text = markdown(tables)
    used = set(re.findall(r"\[\^([\w-]+)\](?!:)", text))
    explained = re.findall(r"^\[\^([\w-]+)\]: .+", text, flags=re.M)
    assert set(explained) == used == set(REASONS)
    assert len(explained) == len(used)


def test_csv_has_a_line_for_every_entry_with_full_precision(tables) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(tables))))
    assert tuple(lines[0]) == FIELDS
    assert len(lines) == sum(len(one.entries) for table in tables for one in table.rows)
    place = {"table": "3-ddti-segmentation-finetune", "row": TEACHER, "column": "iou_empty1"}
    (line,) = [line for line in lines if place.items() <= line.items()]
    assert float(line["estimate"]) == named(tables, place["table"]).entry(TEACHER, "iou_empty1").estimate
    assert line["errata"] == "impossible-iou one-rate"


def test_html_is_balanced_and_its_marks_lead_somewhere(tables) -> None:
    text = html(tables)
    for tag in ("section", "table", "tr", "td", "th", "sup", "p", "div"):
        assert len(re.findall(f"<{tag}[ >]", text)) == text.count(f"</{tag}>")
    targets = set(re.findall(r'href="#([\w-]+)"', text))
    assert targets and targets <= set(re.findall(r'id="([\w-]+)"', text))


def test_names_from_outside_are_escaped_in_html(tmp_path) -> None:
    QUALITY["<b>x</b>"] = 0.5
    try:
        text = html(own_tables(keep(tmp_path, [cell("<b>x</b>")])))
    finally:
        del QUALITY["<b>x</b>"]
    assert "<b>x" not in text and "&lt;b&gt;x" in text


def test_the_plan_filled_by_a_store_leaves_no_place_empty(tmp_path) -> None:
    planned = [one for one in paper_cells(["7"]) if one.row in QUALITY]
    kept = keep(tmp_path, [cell(one.row, one.data, one.task, protocol=one.protocol, head=one.head) for one in planned])
    filled = {(table.key, one.name) for table in paper_tables(kept, ["7"]) for one in table.rows if one.seeds}
    assert len(filled) == len(planned) == 6


def test_a_rate_that_all_images_share_has_wilsons_interval(tmp_path) -> None:
    of = cell("R18-Rand", "busi")
    columns = segmented(of, normals=6)
    for row in range(6):
        columns["predicted_pixels"][row], columns["dice"][row], columns["iou"][row] = 50, 0.0, 0.0
    kept = Store(tmp_path).write(of, columns, {"summary": {}})
    found = together([kept])[0].metric("false_positive_rate")
    # Six normals of three patients: the lower end is 3 / (3 + 1.96 ** 2).
    assert (found.estimate, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(3 / (3 + 1.96**2), abs=1e-3)
