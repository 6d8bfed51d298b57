"""What the scores of a test set amount to, and pairs of Dice and IoU that no predictions can have."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonodistill.errors import EmptyInputError
from sonodistill_training.evaluate.metrics.segmentation import (
    ImpossibleResultError,
    check_invariant,
    check_means,
    is_possible,
    score,
    summarise_segmentation,
)

FEW = settings(max_examples=25, deadline=None)
DICE = st.floats(0, 1)
# DDTI and BUSI, Dice and IoU: Tables 2, 3, 6 and 7 of the paper; rows that stand in two tables once.
PUBLISHED = {
    (0.6028, 0.4647),
    (0.4365, 0.3369),
    (0.7378, 0.6252),
    (0.5771, 0.4857),
    (0.7334, 0.6192),
    (0.6083, 0.5259),
    (0.6503, 0.4743),
    (0.2384, 0.1729),
    (0.6605, 0.5297),
    (0.5525, 0.4629),
    (0.7652, 0.6608),
    (0.6967, 0.6209),
    (0.7872, 0.6745),
    (0.6930, 0.6126),
    (0.7933, 0.4790),
    (0.2838, 0.1957),
    (0.7732, 0.6658),
    (0.7759, 0.6705),
    (0.6936, 0.5657),
    (0.7552, 0.6424),
    (0.6251, 0.4828),
    (0.7543, 0.6386),
}
ERRATA = {(0.7933, 0.4790), (0.6503, 0.4743)}


def square(*corners: int) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    top, bottom, left, right = corners
    mask[top:bottom, left:right] = True
    return mask


NOTHING = square(0, 0, 0, 0)


def columns(pairs, mm_per_pixel=0.5):
    scores = [score(*pair, mm_per_pixel=mm_per_pixel) for pair in pairs]
    return {name: [getattr(scored, name) for scored in scores] for name in type(scores[0]).__slots__}


TEST_SET = [
    (square(4, 12, 4, 12), square(4, 12, 4, 12)),  # found exactly
    (square(4, 12, 4, 12), square(4, 12, 8, 16)),  # half found: Dice 1/2, IoU 1/3, 4 columns away
    (NOTHING, square(0, 2, 0, 2)),  # missed
    (NOTHING, NOTHING),  # a normal, as it should be
    (square(0, 1, 0, 1), NOTHING),  # a false positive of one pixel
    (NOTHING, NOTHING),
]


def published_pairs(text: str) -> set[tuple[float, float]]:
    """(Dice, IoU) of the paper's Tables 2, 3, 6 and 7, read from its tab-separated rows."""

    def rows(table: int, prefix: str) -> list[list[str]]:
        below = text[text.index(f"\nTable {table}: ") :].split("\n\n", 2)[1]
        return [cells for cells in (line.split("\t") for line in below.splitlines()) if cells[0].startswith(prefix)]

    pairs = [pair for table in (2, 3) for row in rows(table, ("R50", "DINOv3")) for pair in (row[1:3], row[3:5])]
    pairs += [row[-2:] for row in rows(6, ("Default", "US-aware"))] + [row[-2:] for row in rows(7, ("R", "ConvNeXt"))]
    return {(float(dice), float(iou)) for dice, iou in pairs}


def test_a_summary_gives_empty_truths_by_all_three_rules():
    summary = summarise_segmentation(columns(TEST_SET))
    assert (summary["images"], summary["lesions"], summary["normals"]) == (6, 3, 3)
    assert summary["dice_empty1"] == pytest.approx((1 + 1 / 2 + 0 + 1 + 0 + 1) / 6)
    assert summary["iou_empty1"] == pytest.approx((1 + 1 / 3 + 0 + 1 + 0 + 1) / 6)
    assert summary["dice_lesions"] == pytest.approx((1 + 1 / 2) / 3)
    assert summary["iou_lesions"] == pytest.approx((1 + 1 / 3) / 3)
    assert summary["false_positive_rate"] == pytest.approx(1 / 3)
    assert summary["missed"] == pytest.approx(1 / 3)


def test_a_summary_says_how_many_lesions_have_no_hd95():
    summary = summarise_segmentation(columns(TEST_SET))
    assert summary["hd95_px"] == pytest.approx((0 + 4) / 2)
    assert summary["hd95_mm"] == pytest.approx((0 + 2) / 2)
    assert (summary["hd95_undefined"], summary["hd95_mm_undefined"]) == (1, 1)


def test_without_calibration_hd95_in_mm_is_none():
    summary = summarise_segmentation(columns(TEST_SET, mm_per_pixel=None))
    assert summary["hd95_mm"] is None and summary["hd95_mm_undefined"] == 3
    assert summary["hd95_px"] is not None


def test_hd95_of_a_stored_table_may_be_undefined_as_nan():
    stored = columns(TEST_SET)
    as_arrays = {name: np.array(values, float) for name, values in stored.items()}
    assert summarise_segmentation(as_arrays) == summarise_segmentation(stored)


def test_without_normals_there_is_no_false_positive_rate():
    summary = summarise_segmentation(columns(TEST_SET[:3]))
    assert summary["false_positive_rate"] is None and summary["normals"] == 0


def test_without_lesions_there_is_nothing_to_say_of_lesions():
    summary = summarise_segmentation(columns(TEST_SET[3:]))
    of_lesions = ("dice_lesions", "iou_lesions", "missed", "hd95_px", "hd95_mm")
    assert [summary[name] for name in of_lesions] == [None] * 5
    assert summary["hd95_undefined"] == 0


def test_a_summary_is_plain_json():
    summary = summarise_segmentation(columns(TEST_SET))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_an_empty_test_set_is_refused():
    empty = {name: [] for name in columns(TEST_SET)}
    with pytest.raises(EmptyInputError, match="test set holds no image"):
        summarise_segmentation(empty)


def test_a_summary_of_scores_that_do_not_belong_together_is_refused():
    wrong = columns(TEST_SET)
    wrong["iou"][1] = 0.5
    with pytest.raises(ImpossibleResultError, match=r"Dice 0\.5 and IoU 0\.5 of image 1"):
        summarise_segmentation(wrong)


def test_a_score_that_is_not_a_number_is_refused():
    wrong = columns(TEST_SET)
    wrong["dice"][0] = wrong["iou"][0] = float("nan")
    with pytest.raises(ImpossibleResultError, match="nan"):
        summarise_segmentation(wrong)


@pytest.mark.parametrize("image, other", [(2, 1.0), (3, 0.0), (4, 1.0)])
def test_empty_masks_scored_by_another_rule_are_refused(image, other):
    wrong = columns(TEST_SET)
    wrong["dice"][image] = wrong["iou"][image] = other
    with pytest.raises(ImpossibleResultError, match=f"image {image}, which has an empty mask"):
        summarise_segmentation(wrong)


@FEW
@given(st.lists(DICE, min_size=1, max_size=30))
def test_dice_and_the_iou_that_follows_are_accepted(dice):
    check_invariant(dice, [value / (2 - value) for value in dice])


@FEW
@given(DICE, st.floats(1e-6, 1), st.sampled_from([-1, 1]))
def test_an_image_whose_iou_does_not_follow_from_its_dice_is_refused(dice, away, sign):
    with pytest.raises(ImpossibleResultError, match="IoU must be"):
        check_invariant([dice], [dice / (2 - dice) + sign * away])


def test_scores_of_different_images_are_refused():
    with pytest.raises(ImpossibleResultError, match="Dice of 2 images and IoU of 1"):
        check_invariant([1, 1], [1])


@pytest.mark.parametrize("dice, iou", [(0.7933, 0.4790), (0.5, 0.51), (1.2, 1.1), (-0.1, -0.1), (float("nan"), 0.5)])
def test_means_that_no_predictions_have_are_refused(dice, iou):
    with pytest.raises(ImpossibleResultError, match="mean Dice"):
        check_means(dice, iou)


@FEW
@given(st.lists(DICE, min_size=1, max_size=30), st.integers(2, 6))
def test_rounded_means_of_any_predictions_are_possible(dice, decimals):
    iou = [value / (2 - value) for value in dice]
    assert is_possible(round(float(np.mean(dice)), decimals), round(float(np.mean(iou)), decimals), decimals)


@FEW
@given(DICE, DICE)
def test_a_pair_beyond_rounding_is_impossible(dice, iou):
    least, most = max(dice - 1e-4, 0), min(dice + 1e-4, 1)
    if iou > most + 1e-4 or iou < least / (2 - least) - 1e-4:
        assert not is_possible(dice, iou)


@pytest.mark.parametrize(
    "dice, iou", [(1.01, 1.0), (1.01, 1.01), (-0.1, 0.0), (float("nan"), 0.5), (0.5, float("nan"))]
)
def test_what_is_no_score_is_impossible(dice, iou):
    assert not is_possible(dice, iou)


def test_exactly_two_published_pairs_are_impossible():
    assert {pair for pair in PUBLISHED if not is_possible(*pair)} == ERRATA


def test_the_published_pairs_are_those_of_the_papers_text(shared):
    paper = shared / "papers" / "domain_constrained_distillation_midl2026.txt"
    if not paper.is_file():
        pytest.skip("no text of the paper beside this checkout")
    found = published_pairs(paper.read_text(encoding="utf-8"))
    assert found == PUBLISHED
    assert {pair for pair in found if not is_possible(*pair)} == ERRATA
