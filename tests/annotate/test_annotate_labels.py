"""Labels of frames: kept exactly, and by rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from labels_case import ACCEPTED, CLASSES, EDITED, FRAME, LABELS, OTHER, PREDICTED, PROPAGATED, SKIPPED, mask_of, square
from numpy.typing import NDArray

from sonodistill.annotate.errors import (
    ConflictError,
    InvalidLabelError,
    UnknownIdError,
)
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import MODEL, Status


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    opened = LabelStore(tmp_path / "labels.sqlite", LABELS, CLASSES)
    yield opened
    opened.close()


# What is kept


def test_a_label_comes_back_with_all_that_was_said(store: LabelStore) -> None:
    info = {"client": "test", "clicks": [[1, 2.5], [3, 4]], "undo": None, "kept": True}
    saved = store.save(
        *(FRAME, square(2)),
        status=EDITED,
        annotator="anna",
        shape=(40, 60),
        classification="benign",
        model="interactive 3",
        confidence=0.75,
        info=info,
    )
    label = store.get(FRAME)
    assert label is not None and label.row == saved and label.mask is not None
    assert label.mask.dtype == np.uint8
    assert (label.mask == square(2)).all()
    assert (saved.shape, saved.pixels, saved.info) == ((40, 60), 400, info)
    assert (saved.classification, saved.model, saved.confidence, saved.revision) == ("benign", "interactive 3", 0.75, 1)


SIDES = arrays.array_shapes(min_dims=2, max_dims=2, max_side=70)
WHOLE = st.sampled_from([np.uint8, np.int8, np.int16, np.uint16, np.int64, np.uint64])
MASKS = arrays.arrays(np.bool_, SIDES) | arrays.arrays(WHOLE, SIDES, elements=st.integers(0, 2))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MASKS, st.booleans())
def test_any_mask_comes_back_exactly(store: LabelStore, mask: NDArray, turned: bool) -> None:
    given = mask.T if turned else mask  # not contiguous
    store.save(FRAME, given, status=EDITED, annotator="anna")
    assert (mask_of(store, FRAME) == given.astype(np.uint8)).all()


def test_an_empty_mask_is_a_label(store: LabelStore) -> None:
    row = store.save(FRAME, np.zeros((40, 60), np.uint8), status=ACCEPTED, annotator="anna")
    assert row.pixels == 0
    assert not mask_of(store, FRAME).any()


def test_a_class_alone_is_a_label(store: LabelStore) -> None:
    store.save(FRAME, None, status=ACCEPTED, annotator="anna", classification="malignant")
    label = store.get(FRAME)
    assert label is not None and label.mask is None and label.row.classification == "malignant"


def test_a_frame_that_nobody_labelled_has_no_label(store: LabelStore) -> None:
    store.save(FRAME, square(), status=ACCEPTED, annotator="anna")
    assert store.get(OTHER) is None
    assert store.get(FRAME, "bert") is None
    assert store.status_of("clip-1") == {3: ACCEPTED}


def test_labels_outlive_the_store(tmp_path: Path) -> None:
    first = LabelStore(tmp_path / "labels.sqlite", LABELS, CLASSES)
    first.save(FRAME, square(), status=ACCEPTED, annotator="anna")
    first.close()
    second = LabelStore(tmp_path / "labels.sqlite", LABELS, CLASSES)
    assert (mask_of(second, FRAME) == square()).all()
    assert second.revision() == 1
    second.close()


def test_what_was_replaced_is_history(store: LabelStore) -> None:
    store.save(FRAME, square(size=5), status=PREDICTED, annotator=MODEL, confidence=0.4)
    store.save(FRAME, square(size=6), status=EDITED, annotator="anna")
    store.save(FRAME, square(size=7), status=ACCEPTED, annotator="anna")
    assert [(row.status, row.pixels) for row in store.history(FRAME)] == [(PREDICTED, 25), (EDITED, 36), (ACCEPTED, 49)]
    assert [row.pixels for row in store.rows(frame=FRAME)] == [49, 25]
    assert mask_of(store, FRAME).sum() == 49


def test_rows_are_chosen_by_all_that_is_asked(store: LabelStore) -> None:
    store.save(FRAME, square(), status=ACCEPTED, annotator="anna")
    store.save(FRAME, square(), status=EDITED, annotator="bert")
    store.save(OTHER, None, status=SKIPPED, annotator="bert")
    store.save(FrameId("clip-2", 0), square(), status=PREDICTED, annotator=MODEL)
    assert [str(row.frame) for row in store.rows()] == [
        *("clip-1.f00003", "clip-1.f00003", "clip-1.f00004", "clip-2.f00000"),
    ]
    assert len(store.rows(item="clip-1")) == 3
    assert [row.annotator for row in store.rows(frame=FRAME)] == ["anna", "bert"]
    assert [row.frame for row in store.rows(status=SKIPPED)] == [OTHER]
    assert len(store.rows(status=[SKIPPED, EDITED], annotator="bert")) == 2
    assert store.rows(status=[]) == []
    assert store.rows(item="clip-1", status="predicted") == []  # type: ignore[arg-type]
    assert store.counts() == {"accepted": 1, "edited": 0, "skipped": 1, "propagated": 0, "predicted": 1}
    with pytest.raises(InvalidLabelError):
        store.rows(status="final")  # type: ignore[arg-type]


def test_the_best_label_is_a_persons_and_the_newest(store: LabelStore) -> None:
    store.save(FRAME, square(size=3), status=PREDICTED, annotator=MODEL)
    assert store.status_of("clip-1") == {3: PREDICTED}
    store.save(FRAME, square(size=4), status=PROPAGATED, annotator="anna")
    assert mask_of(store, FRAME).sum() == 16
    store.save(FRAME, None, status=SKIPPED, annotator="cora")
    assert store.status_of("clip-1") == {3: SKIPPED}
    store.save(FRAME, square(size=5), status=EDITED, annotator="bert")
    store.save(FRAME, square(size=6), status=EDITED, annotator="anna")
    assert mask_of(store, FRAME).sum() == 36
    store.save(FRAME, square(size=7), status=ACCEPTED, annotator="bert")
    assert mask_of(store, FRAME).sum() == 49
    assert mask_of(store, FRAME, "anna").sum() == 36
    assert mask_of(store, FRAME, MODEL).sum() == 9
    assert store.counts()["accepted"] == 1


def test_the_revision_grows_with_every_write_of_any_kind(store: LabelStore) -> None:
    seen = [store.revision()]
    for write in (
        lambda: store.save(FRAME, square(), status=EDITED, annotator="anna"),
        lambda: store.mark(FRAME, ACCEPTED, "anna"),
        lambda: store.remove(FRAME, "anna"),
        lambda: store.mark(FRAME, SKIPPED, "anna"),
    ):
        write()
        seen.append(store.revision())
    assert seen == sorted(set(seen))


# Rules


@pytest.mark.parametrize("status", [ACCEPTED, EDITED, SKIPPED])
def test_a_model_decides_nothing(store: LabelStore, status: Status) -> None:
    mask = None if status is SKIPPED else square()
    with pytest.raises(InvalidLabelError, match="model cannot"):
        store.save(FRAME, mask, status=status, annotator=MODEL)
    store.save(FRAME, square(), status=PREDICTED, annotator=MODEL)
    with pytest.raises(InvalidLabelError):
        store.mark(FRAME, status, MODEL)
    assert [row.status for row in store.rows()] == [PREDICTED]


@pytest.mark.parametrize("said", [ACCEPTED, EDITED, SKIPPED])
@pytest.mark.parametrize("predicted", [PREDICTED, PROPAGATED])
@pytest.mark.parametrize("by", ["anna", MODEL])
def test_no_prediction_replaces_what_a_person_said(store: LabelStore, said: Status, predicted: Status, by: str) -> None:
    kept = store.save(FRAME, None if said is SKIPPED else square(), status=said, annotator="anna")
    with pytest.raises(ConflictError, match="no prediction"):
        store.save(FRAME, square(2), status=predicted, annotator=by)
    assert store.rows() == [kept]
    assert store.revision() == kept.revision


def test_a_propagation_for_one_person_stands_beside_what_another_said(store: LabelStore) -> None:
    store.save(FRAME, square(1), status=ACCEPTED, annotator="anna")
    store.save(FRAME, square(2), status=PROPAGATED, annotator="bert")
    assert mask_of(store, FRAME).max() == 1
    assert mask_of(store, FRAME, "bert").max() == 2


def test_predictions_replace_predictions_and_people_replace_both(store: LabelStore) -> None:
    store.save(FRAME, square(1), status=PREDICTED, annotator=MODEL)
    store.save(FRAME, square(2), status=PREDICTED, annotator=MODEL)
    assert mask_of(store, FRAME).max() == 2
    store.save(FRAME, square(1), status=PROPAGATED, annotator="anna")
    store.save(FRAME, square(2), status=ACCEPTED, annotator="anna")
    store.save(FRAME, square(1), status=EDITED, annotator="anna")
    assert store.status_of("clip-1") == {3: EDITED}


def test_accepting_takes_over_what_the_model_drew(store: LabelStore) -> None:
    store.save(FRAME, square(2), status=PREDICTED, annotator=MODEL, model="segmentation 4", confidence=0.8)
    row = store.mark(FRAME, ACCEPTED, "anna", classification="benign")
    assert (row.annotator, row.status, row.model, row.confidence) == ("anna", ACCEPTED, "segmentation 4", 0.8)
    assert row.classification == "benign"
    assert (mask_of(store, FRAME, "anna") == square(2)).all()
    assert (mask_of(store, FRAME, MODEL) == square(2)).all()


def test_accepting_prefers_ones_own_label(store: LabelStore) -> None:
    store.save(FRAME, square(1), status=EDITED, annotator="anna")
    store.save(FRAME, square(2), status=ACCEPTED, annotator="bert")
    store.mark(FRAME, ACCEPTED, "anna")
    assert mask_of(store, FRAME, "anna").max() == 1


def test_a_skipped_frame_can_be_accepted_after_all(store: LabelStore) -> None:
    store.save(FRAME, square(2), status=PREDICTED, annotator=MODEL)
    store.mark(FRAME, SKIPPED, "anna")
    label = store.get(FRAME)
    assert label is not None and label.mask is None and label.row.status is SKIPPED
    store.mark(FRAME, ACCEPTED, "anna")
    assert mask_of(store, FRAME).max() == 2


def test_there_is_nothing_to_accept_where_nothing_was_drawn(store: LabelStore) -> None:
    with pytest.raises(UnknownIdError, match="no label to accept"):
        store.mark(FRAME, ACCEPTED, "anna")
    store.mark(FRAME, SKIPPED, "anna")
    with pytest.raises(UnknownIdError):
        store.mark(FRAME, ACCEPTED, "anna")
    store.mark(FRAME, ACCEPTED, "anna", classification="normal")
    assert store.counts()["accepted"] == 1


@pytest.mark.parametrize("status", [PREDICTED, PROPAGATED])
def test_people_mark_nothing_as_predicted(store: LabelStore, status: Status) -> None:
    store.save(FRAME, square(), status=EDITED, annotator="anna")
    with pytest.raises(InvalidLabelError, match="only people"):
        store.mark(FRAME, status, "anna")


def test_a_label_that_is_newer_than_the_one_seen_is_not_overwritten(store: LabelStore) -> None:
    first = store.save(FRAME, square(1), status=EDITED, annotator="anna", expect_revision=0)
    second = store.save(FRAME, square(2), status=EDITED, annotator="anna", expect_revision=first.revision)
    with pytest.raises(ConflictError, match="again since"):
        store.save(FRAME, square(1), status=EDITED, annotator="anna", expect_revision=first.revision)
    with pytest.raises(ConflictError):
        store.mark(FRAME, ACCEPTED, "anna", expect_revision=first.revision)
    assert store.rows() == [second]
    # Another one's label, or one of another frame, is no conflict.
    store.save(FRAME, square(1), status=EDITED, annotator="bert", expect_revision=first.revision)
    store.save(OTHER, square(1), status=EDITED, annotator="anna", expect_revision=0)


def test_no_label_is_accepted_unseen(store: LabelStore) -> None:
    seen = store.save(FRAME, square(1), status=PREDICTED, annotator=MODEL)
    store.save(FRAME, square(2), status=PREDICTED, annotator=MODEL)
    with pytest.raises(ConflictError):
        store.mark(FRAME, ACCEPTED, "anna", expect_revision=seen.revision)


def test_no_label_of_another_size_is_accepted(store: LabelStore) -> None:
    store.save(FRAME, square(size=20), status=EDITED, annotator="anna")
    with pytest.raises(ConflictError, match="another size"):
        store.mark(FRAME, ACCEPTED, "anna", shape=(24, 20))
    assert store.mark(FRAME, ACCEPTED, "anna", shape=square().shape).status is ACCEPTED
    assert store.mark(FRAME, SKIPPED, "anna", shape=(24, 20)).status is SKIPPED


def test_what_is_taken_back_stays_in_the_history(store: LabelStore) -> None:
    store.save(FRAME, square(1), status=PREDICTED, annotator=MODEL)
    store.save(FRAME, square(2), status=ACCEPTED, annotator="anna")
    store.remove(FRAME, "anna")
    assert store.status_of("clip-1") == {3: PREDICTED}
    assert len(store.history(FRAME)) == 2
    with pytest.raises(UnknownIdError):
        store.remove(FRAME, "anna")
