"""What the papers print, and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonodistill_training.evaluate.encoders.rows import rows
from sonodistill_training.evaluate.metrics.segmentation import is_possible
from sonodistill_training.evaluate.results import PROTOCOLS
from sonodistill_training.evaluate.tables.costs import cost_of
from sonodistill_training.evaluate.tables.errata import (
    ARITHMETIC,
    GMACS,
    MILLIONS,
    REASONS,
    codes_of,
    errata,
    explained_by,
)
from sonodistill_training.evaluate.tables.needed import TABLES, distinct, paper_cells
from sonodistill_training.evaluate.tables.published import TEACHER, US, Published, published


def flagged(code: str) -> set[tuple[str, str, str, float]]:
    return {(e.of.table, e.of.row, e.of.metric, e.of.value) for e in errata() if e.code == code}


def accuracies() -> list[float]:
    return sorted({value.value for value in published() if value.paper == "A" and value.metric == "accuracy"})


def test_exactly_two_ious_are_impossible() -> None:
    assert flagged("impossible-iou") == {("2", TEACHER, "iou", 0.4743), ("3", TEACHER, "iou", 0.4790)}


def test_the_dice_of_an_impossible_row_is_marked_wherever_it_is_printed() -> None:
    assert {(table, value) for table, _, _, value in flagged("dice-of-impossible-iou")} == {
        ("2", 0.6503),
        ("3", 0.7933),
        ("5", 0.7933),
        ("8", 0.7933),
    }


def test_one_of_nineteen_accuracies_is_no_multiple_of_one_in_157() -> None:
    assert len(accuracies()) == 19
    assert flagged("not-of-157") == {("6", "R50-Distill-Default-Mixup", "accuracy", 0.8712)}


def test_no_other_number_of_test_images_explains_the_accuracies() -> None:
    explained = {images: len(explained_by(accuracies(), images)) for images in range(60, 260)}
    assert max(explained, key=lambda images: explained[images]) == 157
    assert explained.pop(157) == 18
    assert max(explained.values()) <= 3


def test_one_step_of_table_4_falls_with_more_labels() -> None:
    assert flagged("not-monotone") == {("4", US, "accuracy", 0.7197), ("4", US, "accuracy", 0.6242)}


def test_default_against_us_is_confounded_where_the_other_two_students_are_missing() -> None:
    assert {(table, row) for table, row, _, _ in flagged("confounded")} == {
        (table, row) for table in ("2", "3", "4") for row in ("R50-Distill-Default", US)
    }


def test_table_3_prints_the_default_without_mixup_and_us_with_it() -> None:
    printed = {(v.table, v.row, v.data, v.task, v.metric): v.value for v in published() if v.fraction == 1}
    of_table_6 = {key: value for key, value in printed.items() if key[0] == "6"}
    same = {row for (_, row, *rest), value in of_table_6.items() if printed.get(("3", row, *rest)) == value}
    assert same == {"R50-Distill-Default", US}
    assert len(of_table_6) == 16


def test_the_flops_of_table_5_are_macs_at_256() -> None:
    assert flagged("macs-at-256") == {("5", TEACHER, "gflops", 22.80), ("5", US, "gflops", 10.67)}


@pytest.mark.parametrize("row", [TEACHER, US])
def test_counted_networks_agree_with_the_constants(row: str) -> None:
    cost = cost_of(row)
    assert cost is not None
    for size, gmacs in GMACS[row].items():
        assert cost.gmacs[size] == pytest.approx(gmacs, rel=0.005)  # without normalisation layers
    millions = {TEACHER: 87.44, US: 32.52}[row]
    assert cost.millions == pytest.approx(millions, abs=0.03)
    if row == US:
        assert cost.encoder_millions == pytest.approx(MILLIONS["encoder"], abs=0.001)


def test_three_throughputs_are_not_the_inverse_of_the_latency() -> None:
    assert {value for *_, value in flagged("throughput-not-latency")} == {86.21, 174.88, 27.64}


def test_only_the_speed_up_on_the_cpu_is_beyond_the_operations() -> None:
    assert {value for *_, value in flagged("unlike-speeds")} == {430.51, 33.76}


def test_a_resnet_50_of_25_million_has_its_classifier() -> None:
    assert {(table, row) for table, row, _, _ in flagged("with-classifier")} == {("5", US), ("8", US)}


def test_every_code_is_used_and_explained_in_one_sentence() -> None:
    assert {erratum.code for erratum in errata()} == set(REASONS)
    assert set(ARITHMETIC) < set(REASONS)
    assert all(re.fullmatch(r"[A-Z].*\.", reason) for reason in REASONS.values())


def test_numbers_without_fault_have_no_code() -> None:
    (value,) = [v for v in published() if v.table == "3" and v.row == "R50-Rand" and v.metric == "macro_f1"]
    assert codes_of(value) == ()


def test_a_corrected_number_loses_its_flag() -> None:
    values = [replace(v, value=0.66) if v.metric == "iou" and v.value == 0.4790 else v for v in published()]
    assert {e.of.value for e in errata(values) if e.code == "impossible-iou"} == {0.4743}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_no_set_of_images_yields_means_that_are_called_impossible(dices: list[float]) -> None:
    dice = sum(dices) / len(dices)
    iou = sum(d / (2 - d) for d in dices) / len(dices)
    rounded = Published("A", "3", "x", "segmentation", "ddti", "finetune", "dice", round(dice, 4))
    pair = [rounded, replace(rounded, metric="iou", value=round(iou, 4))]
    assert is_possible(round(dice, 4), round(iou, 4))
    assert not [e for e in errata(pair) if e.code == "impossible-iou"]


@given(st.integers(1, 400), st.data())
def test_a_share_of_n_images_is_explained_by_n(images: int, data: st.DataObject) -> None:
    value = round(data.draw(st.integers(0, images)) / images, 4)
    assert explained_by([value], images) == [value]


def test_numbers_agree_with_the_paper_itself(shared) -> None:
    text = (shared / "papers" / "domain_constrained_distillation_midl2026.txt").read_text()
    tables = {number: text[text.index(f"Table {number}: ") :][:1200] for number in "2345678"}
    for value in published():
        if value.paper == "A":
            number = f"{value.value:.4f}" if value.task != "deployment" else f"{value.value:g}"
            assert number in tables[value.table], value


def test_headlines_agree_with_the_summary_of_paper_b(shared) -> None:
    text = (shared / "papers" / "ultradino_2506.19552_summary.txt").read_text()
    values = {(v.row, v.data): round(100 * v.value, 2) for v in published() if v.paper == "B"}
    gap = values["UltraDINO ViT-B/16", "fass"] - values.pop(("USFM ViT-B/16", "fass"))
    assert all(f"{value:.2f}" in text for value in values.values())
    assert f"{gap:.2f}" in text


def test_every_printed_metric_has_a_cell_in_the_plan() -> None:
    planned = {(c.table, c.row, c.task, c.data, c.protocol, c.fraction, c.shots) for c in paper_cells()}
    for v in published():
        if v.task != "deployment":
            assert (v.table, v.row, v.task, v.data, v.protocol, v.fraction, v.shots) in planned


def test_the_plan_names_each_piece_of_work_once_and_every_table() -> None:
    cells = paper_cells()
    assert {cell.table for cell in cells} == set(TABLES)
    assert len(cells) == len(set(cells))
    work = [replace(cell, table="") for cell in distinct(cells)]
    assert len(work) == len(set(work)) < len(cells)
    assert set(work) == {replace(cell, table="") for cell in cells}


def test_transformers_get_heads_that_work_on_them_and_a_fair_recipe_beside_the_papers() -> None:
    for cell in paper_cells():
        assert cell.protocol in PROTOCOLS
        if cell.task == "segmentation" and cell.protocol != "linear":
            plain = "ViT" in cell.row or cell.row in ("DINOv2", "iBOT")
            assert cell.head in (("light", "upernet") if plain else ("unet",))
    of_teacher = {cell.recipe for cell in paper_cells(["3"]) if cell.row == TEACHER}
    assert of_teacher == {"paper", "vit"}


def test_every_row_of_the_plan_is_an_encoder_of_that_name() -> None:
    assert {cell.row for cell in paper_cells()} <= set(rows())


def test_limited_labels_are_drawn_several_times() -> None:
    draws = {cell.table: cell.draws for cell in paper_cells() if cell.shots or cell.fraction < 1}
    assert draws == {"4": 5, "headline": 5}
