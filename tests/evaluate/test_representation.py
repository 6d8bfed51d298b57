"""The numbers of an embedding: planted structure is found, chance is exact, and what cannot be measured is None."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill_training.evaluate.representation.numbers import (
    Purity,
    cka_matrix,
    knn_purity,
    linear_cka,
    numbers,
    scanner_shortcut,
    silhouette,
)
from sonodistill_training.monitor.features import NotFiniteError
from sonodistill_training.monitor.health import rankme

# Two anatomies, each from two data sets, and a third anatomy from one: 30 frames a data set, 3 of each patient.
SETS = {"busi": "breast", "breast_us": "breast", "ddti": "thyroid", "tn3k": "thyroid", "hc18": "fetal head"}
DATASETS = [name for name in SETS for _ in range(30)]
ANATOMIES = [SETS[name] for name in DATASETS]
GROUPS = [f"{name}/{frame // 3}" for name in SETS for frame in range(30)]


def planted(names, noise=0.05, channels=12, seed=0):
    """Embeddings that lie around a direction for each name."""
    generator = np.random.default_rng(seed)
    directions = dict(zip(sorted(set(names)), np.eye(channels), strict=False))
    return np.stack([directions[name] for name in names]) + noise * generator.normal(size=(len(names), channels))


def random_embeddings(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rotation(channels, seed=1):
    return np.linalg.qr(random_embeddings((channels, channels), seed))[0]


def slow_purity(embeddings, labels, groups, neighbours):
    """Frame by frame, for embeddings without ties."""
    rows = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    values, chances = [], []
    for row in range(len(rows)):
        others = [other for other in range(len(rows)) if groups[other] != groups[row]]
        nearest = sorted(others, key=lambda other: -float(rows[row] @ rows[other]))[:neighbours]
        values.append(np.mean([labels[other] == labels[row] for other in nearest]))
        chances.append(np.mean([labels[other] == labels[row] for other in others]))
    return np.mean(values), np.mean(chances)


def hsic(first, second):
    """Gretton et al. 2005, Eq. 9, with (N, N) matrices."""
    n = len(first)
    centring = np.eye(n) - 1 / n
    return np.trace(first @ first.T @ centring @ second @ second.T @ centring) / (n - 1) ** 2


def unbiased_hsic(first, second):
    """Song et al. 2012, Eq. 5, with (N, N) matrices."""
    n, ones = len(first), np.ones(len(first))
    k, m = first @ first.T, second @ second.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    sums = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + sums - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def test_embeddings_by_anatomy_are_pure_by_anatomy_and_at_chance_by_data_set_within_one():
    found = numbers(planted(ANATOMIES), DATASETS, ANATOMIES, GROUPS)
    assert found["purity"]["anatomy"]["value"] == pytest.approx(1)
    assert found["shortcut"] == pytest.approx(0, abs=0.08)
    assert found["silhouette"]["anatomy"] > 0.8 > 0.3 > found["silhouette"]["dataset"]


def test_embeddings_by_data_set_are_pure_by_data_set_beyond_chance_within_an_anatomy():
    found = numbers(planted(DATASETS), DATASETS, ANATOMIES, GROUPS)
    assert found["purity"]["dataset"]["value"] == pytest.approx(1)
    # Of the 57 frames of the anatomy's other patients, 27 are of the same data set.
    assert found["shortcut_by_anatomy"]["breast"]["chance"] == pytest.approx(27 / 57)
    assert found["shortcut"] == pytest.approx(1 - 27 / 57)
    assert found["silhouette"]["dataset"] > 0.8


def test_a_shortcut_is_not_told_of_an_anatomy_of_one_data_set_or_of_too_few_frames():
    shortcuts = scanner_shortcut(planted(DATASETS), DATASETS, ANATOMIES, GROUPS)
    assert shortcuts["fetal head"] is None and isinstance(shortcuts["breast"], Purity)
    few = [row for row, name in enumerate(DATASETS) if name not in ("busi", "breast_us")] + [0, 1, 2, 30, 31, 32]
    parts = [[names[row] for row in few] for names in (DATASETS, ANATOMIES, GROUPS)]
    assert scanner_shortcut(planted(DATASETS)[few], *parts)["breast"] is None
    confounded = [row for row, name in enumerate(DATASETS) if name in ("busi", "ddti")]
    parts = [[names[row] for row in confounded] for names in (DATASETS, ANATOMIES, GROUPS)]
    assert numbers(planted(DATASETS)[confounded], *parts)["shortcut"] is None


def test_a_frames_own_patient_is_no_neighbour():
    patients = planted(GROUPS, noise=0.01, channels=60)
    assert knn_purity(patients, GROUPS, [str(row) for row in range(150)], neighbours=2).value == pytest.approx(1)
    found = knn_purity(patients, GROUPS, GROUPS, neighbours=2)
    assert (found.value, found.chance) == (0, 0)


@given(seed=st.integers(0, 99), neighbours=st.integers(1, 15), sets=st.integers(1, 4), patients=st.integers(3, 30))
@settings(max_examples=20, deadline=None)
def test_purity_and_chance_are_those_counted_frame_by_frame(seed, neighbours, sets, patients):
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(1, 1, size=(40, 6))
    labels = [f"set {number}" for number in generator.integers(0, sets, 40)]
    groups = [f"patient {row % patients}" for row in range(40)]
    found = knn_purity(embeddings, labels, groups, neighbours)
    assert (found.value, found.chance) == pytest.approx(slow_purity(embeddings, labels, groups, neighbours))


@given(value=st.floats(-5, 5), neighbours=st.integers(1, 100))
@settings(max_examples=20, deadline=None)
def test_embeddings_that_are_all_equal_are_at_chance_exactly(value, neighbours):
    found = knn_purity(np.full((150, 7), value), DATASETS, GROUPS, neighbours)
    assert found.value == pytest.approx(found.chance)


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
@settings(max_examples=10, deadline=None)
def test_numbers_do_not_depend_on_rotation_scale_or_the_order_of_frames(seed, scale):
    embeddings = planted(DATASETS, noise=0.5, seed=seed)
    order = np.random.default_rng(seed).permutation(len(embeddings))
    moved = scale * (embeddings @ rotation(12, seed))[order]
    parts = [[names[row] for row in order] for names in (DATASETS, ANATOMIES, GROUPS)]
    before, after = numbers(embeddings, DATASETS, ANATOMIES, GROUPS), numbers(moved, *parts)
    assert after["rankme"] == pytest.approx(before["rankme"])
    assert after["silhouette"] == pytest.approx(before["silhouette"])
    for by in ("anatomy", "dataset"):
        assert after["purity"][by]["value"] == pytest.approx(before["purity"][by]["value"])
    assert after["shortcut"] == pytest.approx(before["shortcut"])


def test_random_embeddings_are_at_chance():
    found = knn_purity(random_embeddings((600, 20)), DATASETS * 4, [f"{row // 3}" for row in range(600)])
    assert found.excess == pytest.approx(0, abs=0.04)


def test_rankme_and_silhouette_are_those_of_the_libraries():
    embeddings = random_embeddings((150, 20))
    found = numbers(embeddings, DATASETS, ANATOMIES, GROUPS)
    assert found["rankme"] == rankme(embeddings) and found["channels"] == 20
    expected = silhouette_samples(embeddings, ANATOMIES, metric="cosine").mean()
    assert found["silhouette"]["anatomy"] == pytest.approx(expected)


def test_of_one_anatomy_nothing_is_told_by_anatomy():
    found = numbers(planted(DATASETS), DATASETS, ["breast"] * 150, GROUPS)
    assert found["purity"]["anatomy"] is None and found["silhouette"]["anatomy"] is None
    assert found["shortcut"] > 0.5


@given(seed=st.integers(0, 99), frames=st.integers(4, 40), channels=st.integers(1, 60), others=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_cka_is_that_of_the_full_matrices(seed, frames, channels, others):
    generator = np.random.default_rng(seed)
    first, second = generator.normal(3, 1, (frames, channels)), generator.normal(-1, 2, (frames, others))
    expected = hsic(first, second) / np.sqrt(hsic(first, first) * hsic(second, second))
    assert linear_cka(first, second) == pytest.approx(expected, rel=1e-6)
    own = unbiased_hsic(first, first) * unbiased_hsic(second, second)
    found = linear_cka(first, second, debiased=True)
    if found is not None:
        assert found == pytest.approx(unbiased_hsic(first, second) / np.sqrt(own), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("debiased", [False, True])
@given(seed=st.integers(0, 99), scale=st.floats(1e-4, 1e4), shift=st.floats(-10, 10))
@settings(max_examples=15, deadline=None)
def test_cka_does_not_depend_on_rotation_isotropic_scale_or_shift(debiased, seed, scale, shift):
    first, second = random_embeddings((30, 8), seed), random_embeddings((30, 5), seed + 1)
    second[:, :3] += first[:, :3]
    moved = scale * (first @ rotation(8, seed) + shift)
    assert linear_cka(moved, second, debiased) == pytest.approx(linear_cka(first, second, debiased), rel=1e-6)
    assert linear_cka(first, moved, debiased) == pytest.approx(1)


def test_a_scale_for_each_channel_changes_cka():
    embeddings = random_embeddings((50, 6))
    assert linear_cka(embeddings, embeddings * [1, 1, 1, 1, 1, 30]) < 0.8


def test_unrelated_embeddings_of_many_channels_pass_for_alike_unless_debiased():
    first, second = random_embeddings((60, 500), 1), random_embeddings((60, 500), 2)
    assert linear_cka(first, second) > 0.8
    assert linear_cka(first, second, debiased=True) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_with_embeddings_that_do_not_vary_is_none(debiased):
    still = np.full((20, 7), 0.1)
    assert linear_cka(still, random_embeddings((20, 3)), debiased) is None
    assert linear_cka(random_embeddings((20, 3)), still, debiased) is None


def test_the_matrix_is_symmetric_with_ones():
    found = cka_matrix({name: random_embeddings((30, 4), seed) for seed, name in enumerate(("a", "b", "c"))})
    assert all(found[one][other] == found[other][one] for one in found for other in found)
    assert all(found[one][one] == pytest.approx(1) for one in found)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad):
    embeddings = planted(DATASETS)
    embeddings[3, 1] = bad
    with pytest.raises(NotFiniteError):
        numbers(embeddings, DATASETS, ANATOMIES, GROUPS)
    with pytest.raises(NotFiniteError):
        silhouette(embeddings, DATASETS)
    with pytest.raises(NotFiniteError):
        linear_cka(planted(DATASETS), embeddings)


def test_one_data_set_and_fewer_frames_than_neighbours_are_refused():
    embeddings = planted(DATASETS)
    with pytest.raises(DatasetError, match="one data set, busi"):
        numbers(embeddings, ["busi"] * 150, ANATOMIES, GROUPS)
    with pytest.raises(DatasetError, match="only 9 of other groups; 10 neighbours"):
        knn_purity(embeddings[:12], DATASETS[:12], GROUPS[:12])
    with pytest.raises(BundleConfigError, match="neighbours is 0"):
        knn_purity(embeddings, DATASETS, GROUPS, neighbours=0)


def test_labels_of_other_frames_are_refused():
    with pytest.raises(DatasetError, match="149 labels"):
        knn_purity(planted(DATASETS), DATASETS[1:], GROUPS)
    with pytest.raises(DatasetError, match="of 10 and of 11 frames"):
        linear_cka(random_embeddings((10, 3)), random_embeddings((11, 3)))
    with pytest.raises(DatasetError, match="four or more"):
        linear_cka(random_embeddings((3, 3)), random_embeddings((3, 3)))
