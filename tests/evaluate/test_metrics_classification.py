"""Classification metrics beside scikit-learn's and torchmetrics', and what they refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import (
    multiclass_auroc,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from sonodistill.errors import EmptyInputError
from sonodistill_training.evaluate.metrics.classification import (
    METRICS,
    ProbabilityError,
    UnknownLabelError,
    accuracy,
    auroc,
    brier,
    calibration_error,
    class_numbers,
    macro_f1,
    summarise_classification,
)
from sonodistill_training.monitor.features import NotFiniteError

FEW = settings(max_examples=25, deadline=None)
CLASSES = ["normal", "benign", "malignant"]


def drawn(seed: int, n: int = 60, classes: int = 3, decimals: int | None = None):
    """Labels and probabilities that know something of them; with decimals, many are equal."""
    generator = np.random.default_rng(seed)
    truth = np.r_[np.arange(classes), generator.integers(classes, size=n - classes)]
    logits = generator.normal(size=(n, classes)) + 1.5 * np.eye(classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if decimals is not None:
        probabilities = np.round(probabilities, decimals) + 1e-3
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return truth, probabilities


SEEDS = st.integers(0, 2**32 - 1)


@FEW
@given(SEEDS)
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(seed):
    truth, probabilities = drawn(seed)
    predicted = probabilities.argmax(axis=1)
    assert accuracy(truth, probabilities) == pytest.approx(accuracy_score(truth, predicted))
    assert macro_f1(truth, probabilities) == pytest.approx(f1_score(truth, predicted, average="macro"))


@FEW
@given(SEEDS, st.sampled_from([None, 1]), st.integers(3, 5))
def test_auroc_is_that_of_scikit_learn_with_and_without_ties(seed, decimals, classes):
    truth, probabilities = drawn(seed, classes=classes, decimals=decimals)
    theirs = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert auroc(truth, probabilities) == pytest.approx(theirs)


def test_auroc_of_two_classes_is_that_of_the_second():
    truth, probabilities = drawn(0, classes=2)
    assert auroc(truth, probabilities) == pytest.approx(roc_auc_score(truth, probabilities[:, 1]))


@FEW
@given(SEEDS)
def test_f1_auroc_and_calibration_error_are_those_of_torchmetrics(seed):
    truth, probabilities = drawn(seed)
    rows, labels = torch.from_numpy(probabilities), torch.from_numpy(truth)
    theirs = multiclass_f1_score(rows, labels, 3, average="macro"), multiclass_auroc(rows, labels, 3, average="macro")
    assert macro_f1(truth, probabilities) == pytest.approx(float(theirs[0]), abs=1e-6)
    assert auroc(truth, probabilities) == pytest.approx(float(theirs[1]), abs=1e-6)
    error = multiclass_calibration_error(rows, labels, 3, n_bins=15, norm="l1")
    assert calibration_error(truth, probabilities) == pytest.approx(float(error), abs=1e-6)


def test_a_class_that_is_neither_true_nor_predicted_counts_0_in_macro_f1():
    truth, probabilities = np.array([0, 1]), np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    theirs = f1_score(truth, [0, 1], labels=[0, 1, 2], average="macro", zero_division=0)
    assert macro_f1(truth, probabilities) == pytest.approx(2 / 3) == theirs
    in_torchmetrics = multiclass_f1_score(torch.from_numpy(probabilities), torch.from_numpy(truth), 3, average="macro")
    assert float(in_torchmetrics) == 1


def test_a_confidence_of_exactly_1_falls_in_the_last_bin():
    # One bin of three with accuracy 1/3: |1/3 - mean confidence|. torchmetrics parts the 1.0 from the two others.
    truth, probabilities = np.array([0, 1, 1]), np.array([[1.0, 0.0], [0.96, 0.04], [0.96, 0.04]])
    assert calibration_error(truth, probabilities) == pytest.approx((1 + 0.96 + 0.96) / 3 - 1 / 3)
    theirs = multiclass_calibration_error(torch.from_numpy(probabilities), torch.from_numpy(truth), 2, n_bins=15)
    assert float(theirs) == pytest.approx(2 / 3 * 0.96)


def test_a_confidence_on_the_edge_of_two_bins_falls_in_the_lower():
    edge = 9 / 15
    truth = np.array([0, 1])
    probabilities = np.array([[edge, 1 - edge], [edge - 0.03, 1 - edge + 0.03]])
    assert calibration_error(truth, probabilities) == pytest.approx(abs(1 - (2 * edge - 0.03)) / 2)


def test_certain_and_right_is_perfect_in_every_metric():
    values = summarise_classification([0, 1, 2], np.eye(3), CLASSES)
    assert [values[name] for name in METRICS] == [1, 1, 1, 0, 0]


def test_certain_and_wrong_has_a_brier_score_of_2():
    assert brier(np.array([0, 1]), np.array([[0.0, 1.0], [1.0, 0.0]])) == 2


@FEW
@given(SEEDS)
def test_brier_is_the_squared_error_summed_over_classes(seed):
    truth, probabilities = drawn(seed, n=10)
    rows = zip(truth, probabilities, strict=True)
    by_hand = np.mean([sum((p - (k == label)) ** 2 for k, p in enumerate(row)) for label, row in rows])
    assert brier(truth, probabilities) == pytest.approx(by_hand)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_weights_are_how_often_each_image_counts(metric, seed):
    truth, probabilities = drawn(seed, n=20, decimals=1)
    weights = np.random.default_rng(seed).integers(0, 3, (4, 20))
    weights[:, :3] += 1  # no class vanishes
    repeated = [metric(np.repeat(truth, row), np.repeat(probabilities, row, axis=0)) for row in weights]
    np.testing.assert_allclose(metric(truth, probabilities, weights.astype(float)), repeated)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@settings(max_examples=10, deadline=None)
@given(seed=SEEDS)
def test_the_order_of_images_does_not_matter(metric, seed):
    truth, probabilities = drawn(seed)
    order = np.random.default_rng(seed).permutation(len(truth))
    assert metric(truth[order], probabilities[order]) == pytest.approx(float(metric(truth, probabilities)))


def test_a_summary_is_plain_json_with_every_metric():
    summary = summarise_classification(*drawn(1), CLASSES)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert set(summary) == {"images", "auroc_undefined", *METRICS}
    assert summary["images"] == 60 and summary["auroc_undefined"] is None


def test_auroc_is_none_with_the_reason_where_a_class_has_no_image():
    truth, probabilities = drawn(2)
    present = truth != 2
    summary = summarise_classification(truth[present], probabilities[present], CLASSES)
    assert summary["auroc"] is None and summary["auroc_undefined"] == "no image of malignant"
    assert summary["macro_f1"] is not None


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_class_list_is_refused(label):
    truth, probabilities = drawn(3)
    truth[7] = label
    with pytest.raises(UnknownLabelError, match=f"label {label} is not a number of the 3 classes"):
        summarise_classification(truth, probabilities, CLASSES)


def test_labels_that_are_no_integers_are_refused():
    truth, probabilities = drawn(3)
    with pytest.raises(UnknownLabelError, match="float64"):
        summarise_classification(truth.astype(float), probabilities, CLASSES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_probability_that_is_not_finite_is_refused(value):
    truth, probabilities = drawn(4)
    probabilities[5, 1] = value
    with pytest.raises(NotFiniteError):
        summarise_classification(truth, probabilities, CLASSES)


@pytest.mark.parametrize("row", [[0.5, 0.5, 0.001], [1.5, -0.25, -0.25], [3.0, -1.0, 0.5]])
def test_rows_that_are_no_probabilities_are_refused(row):
    truth, probabilities = drawn(5)
    probabilities[9] = row
    with pytest.raises(ProbabilityError, match="image 9"):
        summarise_classification(truth, probabilities, CLASSES)


def test_a_sum_within_rounding_of_1_is_accepted():
    truth, probabilities = drawn(5)
    assert summarise_classification(truth, np.round(probabilities, 5), CLASSES)["images"] == 60


def test_probabilities_of_other_images_or_classes_are_refused():
    truth, probabilities = drawn(6)
    with pytest.raises(ProbabilityError, match=r"shape \(59, 3\) for 60 images and 3 classes"):
        summarise_classification(truth, probabilities[1:], CLASSES)
    with pytest.raises(ProbabilityError, match=r"shape \(60, 3\) for 60 images and 4 classes"):
        summarise_classification(truth, probabilities, [*CLASSES, "cyst"])


def test_an_empty_test_set_is_refused():
    with pytest.raises(EmptyInputError, match="test set holds no image"):
        summarise_classification([], np.empty((0, 3)), CLASSES)


def test_names_become_numbers_by_their_place_in_the_class_list():
    assert class_numbers(["benign", "normal", "benign"], CLASSES).tolist() == [1, 0, 1]


def test_a_name_that_is_no_class_is_refused():
    with pytest.raises(UnknownLabelError, match="'cyst' is none of the classes normal, benign, malignant"):
        class_numbers(["benign", "cyst"], CLASSES)
