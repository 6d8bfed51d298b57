"""Splits and labelled parts: whole groups, nested fractions, and the refusal of what would leak."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill_training.evaluate.data import LabelledSet, read_set
from sonodistill_training.evaluate.divide import divide, few_shots, labelled_part

sys.path.insert(0, str(Path(__file__).parent))
from folder_case import make_folder


def labelled(groups, labels, given=None):
    """A set of which only names matter."""
    count = len(groups)
    return LabelledSet(
        "made",
        tuple(f"{row}.png" for row in range(count)),
        tuple(groups),
        tuple(labels),
        tuple(given or [""] * count),
        np.zeros((count, 1, 4, 4), np.uint8),
        np.full((count, 2), 4),
        tuple(np.zeros(2, np.uint8) for _ in range(count)),
        np.full((count, 2), np.nan),
        "made",
    )


SETS = st.lists(st.tuples(st.integers(0, 15), st.sampled_from("abc")), min_size=1, max_size=60).map(
    lambda rows: labelled([f"p{group}" for group, _ in rows], [label for _, label in rows])
)


@settings(max_examples=60, deadline=None)
@given(SETS, st.integers(0, 5))
def test_a_smaller_fraction_is_part_of_a_larger_one_and_groups_stay_whole(data, draw):
    rows = np.arange(len(data))
    parts = [set(labelled_part(data, rows, fraction, draw).tolist()) for fraction in (0.05, 0.1, 0.2, 0.5, 1.0)]
    assert parts[-1] == set(rows.tolist())
    for smaller, larger in zip(parts, parts[1:], strict=False):
        assert smaller and smaller <= larger
    for part in parts:
        taken = {data.groups[row] for row in part}
        assert part == {row for row in rows.tolist() if data.groups[row] in taken}


def test_a_fraction_keeps_the_shares_of_the_labels():
    data = labelled([f"p{i}" for i in range(200)], ["normal"] * 40 + ["benign"] * 100 + ["malignant"] * 60)
    part = labelled_part(data, np.arange(200), 0.1)
    found = [data.labels[row] for row in part.tolist()]
    assert [found.count(name) for name in ("normal", "benign", "malignant")] == [4, 10, 6]


def test_another_draw_labels_other_frames():
    data = labelled([f"p{i}" for i in range(100)], ["a"] * 100)
    draws = [tuple(labelled_part(data, np.arange(100), 0.1, draw)) for draw in range(5)]
    assert len(set(draws)) == 5
    assert draws == [tuple(labelled_part(data, np.arange(100), 0.1, draw)) for draw in range(5)]


@settings(max_examples=60, deadline=None)
@given(SETS, st.data())
def test_few_shots_are_as_many_as_asked_and_from_as_many_groups_as_there_are(data, drawn):
    rows = np.arange(len(data))
    shots = drawn.draw(st.integers(1, len(data)))
    taken = few_shots(data, rows, shots).tolist()
    assert len(set(taken)) == shots
    assert len({data.groups[row] for row in taken}) == min(shots, len(set(data.groups)))


@pytest.mark.parametrize("shots", [0, 4])
def test_shots_that_are_not_there_are_refused(shots):
    with pytest.raises(BundleConfigError, match="shots"):
        few_shots(labelled("pqr", "aab"), np.arange(3), shots)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_fraction_that_is_none_is_refused(fraction):
    with pytest.raises(BundleConfigError, match="fraction"):
        labelled_part(labelled("pqr", "aab"), np.arange(3), fraction)


def test_a_group_in_two_splits_is_refused_by_name():
    splits = ["train", "train", "validation", "test", "test"]
    data = labelled(["ann", "bob", "cid", "dot", "bob"], "aaaaa", splits)
    with pytest.raises(DatasetError, match="bob is in test and train"):
        divide(data, "segmentation")


def test_an_empty_test_set_is_refused_by_name():
    data = labelled("pqr", "aab", ["train", "train", "validation"])
    with pytest.raises(DatasetError, match="no frame for classification in the test split"):
        divide(data, "classification")


def test_frames_without_what_the_task_needs_are_left_out():
    data = labelled([f"p{i}" for i in range(40)], [""] * 20 + ["a"] * 20)
    found = divide(data, "classification", "seed")
    assert min(found.train.min(), found.validation.min(), found.test.min()) >= 20
    with pytest.raises(DatasetError, match="no frame with a label"):
        divide(replace(data, labels=("",) * 40), "classification")


def test_a_set_with_splits_of_its_own_keeps_them(tmp_path):
    data = read_set("simulated", make_folder(tmp_path / "simulated"), 32)
    found = divide(data, "segmentation")
    assert found.way == "index"
    assert (len(found.train), len(found.validation), len(found.test)) == (14, 3, 3)


def test_a_set_that_names_no_validation_gets_one_out_of_its_training_groups():
    groups = [f"p{i // 2}" for i in range(60)]
    data = labelled(groups, ["a", "b"] * 30, ["train"] * 40 + ["test"] * 20)
    found = divide(data, "classification")
    assert found.way == "index, validation by seed 0"
    assert found.test.tolist() == list(range(40, 60))
    assert sorted([*found.train, *found.validation]) == list(range(40))
    assert 6 <= len(found.validation) <= 10
    assert not {groups[row] for row in found.train} & {groups[row] for row in found.validation}


def test_a_set_whose_index_calls_everything_training_is_divided_by_seed():
    data = labelled([f"p{i}" for i in range(50)], ["a"] * 50, ["train"] * 50)
    assert divide(data, "segmentation").way == "seed 0"


def test_a_fraction_stops_at_the_group_that_is_nearest():
    data = labelled([f"video{i // 100}" for i in range(1000)], ["a"] * 1000)
    counts = [len(labelled_part(data, np.arange(1000), fraction)) for fraction in (0.01, 0.24, 0.26)]
    assert counts == [100, 200, 300]


def test_a_seeded_split_is_the_same_again_and_another_with_another_seed():
    data = labelled([f"p{i}" for i in range(100)], ["a"] * 50 + ["b"] * 50)
    first, again, other = (divide(data, "segmentation", "seed", seed) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    np.testing.assert_array_equal(first.test, again.test)


def test_the_papers_splits_are_found_under_the_names_of_both_copies_of_busi(shared):
    data = read_set("busi", shared / "data/frames/busi", 32)
    classes = divide(data, "classification")
    assert (classes.way, len(classes.test)) == ("paper", 157)
    counts = [[data.labels[row] for row in classes.test].count(name) for name in ("normal", "benign", "malignant")]
    assert counts == [27, 88, 42]
    masks = divide(data, "segmentation")
    assert (masks.way, len(masks.train), len(masks.validation), len(masks.test)) == ("paper", 546, 156, 78)


def test_ddti_is_divided_by_case(shared):
    data = read_set("ddti", shared / "data/raw/ddti", 32)
    found = divide(data, "segmentation")
    assert found.way == "paper"
    cases = [{data.groups[row] for row in rows.tolist()} for rows in (found.train, found.validation, found.test)]
    assert not cases[0] & cases[1] and not cases[0] & cases[2] and not cases[1] & cases[2]


def test_a_paper_split_of_other_data_is_refused():
    with pytest.raises(DatasetError, match="no paper split of made"):
        divide(labelled("pqr", "aab"), "segmentation", "paper")
