"""Dice, IoU and HD95 of single images: properties, and other libraries where their conventions coincide."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import DiceMetric, compute_hausdorff_distance
from segmentation_models_pytorch.metrics import get_stats, iou_score
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from sonodistill_training.evaluate.metrics.segmentation import (
    MaskError,
    check_invariant,
    hausdorff95,
    require_finite_predictions,
    score,
)
from sonodistill_training.monitor.features import NotFiniteError

FEW = settings(max_examples=25, deadline=None)
MASKS = st.integers(1, 12).flatmap(
    lambda height: st.integers(1, 12).flatmap(
        lambda width: st.tuples(arrays(np.bool_, (height, width)), arrays(np.bool_, (height, width)))
    )
)
EMPTY, FULL = np.zeros((8, 8), bool), np.ones((8, 8), bool)


def ellipse(seed: int, size: int = 64) -> np.ndarray:
    """(size, size) bool: a lesion of a random place, size and angle."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((size, size), np.uint8)
    centre, axes = generator.integers(size // 4, 3 * size // 4, 2), generator.integers(2, size // 4, 2)
    cv2.ellipse(mask, centre.tolist(), axes.tolist(), float(generator.integers(180)), 0, 360, 1, -1)
    return mask > 0


PAIRS = [(ellipse(number), ellipse(number + 100)) for number in range(8)]


@pytest.fixture(scope="module")
def busi(shared):
    """The masks of real lesions and normals, (H, W) bool."""
    paths = sorted((shared / "data/raw/busi/Dataset_BUSI_with_GT").glob("*/*_mask.png"))
    assert paths
    return [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) > 127 for path in paths]


def tensors(pairs):
    """(N, 1, H, W) predictions and truths."""
    return tuple(torch.from_numpy(np.stack(masks)[:, None]) for masks in zip(*pairs, strict=True))


def boundary_pixels(mask):
    """Rows and columns of the pixels of a mask with a 4-neighbour that is not of it, one pixel at a time."""

    def inside(row, column):
        return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]

    return np.array(
        [
            (row, column)
            for row, column in np.argwhere(mask)
            if not all(inside(row + down, column + right) for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)))
        ]
    )


def brute_force_hd95(predicted, truth, spacing):
    """From all pairs of boundary pixels."""
    ours, theirs = boundary_pixels(predicted) * spacing, boundary_pixels(truth) * spacing
    distances = np.sqrt(((ours[:, None] - theirs[None]) ** 2).sum(axis=-1))
    return max(np.percentile(distances.min(axis=1), 95), np.percentile(distances.min(axis=0), 95))


@FEW
@given(MASKS)
def test_dice_and_iou_of_any_masks_obey_the_invariant(masks):
    scored = score(*masks)
    check_invariant(scored.dice, scored.iou)


@FEW
@given(MASKS)
def test_scores_are_symmetric(masks):
    one, other = score(*masks), score(*reversed(masks))
    assert (one.dice, one.iou, one.hd95_px) == (other.dice, other.iou, other.hd95_px)
    assert (one.predicted_pixels, one.truth_pixels) == (other.truth_pixels, other.predicted_pixels)


@FEW
@given(MASKS)
def test_a_mask_scores_fully_against_itself(masks):
    scored = score(masks[0], masks[0].copy())
    assert (scored.dice, scored.iou) == (1, 1)
    assert scored.hd95_px == (0 if masks[0].any() else None)


@FEW
@given(MASKS, st.tuples(*[st.integers(0, 5)] * 4))
def test_scores_do_not_change_when_background_is_added_around(masks, margins):
    around = [np.pad(mask, (margins[:2], margins[2:])) for mask in masks]
    moved, scored = score(*around), score(*masks)
    assert (moved.dice, moved.iou, moved.hd95_px) == (scored.dice, scored.iou, scored.hd95_px)


@FEW
@given(MASKS, st.floats(0.1, 2), st.floats(0.1, 2))
def test_hd95_is_what_all_pairs_of_boundary_pixels_say(masks, row_mm, column_mm):
    scored = score(*masks, mm_per_pixel=(row_mm, column_mm))
    if not (masks[0].any() and masks[1].any()):
        assert scored.hd95_px is None and scored.hd95_mm is None
    else:
        assert scored.hd95_px == pytest.approx(brute_force_hd95(*masks, (1, 1)), abs=1e-9)
        assert scored.hd95_mm == pytest.approx(brute_force_hd95(*masks, (row_mm, column_mm)), abs=1e-9)


@FEW
@given(MASKS, st.floats(0.01, 10))
def test_hd95_in_mm_of_square_pixels_is_that_in_pixels_times_their_side(masks, side):
    scored = score(*masks, mm_per_pixel=side)
    pair = score(*masks, mm_per_pixel=(side, side))
    assert scored.hd95_mm == pair.hd95_mm
    if scored.hd95_px is not None:
        assert scored.hd95_mm == pytest.approx(scored.hd95_px * side)


def test_hd95_is_the_95th_percentile_and_not_the_largest_distance():
    truth = np.zeros((64, 64), bool)
    truth[10:40, 10:40] = True
    predicted = truth.copy()
    predicted[60, 60] = True  # a far pixel: 1 of 117 of the boundary
    assert hausdorff95(predicted, truth) == 0


def test_hd95_of_moved_squares_is_the_distance_they_were_moved():
    truth = np.zeros((64, 64), bool)
    truth[10:30, 10:30] = True
    scored = score(np.roll(truth, 7, axis=1), truth, mm_per_pixel=(0.3, 0.1))
    assert scored.hd95_px == pytest.approx(7)
    assert scored.hd95_mm == pytest.approx(0.7)


def test_hd95_in_mm_is_unknown_where_the_pixel_is():
    scored = score(*PAIRS[0])
    assert scored.hd95_px is not None and scored.hd95_mm is None


def test_two_empty_masks_score_1():
    scored = score(EMPTY, EMPTY)
    assert (scored.dice, scored.iou, scored.hd95_px, scored.pixels) == (1, 1, None, 64)


@pytest.mark.parametrize("predicted, truth", [(EMPTY, FULL), (FULL, EMPTY)])
def test_one_empty_mask_scores_0(predicted, truth):
    scored = score(predicted, truth, mm_per_pixel=0.1)
    assert (scored.dice, scored.iou, scored.hd95_px, scored.hd95_mm) == (0, 0, None, None)


@pytest.mark.parametrize(
    "predicted, truth, said",
    [
        (np.zeros((8, 9), bool), EMPTY, r"prediction of shape \(8, 9\) for a truth of shape \(8, 8\)"),
        (EMPTY.astype(np.uint8), EMPTY, "prediction of shape .* type uint8"),
        (EMPTY, EMPTY.astype(float), "truth of shape .* type float64"),
        (EMPTY[None], EMPTY[None], r"prediction of shape \(1, 8, 8\)"),
        (EMPTY[:0], EMPTY[:0], r"prediction of shape \(0, 8\)"),
        (EMPTY.tolist(), EMPTY, "prediction of .* type list"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(predicted, truth, said):
    with pytest.raises(MaskError, match=said):
        score(predicted, truth)


@pytest.mark.parametrize("spacing", [0, -0.1, float("nan"), (0.1, 0), (0.1, float("inf"))])
def test_a_pixel_without_a_size_is_refused(spacing):
    with pytest.raises(MaskError, match="mm_per_pixel"):
        score(FULL, FULL, mm_per_pixel=spacing)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_not_finite_are_refused(value):
    with pytest.raises(NotFiniteError, match=r"25\.0% of the predictions"):
        require_finite_predictions(np.array([[0, 1], [value, 2]], np.float32))


def test_finite_predictions_are_passed_on():
    logits = np.zeros((1, 1, 4, 4), np.float32)
    assert require_finite_predictions(logits) is logits


@pytest.mark.parametrize("predicted, truth", [*PAIRS, (EMPTY, FULL)])
def test_dice_and_iou_are_those_of_torchmetrics(predicted, truth):
    scored = score(predicted, truth)
    found, true = torch.from_numpy(predicted), torch.from_numpy(truth)
    assert scored.dice == pytest.approx(float(binary_f1_score(found, true)), abs=1e-6)
    assert scored.iou == pytest.approx(float(binary_jaccard_index(found, true)), abs=1e-6)


def test_two_empty_masks_are_0_for_torchmetrics_unless_told():
    empty = torch.from_numpy(EMPTY)
    assert float(binary_f1_score(empty, empty)) == 0
    assert float(binary_f1_score(empty, empty, zero_division=1)) == score(EMPTY, EMPTY).dice


def mean_dice(pairs):
    return np.mean([score(*pair).dice for pair in pairs])


def monai_dice(pairs, ignore_empty):
    metric = DiceMetric(reduction="mean", ignore_empty=ignore_empty)
    metric(*tensors(pairs))
    return metric.aggregate().item()


def test_mean_dice_is_monais_that_counts_empty_truths():
    pairs = [(one[:8, :8] & EMPTY, other[:8, :8] & EMPTY) for one, other in PAIRS[:2]] + [(FULL, EMPTY), (FULL, FULL)]
    assert mean_dice(pairs) == pytest.approx(monai_dice(pairs, ignore_empty=False))


def test_mean_dice_over_lesions_is_monais_that_ignores_empty_truths():
    normals = [(ellipse(1), np.zeros((64, 64), bool)), (np.zeros((64, 64), bool),) * 2]
    assert mean_dice(PAIRS) == pytest.approx(monai_dice([*PAIRS, *normals], ignore_empty=True))


def smp_iou(pairs, zero_division):
    found, true = (masks.long() for masks in tensors(pairs))
    stats = get_stats(found, true, mode="binary")
    return float(iou_score(*stats, reduction="micro-imagewise", zero_division=zero_division))


def test_mean_iou_is_smps_over_images_with_zero_division_1():
    pairs = [*PAIRS, (np.zeros((64, 64), bool),) * 2, (ellipse(3), np.zeros((64, 64), bool))]
    ours = np.mean([score(*pair).iou for pair in pairs])
    assert ours == pytest.approx(smp_iou(pairs, 1.0), abs=1e-6)
    # The same predictions, with two empty masks as 0: why a score without its rule cannot be compared.
    assert ours - smp_iou(pairs, 0.0) == pytest.approx(1 / len(pairs), abs=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.12, 0.08)])
def test_hd95_is_monais(spacing):
    theirs = compute_hausdorff_distance(*tensors(PAIRS), include_background=True, percentile=95, spacing=spacing)
    ours = [hausdorff95(*pair, spacing) for pair in PAIRS]
    np.testing.assert_allclose(ours, theirs[:, 0].numpy(), rtol=1e-5)


def test_real_masks_score_like_monai_and_smp(busi):
    """Each mask beside itself moved by 9 rows and 5 columns: lesions that touch the image's edge among them."""
    for truth in busi:
        predicted = np.roll(truth, (9, 5), axis=(0, 1))
        scored = score(predicted, truth, mm_per_pixel=(0.1, 0.2))
        check_invariant(scored.dice, scored.iou)
        assert scored.iou == pytest.approx(smp_iou([(predicted, truth)], 1.0), abs=1e-6)
        assert scored.dice == pytest.approx(monai_dice([(predicted, truth)], ignore_empty=False), abs=1e-6)
        if scored.hd95_px is None:
            assert not truth.any()
        else:
            pair = tensors([(predicted, truth)])
            theirs = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=(0.1, 0.2))
            assert scored.hd95_mm == pytest.approx(float(theirs), rel=1e-5)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 14), st.integers(-20, 20), st.integers(-20, 20))
def test_hd95_of_a_real_mask_moved_is_at_most_how_far_it_was_moved(busi, number, down, right):
    truth = np.pad(busi[number][::4, ::4], 24)
    scored = score(np.roll(truth, (down, right), axis=(0, 1)), truth)
    assert scored.hd95_px is None if not truth.any() else scored.hd95_px <= np.hypot(down, right) + 1e-9
