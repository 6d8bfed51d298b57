"""Intervals that cover what they should, and tests beside their definitions."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from sonodistill.errors import BundleConfigError, EmptyInputError
from sonodistill_training.evaluate.metrics.classification import METRICS, accuracy, auroc, calibration_error, macro_f1
from sonodistill_training.evaluate.metrics.statistics import (
    MisalignedResultsError,
    bootstrap,
    bootstrap_difference,
    holm,
    mcnemar,
    mean,
    paired,
    wilson,
)

FEW = settings(max_examples=25, deadline=None)
GROUPS = np.repeat(np.arange(30), 3)  # thirty patients of three images
SEEDS = st.integers(0, 2**16)
P_VALUES = st.lists(st.floats(0, 1), max_size=8)


def measured(seed: int, runs: int = 1, of_patient: float = 1.0, of_run: float = 0.0, mean: float = 0.0) -> np.ndarray:
    """(runs, images) results: a mean, what the patients and the runs add, and what each image does."""
    generator = np.random.default_rng(seed)
    patients = of_patient * generator.normal(size=30)[GROUPS]
    return mean + patients + of_run * generator.normal(size=(runs, 1)) + 0.5 * generator.normal(size=(runs, 90))


def covered(values_of, groups=GROUPS, times: int = 200) -> float:
    """Share of simulations whose interval holds the true mean, 0."""
    found = [bootstrap(mean, values_of(seed), groups, resamples=400) for seed in range(times)]
    return float(np.mean([interval.low <= 0 <= interval.high for interval in found]))


def classified(runs: int, n: int = 157):
    """Labels, (runs, n, 3) probabilities, and a group for every two images."""
    generator = np.random.default_rng(0)
    truth = generator.integers(3, size=n)
    logits = generator.normal(size=(runs, n, 3)) + np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return truth, probabilities, np.arange(n) // 2


def test_intervals_over_patients_cover_the_truth_as_often_as_they_say():
    assert 0.90 <= covered(measured) <= 0.99


def test_intervals_that_take_images_for_patients_cover_it_too_rarely():
    assert covered(measured, groups=np.arange(90)) < 0.85


# Where seeds matter more than patients, 91 % of a thousand simulations: at least 85 % of two hundred (three sigma).
@pytest.mark.parametrize("of_patient, of_run, least", [(1.0, 0.2, 0.90), (0.5, 0.5, 0.85)])
def test_intervals_over_patients_and_five_runs_cover_the_truth_though_runs_differ(of_patient, of_run, least):
    assert least <= covered(partial(measured, runs=5, of_patient=of_patient, of_run=of_run)) <= 0.99


def test_intervals_of_one_run_know_nothing_of_other_runs():
    assert covered(lambda seed: measured(seed, of_patient=0.5, of_run=0.5)) < 0.6


def test_an_estimate_is_the_mean_over_images_and_runs():
    values = measured(0, runs=4)
    interval = bootstrap(mean, values, GROUPS)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low < interval.estimate < interval.high
    assert (interval.n_groups, interval.n_seeds) == (30, 4)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    values = measured(0, runs=2)
    assert bootstrap(mean, values, GROUPS, seed=5) == bootstrap(mean, values, GROUPS, seed=5)
    assert bootstrap(mean, values, GROUPS, seed=5) != bootstrap(mean, values, GROUPS, seed=6)


def test_numpys_global_generator_plays_no_part_and_is_left_alone():
    np.random.seed(1)
    first = bootstrap(mean, measured(0), GROUPS)
    after = np.random.random()
    np.random.seed(1)
    assert after == np.random.random()
    assert bootstrap(mean, measured(0), GROUPS) == first


@FEW
@given(SEEDS, st.floats(-5, 5), st.floats(0.1, 10))
def test_intervals_of_a_mean_move_and_stretch_with_the_values(seed, shift, factor):
    values = measured(seed)
    one = bootstrap(mean, values, GROUPS, resamples=50)
    other = bootstrap(mean, shift + factor * values, GROUPS, resamples=50)
    expected = [shift + factor * end for end in (one.estimate, one.low, one.high)]
    np.testing.assert_allclose([other.estimate, other.low, other.high], expected, atol=1e-9)


def test_a_single_run_may_be_given_without_its_axis():
    values = measured(0)
    assert bootstrap(mean, values[0], GROUPS) == bootstrap(mean, values, GROUPS)


def test_groups_may_be_named_in_any_order_and_type():
    values = measured(0)[0]
    names = [f"patient {number:02d}" for number in GROUPS]
    assert bootstrap(mean, values, names) == bootstrap(mean, values, GROUPS)


def test_an_undefined_distance_is_left_out_of_the_mean():
    values = measured(0)[0]
    values[:30] = np.nan
    assert bootstrap(mean, values, GROUPS).estimate == pytest.approx(values[30:].mean())


def test_nothing_defined_has_no_estimate():
    interval = bootstrap(mean, np.full(90, np.nan), GROUPS)
    assert (interval.estimate, interval.low, interval.high) == (None, None, None)


def test_one_patient_has_an_estimate_and_no_interval():
    interval = bootstrap(mean, [0.5, 0.7], ["a", "a"])
    assert interval.estimate == pytest.approx(0.6)
    assert (interval.low, interval.high, interval.n_groups) == (None, None, 1)


def test_a_class_that_most_resamples_miss_leaves_auroc_without_interval():
    truth = np.r_[1, np.zeros(19, int)]
    probabilities = np.linspace([0.1, 0.9], [0.9, 0.1], 20)
    interval = bootstrap(partial(auroc, truth), probabilities[None], np.arange(20))
    assert interval.estimate == 1 and (interval.low, interval.high) == (None, None)


@pytest.mark.parametrize("name", METRICS)
def test_classification_metrics_of_several_runs_have_intervals(name):
    truth, probabilities, groups = classified(runs=5)
    interval = bootstrap(partial(METRICS[name], truth), probabilities, groups)
    by_run = [float(METRICS[name](truth, run)) for run in probabilities]
    assert interval.estimate == pytest.approx(np.mean(by_run))
    assert interval.low < interval.high and interval.low <= max(by_run) and interval.high >= min(by_run)
    assert (interval.n_groups, interval.n_seeds) == (79, 5)


@pytest.mark.parametrize("metric", [macro_f1, auroc, calibration_error])
def test_resamples_are_the_statistic_of_the_images_drawn(metric):
    """The whole bootstrap again, image by image, from the same draws."""
    truth, probabilities, groups = classified(runs=1, n=60)
    drawn = np.random.default_rng((3, 0)).integers(30, size=(100, 30))
    rows = [np.concatenate([np.flatnonzero(groups == group) for group in some]) for some in drawn]
    values = [float(metric(truth[some], probabilities[0][some])) for some in rows]
    interval = bootstrap(partial(metric, truth), probabilities, groups, resamples=100, seed=3)
    np.testing.assert_allclose([interval.low, interval.high], np.quantile(values, [0.025, 0.975]))


def test_results_of_other_images_than_the_groups_are_refused():
    with pytest.raises(MisalignedResultsError, match=r"shape \(1, 90\) for 89 images"):
        bootstrap(mean, measured(0), GROUPS[1:])


@pytest.mark.parametrize("values", [np.empty((0, 3)), np.empty((2, 0))])
def test_no_result_is_refused(values):
    with pytest.raises(EmptyInputError, match="no result"):
        bootstrap(mean, values, ["a"] * values.shape[1])


def test_no_resample_is_refused():
    with pytest.raises(BundleConfigError, match="resamples is 0"):
        bootstrap(mean, measured(0), GROUPS, resamples=0)


def test_a_difference_on_the_same_patients_is_known_better_than_two_means():
    a, b = measured(0) + 0.2, measured(0) + 0.01 * measured(1)
    difference = bootstrap_difference(mean, a, b, GROUPS)
    assert difference.low < 0.2 < difference.high
    alone = bootstrap(mean, a, GROUPS)
    assert difference.high - difference.low < (alone.high - alone.low) / 10


@FEW
@given(SEEDS)
def test_a_paired_comparison_turned_round_changes_its_sign_alone(seed):
    a, b = measured(seed), measured(seed + 1)
    one, other = (paired(*both, GROUPS, resamples=100) for both in ((a, b), (b, a)))
    mirrored = [-other.difference, -other.high, -other.low]
    np.testing.assert_allclose([one.difference, one.low, one.high], mirrored, atol=1e-12)
    assert one.p_value == pytest.approx(other.p_value)


def test_equal_results_do_not_differ():
    values = measured(0, runs=3)
    found = paired(values, values, GROUPS, same_runs=True)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_equal_results_in_another_order_of_runs_do_not_differ():
    values = measured(0, runs=3)
    assert paired(values, values[::-1], GROUPS).p_value == 1


def test_the_p_value_is_wilcoxons_of_the_patients_means():
    a, b = measured(0, runs=2), measured(1, runs=3, mean=-0.5)
    found = paired(a, b, GROUPS)
    by_patient = (a.mean(axis=0) - b.mean(axis=0)).reshape(30, 3).mean(axis=1)
    assert found.p_value == pytest.approx(wilcoxon(by_patient).pvalue)
    assert (found.test, found.images, found.n_groups) == ("Wilcoxon signed-rank, 30 groups", 90, 30)
    assert found.difference == pytest.approx(a.mean() - b.mean())


def test_no_difference_is_called_one_about_as_often_as_the_level_says():
    found = [paired(measured(seed), measured(seed + 1000), GROUPS, resamples=10).p_value for seed in range(200)]
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.10


def test_runs_that_share_a_draw_are_compared_draw_by_draw():
    # Each draw of labels moves both encoders by the same amount: apart, it hides a difference; together, it does not.
    b = measured(0, runs=5, of_run=2.0)
    together, apart = (paired(b + 0.1, b, GROUPS, same_runs=same) for same in (True, False))
    assert together.low == pytest.approx(0.1) == together.high
    assert apart.low < 0 < apart.high


def test_runs_that_share_a_draw_must_be_as_many():
    with pytest.raises(MisalignedResultsError, match="2 runs beside 3"):
        paired(measured(0, runs=2), measured(1, runs=3), GROUPS, same_runs=True)


def test_images_without_a_value_in_either_are_left_out_of_both():
    a, b = measured(0, runs=2), measured(1, runs=2)
    expected = paired(a[:, 6:], b[:, 6:], GROUPS[6:])
    a[0, :3], b[1, 3:6] = np.nan, np.nan
    found = paired(a, b, GROUPS)
    assert found == expected and found.images == 84


def test_a_comparison_without_common_values_is_refused():
    with pytest.raises(EmptyInputError, match="no image has a value"):
        paired([np.nan, 1.0], [1.0, np.nan], ["a", "b"])


@FEW
@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_mcnemar_is_the_two_sided_tail_of_a_fair_coin(outcomes):
    a, b = np.array(outcomes, bool).reshape(-1, 2).T
    found = mcnemar(a, b)
    apart = found.only_a + found.only_b
    tail = sum(math.comb(apart, k) for k in range(min(found.only_a, found.only_b) + 1)) / 2**apart
    assert found.p_value == pytest.approx(min(1, 2 * tail))
    assert found.only_a - found.only_b == a.sum() - b.sum()


def test_136_and_138_of_157_do_not_differ_by_mcnemar():
    us, default = np.arange(157) < 138, np.arange(157) < 136
    assert mcnemar(us, default).p_value == 0.5  # even if every error of one were an error of the other


@pytest.mark.parametrize("other", [np.ones(3, bool), np.ones(4), np.ones((2, 2), bool)])
def test_mcnemar_refuses_what_is_not_one_answer_an_image(other):
    with pytest.raises(MisalignedResultsError):
        mcnemar(np.ones(4, bool), other)


@FEW
@given(P_VALUES, st.floats(0.001, 0.999))
def test_holm_rejects_what_its_steps_down_reject(p_values, level):
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = set()
    for step, place in enumerate(order):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected.add(place)
    assert {place for place, value in enumerate(holm(p_values)) if value <= level} == rejected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 0.04 is held at 2 x 0.03


@FEW
@given(P_VALUES)
def test_holm_never_lowers_a_p_value_and_stays_below_bonferroni(p_values):
    for given_value, adjusted in zip(p_values, holm(p_values), strict=True):
        assert given_value <= adjusted <= min(1, given_value * len(p_values) + 1e-12)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_p_value(wrong):
    with pytest.raises(BundleConfigError, match="p values"):
        holm([0.5, wrong])


@pytest.mark.parametrize("correct, rate, low, high", [(136, 0.8662, 0.80, 0.91), (138, 0.8790, 0.82, 0.92)])
def test_the_papers_two_accuracies_of_157_images_have_overlapping_intervals(correct, rate, low, high):
    found = wilson(correct, 157)
    assert (round(found.estimate, 4), round(found.low, 2), round(found.high, 2)) == (rate, low, high)


@FEW
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_ends_are_where_a_normal_test_would_just_reject(counts):
    successes, n = counts
    found = wilson(successes, n)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert found.low < found.high
    for end in (found.low, found.high):
        if 0 < end < 1:
            score = (found.estimate - end) ** 2
            assert score == pytest.approx(1.959963984540054**2 * end * (1 - end) / n, rel=1e-6)


def test_a_rate_of_no_images_is_unknown():
    assert (wilson(0, 0).estimate, wilson(0, 0).low, wilson(0, 0).high) == (None, None, None)


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(BundleConfigError, match=r"successes <= n"):
        wilson(*counts)


def test_accuracy_of_independent_images_has_nearly_wilsons_interval():
    truth, probabilities, _ = classified(runs=1)
    found = bootstrap(partial(accuracy, truth), probabilities, np.arange(157))
    expected = wilson(round(found.estimate * 157), 157)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], atol=0.02)
