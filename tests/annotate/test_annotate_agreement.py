"""How far annotators agree, compared with scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, f1_score

from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.agreement import agreement, cohen_kappa, dice_of
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import MODEL, Status

LABELS, CLASSES = ("lesion", "needle"), ("normal", "benign", "malignant")
PEOPLE = Status.ACCEPTED, Status.EDITED


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    opened = LabelStore(tmp_path / "labels.sqlite", LABELS, CLASSES)
    yield opened
    opened.close()


def blob(seed: int, value: int = 1) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:48, :64]
    y, x, radius = np.random.default_rng(seed).uniform((16, 20, 8), (32, 44, 14))
    return (value * ((rows - y) ** 2 + (columns - x) ** 2 < radius**2)).astype(np.uint8)


def accept(store: LabelStore, item: str, index: int, name: str, mask: NDArray | None, kind: str = "") -> None:
    store.save(FrameId(item, index), mask, status=Status.ACCEPTED, annotator=name, classification=kind)


@given(
    arrays.arrays(np.uint8, (6, 7), elements=st.integers(0, 3)),
    arrays.arrays(np.uint8, (6, 7), elements=st.integers(0, 3)),
)
def test_dice_is_the_f1_score_of_scikit_learn(a: NDArray, b: NDArray) -> None:
    expected = f1_score(a.ravel(), b.ravel(), labels=[1, 2, 3], average=None, zero_division=np.nan)
    np.testing.assert_allclose(dice_of(a, b, 3), expected, rtol=1e-12)


@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=30))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    found = cohen_kappa(pairs)
    if len({name for pair in pairs for name in pair}) == 1:
        assert found is None  # chance alone agrees always
    else:
        expected = cohen_kappa_score([one for one, _ in pairs], [other for _, other in pairs])
        assert found is not None and math.isclose(found, expected, abs_tol=1e-12)


def test_every_pair_of_annotators_is_compared_on_the_frames_they_share(store: LabelStore) -> None:
    for item in range(4):
        for index in range(3):
            for number, name in enumerate(("anna", "bert")):
                accept(store, f"clip-{item}", index, name, blob(10 * item + index + 100 * number), CLASSES[item % 2])
    accept(store, "clip-0", 0, "cora", blob(7), "benign")
    accept(store, "clip-9", 0, "anna", blob(7), "benign")
    found = {pair.annotators: pair for pair in agreement(store)}
    assert set(found) == {("anna", "bert"), ("anna", "cora"), ("bert", "cora")}
    both = found["anna", "bert"]
    scores = [
        f1_score(blob(10 * item + index).ravel(), blob(10 * item + index + 100).ravel())
        for item in range(4)
        for index in range(3)
    ]
    overlap = both.dice["lesion"]
    assert (both.frames, overlap.frames, both.classified, both.unlike) == (12, 12, 12, 0)
    assert overlap.mean == pytest.approx(np.mean(scores))
    assert overlap.interval is not None
    assert overlap.interval[0] <= overlap.mean <= overlap.interval[1]
    assert both.kappa == 1
    assert found["anna", "cora"].frames == 1
    assert found["anna", "cora"].kappa == 0  # normal against benign, once


def test_the_interval_is_that_of_whole_items(store: LabelStore) -> None:
    scores = []
    for item in range(6):
        for index in range(20):  # alike, as the frames of a cine are
            accept(store, f"clip-{item}", index, "anna", blob(item))
            accept(store, f"clip-{item}", index, "bert", blob(item + 50))
        scores.append(float(dice_of(blob(item), blob(item + 50), 1)[0]))
    (pair,) = agreement(store)
    low, high = pair.dice["lesion"].interval or (0, 0)
    draws = np.random.default_rng(1).choice(scores, (4000, 6)).mean(axis=1)
    assert (low, high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])), abs=0.02)


def test_frames_without_a_label_are_counted_apart_from_its_dice(store: LabelStore) -> None:
    nothing = np.zeros((48, 64), np.uint8)
    for item, (one, other) in enumerate(
        [(blob(1), blob(1)), (nothing, nothing), (blob(2), nothing), (blob(3), blob(3))]
    ):
        accept(store, f"still-{item}", 0, "anna", one)
        accept(store, f"still-{item}", 0, "bert", other)
    (pair,) = agreement(store)
    lesion, needle = pair.dice["lesion"], pair.dice["needle"]
    assert (pair.frames, lesion.frames, lesion.both_empty) == (4, 3, 1)
    assert lesion.mean == pytest.approx(2 / 3)
    assert (needle.frames, needle.both_empty, needle.mean, needle.interval) == (0, 4, None, None)


def test_one_item_says_nothing_of_how_far_the_mean_may_be_off(store: LabelStore) -> None:
    for index in range(5):
        accept(store, "clip-1", index, "anna", blob(index))
        accept(store, "clip-1", index, "bert", blob(index + 9))
    (pair,) = agreement(store)
    assert pair.dice["lesion"].mean is not None
    assert pair.dice["lesion"].interval is None


def test_only_accepted_labels_count_unless_others_are_asked_for(store: LabelStore) -> None:
    frame = FrameId("still-1", 0)
    store.save(frame, blob(1), status=Status.PREDICTED, annotator=MODEL)
    accept(store, "still-1", 0, "anna", blob(1))
    store.save(frame, blob(2), status=Status.EDITED, annotator="bert")
    store.mark(frame, Status.SKIPPED, "cora")
    assert agreement(store) == []
    assert [pair.annotators for pair in agreement(store, statuses=PEOPLE)] == [("anna", "bert")]
    assert len(agreement(store, statuses=tuple(Status))) == 6


def test_masks_of_other_sizes_are_counted_and_not_compared(store: LabelStore) -> None:
    accept(store, "still-1", 0, "anna", blob(1))
    accept(store, "still-1", 0, "bert", blob(1)[:-1])
    (pair,) = agreement(store)
    assert (pair.frames, pair.unlike, pair.dice["lesion"].mean) == (0, 1, None)


def test_classes_alone_give_a_kappa(store: LabelStore) -> None:
    given = [("normal", "normal"), ("benign", "malignant"), ("benign", "benign"), ("malignant", "malignant")]
    for item, (one, other) in enumerate(given):
        accept(store, f"still-{item}", 0, "anna", None, one)
        accept(store, f"still-{item}", 0, "bert", None, other)
    accept(store, "still-9", 0, "anna", blob(1), "normal")
    accept(store, "still-9", 0, "bert", blob(1))
    (pair,) = agreement(store)
    assert (pair.frames, pair.classified) == (1, 4)
    assert pair.kappa == pytest.approx(cohen_kappa_score([a for a, _ in given], [b for _, b in given]))


def test_a_store_without_labels_has_no_pairs(store: LabelStore) -> None:
    assert agreement(store) == []
