"""Parts of an evaluation's report: charts, what the encoders are called, and the commands that repeat a run."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonodistill_training.evaluate.learning.recipes import recipe
from sonodistill_training.evaluate.report.charts import Line, Pen, chart, pens, short_weights
from sonodistill_training.evaluate.report.commands import commands, encoder_text
from sonodistill_training.evaluate.report.gallery import merged
from sonodistill_training.evaluate.results import Cell, Result

PEN, NAN = Pen("A & B", "#0b84c4"), float("nan")


def cell(encoder: str = "R18-Rand", weights: str = "random:resnet18", **changes) -> Cell:
    made = recipe("paper", "segmentation")
    return replace(Cell(encoder, weights, "segmentation", "busi", "b" * 64, "finetune", "unet", made), **changes)


def line(x, y, spread: float = 0.0) -> Line:
    return Line(PEN, x, y, [v - spread for v in y], [v + spread for v in y])


def dots(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_points_are_where_the_axes_say() -> None:
    svg = chart([line([1, 3], [0.2, 0.8])], label="l", x_label="x", x_ticks={1: "one", 2: "two", 3: "three"})
    places = {text: float(x) for x, text in re.findall(r'<text x="([\d.]+)" [^>]*"middle">(\w+)<', svg)}
    (x0, y0), (x1, y1) = dots(svg)
    assert (x0, x1) == (places["one"], places["three"])
    assert places["two"] == pytest.approx((x0 + x1) / 2, abs=0.1)
    levels = {float(t): float(y) - 4 for y, t in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', svg)}
    assert (y0, y1) == pytest.approx((levels[0.2], levels[0.8]), abs=0.2)


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors() -> None:
    x = [place for place, _ in dots(chart([line([0.01, 0.1, 1.0], [1, 2, 3])], label="l", x_label="x", log_x=True,
                                           x_ticks={0.01: "1 %", 1.0: "100 %"}))]  # fmt: skip
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)


def test_the_band_encloses_the_line() -> None:
    svg = chart([line([1, 2, 3], [0.3, 0.5, 0.6], spread=0.1)], label="l", x_label="x")
    (path,) = re.findall(r'<path d="M([^"]+)Z" style="fill: #0b84c4; fill-opacity', svg)
    edge = [tuple(map(float, point.split())) for point in path.split("L")]
    for (_, y), (_, upper), (_, lower) in zip(dots(svg), edge[:3], edge[:2:-1], strict=True):
        assert upper < y < lower  # y grows downwards


def test_a_chart_without_an_interval_has_no_band_and_gaps_are_left_out() -> None:
    svg = chart([line([1, 2, 3], [0.1, NAN, 0.3])], label="l", x_label="x")
    assert "fill-opacity" not in svg and "nan" not in svg
    assert len(dots(svg)) == 2


@pytest.mark.parametrize("points", [([5], [0.25]), ([1, 2], [3, 3])], ids=["one point", "a constant"])
def test_a_single_point_and_a_constant_are_drawn(points) -> None:
    assert len(dots(chart([line(*points)], label="l", x_label="x"))) == len(points[0])


def test_nothing_finite_is_said() -> None:
    assert "No finite value" in chart([line([1], [NAN])], label="l", x_label="x")


def test_a_chart_reads_its_ends_aloud_and_escapes_names() -> None:
    svg = chart([line([1, 2], [0.1, 0.9])], label="Dice by epoch", x_label="x")
    assert 'aria-label="Dice by epoch. A &amp; B: 0.1 to 0.9"' in svg


def test_every_encoder_has_a_pen_of_its_own_in_any_order() -> None:
    cells = [cell(f"Mine-{number}") for number in range(14)] + [cell()]
    found = pens(cells)
    assert len({(pen.colour, pen.dash) for pen in found.values()}) == 15
    assert found == pens(cells[::-1])


def test_encoders_of_one_name_are_told_apart_by_their_weights() -> None:
    found = pens([cell(weights=f"sha256:{digit * 64}:") for digit in "12"])
    assert [pen.name for pen in found.values()] == [f"R18-Rand (sha256 {digit * 12})" for digit in "12"]
    assert short_weights("random:resnet18") == "random:resnet18"


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=4), st.integers(1, 8))
def test_merging_takes_turns_and_repeats_nothing(lists, limit) -> None:
    found = merged(lists, limit)
    everything = {name for names in lists for name in names}
    assert len(found) == len(set(found)) == min(limit, len(everything))
    best = {name: min(names.index(name) for names in lists if name in names) for name in everything}
    assert all(best[one] <= best[other] for one, other in pairwise(found))


@pytest.mark.parametrize(
    ("encoder", "weights", "text"),
    [
        ("R18-Rand", "random:resnet18", "R18-Rand"),
        ("R18-Distill-US", f"sha256:{'a' * 64}:resnet18", "R18-Distill-US=FILE"),
        ("R50-ImageNet", "hub:resnet50", "R50-ImageNet"),
        ("LightlyTrain", f"sha256:{'a' * 64}:resnet50", "LightlyTrain:resnet50=FILE"),
        ("Mine", f"sha256:{'a' * 64}:", "Mine=FILE"),
        ("Mine", "random:resnet34", "Mine:resnet34"),
        ("Mine", "hub:vit_small_patch16_224", "Mine:vit_small_patch16_224=hub"),
    ],
)
def test_an_encoder_is_written_as_the_command_line_takes_it(encoder, weights, text) -> None:
    assert encoder_text(encoder, weights) == text


def result(of: Cell) -> Result:
    return Result(of, Path("nowhere"), {"summary": {}, "split": "paper"})


def words(command: str, option: str) -> list[str]:
    parts = shlex.split(command)
    return [after for word, after in pairwise(parts) if word == option]


def test_encoders_and_protocols_that_were_evaluated_alike_share_a_command() -> None:
    cells = [
        cell(encoder, weights, protocol=protocol, seed=seed)
        for encoder, weights in (("R18-Rand", "random:resnet18"), ("Mine X", "random:resnet34"))
        for protocol in ("frozen_encoder_unet", "finetune")
        for seed in range(3)
    ]
    (command,) = commands([result(of) for of in cells])
    assert words(command, "--encoder") == ["Mine X:resnet34", "R18-Rand"]
    assert words(command, "--protocol") == ["frozen_encoder_unet", "finetune"]
    assert (words(command, "--seeds"), words(command, "--split"), words(command, "--head")) == (
        ["3"],
        ["paper"],
        ["unet"],
    )


def test_a_changed_recipe_and_few_labels_are_in_the_command() -> None:
    changed = recipe("vit", "segmentation", epochs=7, learning_rate=3e-4)
    cells = [cell(recipe=changed, fraction=0.05, draw=1, seed=1), cell(recipe=changed, fraction=1.0, shots=20)]
    (command,) = commands([result(of) for of in cells])
    assert words(command, "--recipe") == ["vit"]
    assert (words(command, "--epochs"), words(command, "--learning-rate")) == (["7"], ["0.0003"])
    assert (words(command, "--fraction"), words(command, "--shots"), words(command, "--seeds")) == (
        ["0.05"],
        ["20"],
        ["2"],
    )


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("paper", "--split paper --precision fp32"),
        ("seed 3", "--split seed --split-seed 3 --precision fp32"),
        ("index, validation by seed 3", "--split index --split-seed 3 --precision fp32"),
    ],
)
def test_the_command_divides_as_the_run_did(way, words) -> None:
    (command,) = commands([Result(cell(), Path("cell"), {"split": way})])
    assert words in command
